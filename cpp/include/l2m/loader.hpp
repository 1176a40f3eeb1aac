#pragma once

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "l2m/base/max_count.hpp"
#include "l2m/data/field.hpp"
#include "l2m/loader_state.hpp"
#include "l2m/loss/class_loss.hpp"
#include "l2m/loss/window.hpp"
#include "l2m/mixing/policy.hpp"
#include "l2m/plan/class_index.hpp"
#include "l2m/run/batch_destination.hpp"
#include "l2m/run/prefetcher.hpp"

namespace l2m {

/// An update of the proportions.
struct UpdateRecord {
  std::uint64_t epoch;
  std::uint64_t total_step;              ///< batches consumed when it was due
  std::span<const double> proportions;   ///< [K] the new ones
  std::span<const double> class_losses;  ///< [K] with which they were made
  std::span<const std::int64_t> counts;  ///< [K] losses recorded in the window
};

struct LoaderOptions {
  std::shared_ptr<const ClassIndex> index;
  Fields fields;
  std::shared_ptr<const Policy> mixing;  ///< null: Proportional
  std::string mixing_name = "the mixing policy";
  std::int64_t batch_size = 1;  ///< rows of a batch of this rank
  std::int64_t rank = 0;
  std::int64_t world_size = 1;
  bool has_classes = false;  ///< else epochs are passes over the rows, the short last batch included
  bool shuffle = true;
  bool grouped = false;    ///< rows of a batch stay grouped by class
  bool drop_last = false;  ///< without classes: leave out a short last batch
  std::optional<std::int64_t> steps_per_epoch;
  std::optional<std::uint64_t> total_steps;  ///< of the training, for policies that want to know
  std::optional<std::int64_t> update_every;  ///< steps of a window of losses; nothing: an epoch
  std::int64_t lookahead = 0;                ///< batches taken beyond the one whose losses are recorded
  std::optional<std::uint64_t> seed;
  std::function<std::uint64_t()> draw_seed;  ///< where there is no seed: called once, before anything is random
  int prefetch = 4;
  int num_threads = 0;
  std::shared_ptr<BatchDestination> destination;     ///< null: memory of the process
  std::function<void(LossSums&)> all_reduce;         ///< sums over all ranks; null: there is nothing to sum
  std::function<void()> check;                       ///< called before an epoch begins: checks the data
  std::function<void(const std::string&)> warn;      ///< null: nobody is told
  std::function<void(const UpdateRecord&)> observe;  ///< called after each update
};

/// What asks a loader for batches.
struct Iteration {
  std::uint64_t number;  ///< the newest one that asked has the loader
  bool forever;          ///< beyond the end of its epoch
};

/// The whole loader: epochs, windows of losses, proportions that follow them, batches made ahead, and what a saved state holds.
///
/// A batch is handed over in steps, so that a caller who holds a lock need not hold it while it waits:
///
///     if (!loader.prepare(iteration)) break;          // the epoch has ended
///     while (!loader.wait(50ms)) {}                   // for the batch
///     while (!(batch = loader.take())) loader.wait(50ms);
///     loader.commit();                                // it is consumed
///
/// or by next(). Whatever is thrown leaves the loader as it was before the call or after it. One thread at a time may call.
class Loader {
 public:
  /// @throws std::invalid_argument  options do not fit together.  @throws NoThread
  explicit Loader(LoaderOptions options);
  ~Loader();
  Loader(const Loader&) = delete;
  Loader& operator=(const Loader&) = delete;

  // ---- iteration

  /// Batches of an epoch of this rank.
  [[nodiscard]] std::int64_t size() const { return own_steps_; }
  /// A new iteration, which begins the next epoch, or goes on in a restored one, when it is first asked for a batch.
  /// @param forever  then it goes on with the epoch after that, and so on.
  /// @throws std::invalid_argument  it cannot: windows are epochs and lookahead > 0, or this rank never has rows.
  Iteration iterate(bool forever = false);
  /// Does what is due before the next batch. Returns false where the epoch has ended.
  /// @throws std::runtime_error  a newer iteration or load() took the place of this one, or the loader is closed.
  bool prepare(const Iteration& iteration);
  /// Waits for the batch, `timeout` at most (0: only looks). Returns whether it is there.
  bool wait(std::chrono::milliseconds timeout) { return prefetcher_->wait(timeout); }
  /// The batch, for which wait() was true. Without blocks where a destination has it, first of those that were sent.
  /// Nothing: wait again and call this again.
  std::optional<FilledBatch> take();
  /// The rows of the batch, for which wait() was true.
  [[nodiscard]] BatchPlan due() { return prefetcher_->due(); }
  /// Consumes the batch.
  void commit();
  /// Makes what lies ready anew, the batch too.
  void retry();
  /// Drops what lies ready, and stops reading the fields until the next wait().
  void suspend();
  /// All of this. Nothing: the epoch has ended.
  std::optional<FilledBatch> next(const Iteration& iteration);

  // ---- losses

  /// Adds the losses of the rows of a batch, in their order.
  /// @param step  its total step, counted from 0; one of the last lookahead + 1 yielded, by default the last.
  /// @throws std::invalid_argument  the length differs.  @throws std::runtime_error  there is no such batch, or its window is closed.
  template <class Loss>
  void record(std::span<const Loss> losses, std::optional<std::uint64_t> step = {});
  /// Adds losses of given classes.
  template <class Loss, class Class>
  void record(std::span<const Loss> losses, std::span<const Class> classes, std::optional<std::uint64_t> step = {});
  /// Adds sums; of a class whose sum is not finite, neither sum nor count.
  void record(const LossSums& sums, std::optional<std::uint64_t> step = {});
  /// The class of each row of a batch, whose number must be that of the losses. Valid until the next call.
  std::span<const std::int32_t> classes_of(std::optional<std::uint64_t> step, std::size_t num_losses);
  /// Where losses of a batch are added. To be followed by recorded().
  LossSlot& slot(std::optional<std::uint64_t> step);
  void recorded(std::optional<std::uint64_t> step, bool all_finite);

  /// Closes the window, which is the epoch; it acts from the next epoch to begin.
  void update();

  // ---- what there is to see

  [[nodiscard]] std::uint64_t epoch() const;
  [[nodiscard]] std::int64_t step() const;
  [[nodiscard]] std::uint64_t total_step() const { return prefetcher_->total_step(); }
  /// How often batches were begun anew: at the beginning of an epoch and after load().
  [[nodiscard]] std::uint64_t epochs_begun() const { return epochs_begun_; }
  [[nodiscard]] int num_threads() const { return std::max(options_.num_threads, 1); }
  [[nodiscard]] std::optional<std::uint64_t> seed() const { return options_.seed; }
  [[nodiscard]] const std::vector<double>& proportions() const { return prefetcher_->proportions(); }
  /// Last known mean loss of each class; NaN where there was none yet.
  [[nodiscard]] const std::vector<double>& class_losses() const { return class_losses_; }
  /// The rows of a batch as they were yielded, by default of the last. Nothing: none was.
  [[nodiscard]] std::optional<BatchPlan> plan(std::optional<std::uint64_t> step = {}) const {
    return prefetcher_->plan(step);
  }
  /// Has a window that has ended act now, and waits for losses that are elsewhere.
  void settle();

  // ---- state

  /// The run just after the batch `step`, by default the last one with losses, no more than lookahead batches back.
  /// @throws std::invalid_argument  that state is not known any more, or not yet.
  LoaderState state(std::optional<std::uint64_t> step = {});
  /// Goes on from a state at the next iteration. @throws std::invalid_argument  it cannot be a state of this loader; nothing changes.
  void load(LoaderState state);
  /// Makes the next iteration epoch `epoch`; the running one, if any, goes on until then.
  void set_epoch(std::uint64_t epoch);

  /// Stops the threads and frees what was prefetched. Idempotent; batches stay valid.
  void close();
  /// @throws std::runtime_error  the loader is closed.
  void check_usable() const;

 private:
  static constexpr const char* kNotFiniteText =
      "losses that are not finite were recorded; they are left out of the class losses";
  enum Warning : unsigned { kNotFinite = 1, kNegative = 2 };
  struct Epoch {
    std::uint64_t number;
    std::uint64_t began;  // total step
  };
  /// What there is to tell of a window that acted.
  struct Acted {
    std::uint64_t epoch, total_step;
    std::vector<double> class_losses;  // with which the proportions were made
    std::vector<std::int64_t> counts;
    bool updated, all_finite, negative;
    std::string failure;  // of the policy, if any
  };

  void check_options() const;
  void set_steps();
  std::unique_ptr<Prefetcher> make_prefetcher(std::vector<double> proportions) const;
  void lend_memory(std::size_t blocks);
  void draw_seed();

  void begin();
  void check_counts() const;
  void finish_epoch();
  void close_windows();
  void act(bool at_once);
  void tell();
  Policy::Update updated(const LossSums& sums, std::span<const double> known);
  void adopt(const std::vector<double>& proportions);
  void schedule(std::int64_t closed, const std::vector<double>& proportions);
  [[nodiscard]] std::uint64_t plan_until() const;
  void consume_empty();
  bool send_ahead();

  [[nodiscard]] std::int64_t batch_of(std::optional<std::uint64_t> step) const;
  void warn(const std::string& what) const;
  void warn_once(Warning warning, const std::string& what);
  void warn_where_losses_lack();
  void check(const LoaderState& state) const;
  /// Whether the window of an epoch stays open after its end, until the next epoch begins.
  [[nodiscard]] bool stays_open() const { return !options_.update_every && options_.lookahead > 0; }
  /// Whether proportions come into force when a batch is requested, rather than when the one before it was consumed.
  [[nodiscard]] bool adopts_late() const {
    return stays_open() || (options_.lookahead > 0 && options_.lookahead == options_.update_every);
  }
  [[nodiscard]] std::int64_t step_in_epoch() const {
    return ended_ ? steps_ : static_cast<std::int64_t>(total_step() - epoch_began_);
  }
  [[nodiscard]] bool has_ended() const { return !iterating_ && step_in_epoch() == steps_; }

  LoaderOptions options_;
  std::vector<std::int64_t> class_sizes_;
  Policy::Kind kind_ = Policy::Kind::kFixed;
  std::int64_t steps_ = 0;      // batches of an epoch
  std::int64_t own_steps_ = 0;  // of these, the ones in which this rank has rows
  std::int64_t last_batch_rows_ = 0;
  std::vector<std::shared_ptr<LentPool>> pools_;  // of a destination's memory, one for each field
  std::int64_t sent_ = 0;                         // batches that a destination has, from the next on
  bool cautious_ = false;                         // it had no room for several
  std::unique_ptr<Prefetcher> prefetcher_;

  std::uint64_t epoch_ = 0;
  std::uint64_t epoch_began_ = 0;            // total step
  std::deque<Epoch> epochs_;                 // before it, as far as states reach back
  std::optional<std::uint64_t> next_epoch_;  // where it is not the next number
  std::uint64_t iterations_ = 0;             // begun
  std::uint64_t newest_ = 0;                 // of these, the newest that was asked for a batch
  bool iterating_ = false;
  bool ended_ = false;          // the epoch was left, and is finished when the next one begins
  std::uint64_t earliest_ = 0;  // total step before which states are not known
  std::uint64_t epochs_begun_ = 0;
  std::uint64_t run_until_ = 0;              // total step up to which nothing is due before a batch
  std::uint64_t counted_until_ = kMaxCount;  // total step up to which a state can hold what is counted

  OpenWindows windows_;
  std::uint64_t wait_until_ = 0;  // total step at which a window that has ended acts
  std::uint64_t ended_in_ = 0;    // the epoch in which it has
  bool updated_ = false;          // the window of this epoch was closed by update()
  std::uint64_t open_from_ = 0;   // total step from which on the window that is an epoch takes losses
  std::vector<double> next_proportions_, class_losses_, memory_;
  bool policy_failed_ = false;  // on the window that is to act
  std::optional<Acted> untold_;
  bool may_lack_losses_ = false;
  unsigned warned_ = 0;
  std::vector<std::int32_t> classes_;  // of a batch, for record()
  bool closed_ = false;
};

template <class Loss>
void Loader::record(std::span<const Loss> losses, std::optional<std::uint64_t> step) {
  record(losses, classes_of(step, losses.size()), step);
}

template <class Loss, class Class>
void Loader::record(std::span<const Loss> losses, std::span<const Class> classes, std::optional<std::uint64_t> step) {
  LossSums& sums = slot(step).here;
  const std::int64_t skipped = class_loss(losses, classes, sums.sum, sums.count, num_threads());
  recorded(step, skipped == 0);
}

}  // namespace l2m
