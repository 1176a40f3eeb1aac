#pragma once

#include <algorithm>
#include <chrono>
#include <cstdint>
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

/// One update of the proportions.
struct UpdateRecord {
  std::uint64_t epoch;
  std::uint64_t total_step;              ///< batches consumed when the update was due
  std::span<const double> proportions;   ///< [K] the new proportions
  std::span<const double> class_losses;  ///< [K] class losses that the policy received
  std::span<const std::int64_t> counts;  ///< [K] losses recorded in the window
};

struct LoaderOptions {
  std::shared_ptr<const ClassIndex> index;
  Fields fields;
  std::string described_fields;          ///< describe() of the fields of complete batches; empty: that of `fields`
  std::shared_ptr<const Policy> mixing;  ///< null: Proportional
  std::string mixing_name = "the mixing policy";
  std::int64_t batch_size = 1;  ///< rows per batch on this rank
  std::int64_t rank = 0;
  std::int64_t world_size = 1;
  /// Ranks whose rows each batch lists, one rank after the other, as loaders of these ranks with batch_size /
  /// listed_ranks rows would have them. Needs world_size 1; losses are summed over the ranks as usual.
  std::int64_t listed_ranks = 1;
  bool has_classes = false;  ///< false: an epoch is one pass over the rows, including a short last batch
  bool shuffle = true;
  bool grouped = false;    ///< group the rows of a batch by class
  bool drop_last = false;  ///< without classes: drop a short last batch
  std::optional<std::int64_t> steps_per_epoch;
  std::optional<std::uint64_t> total_steps;  ///< length of the training, for schedules
  std::optional<std::int64_t> update_every;  ///< steps per loss window; nullopt: one window per epoch
  std::int64_t lookahead = 0;                ///< batches the caller may take beyond the one whose losses it records
  std::optional<std::uint64_t> seed;
  std::function<std::uint64_t()> draw_seed;  ///< called once if there is no seed, before the first random draw
  int prefetch = 4;
  int num_threads = 0;
  const Team* team = nullptr;                     ///< copies batches if prefetch is 0, see PipelineOptions
  std::shared_ptr<BatchDestination> destination;  ///< null: host memory
  /// Replaces each value by its sum over all ranks; null: nothing to reduce. The values are integers, and so must be
  /// their sums.
  std::function<void(std::span<double> values)> all_reduce;
  /// Starts the sum that the next all_reduce() returns, without waiting for other ranks; null: all_reduce() starts it.
  /// Called again with the same number if a call was interrupted: starts another sum only for other values.
  std::function<void(std::uint64_t number, std::span<const double> values)> start_all_reduce;
  std::function<void()> check;                       ///< called before an epoch begins, to check the data
  std::function<void(const std::string&)> warn;      ///< null: warnings are dropped
  std::function<void(const UpdateRecord&)> observe;  ///< called after each update
};

/// Handle of one iteration over a loader.
struct Iteration {
  std::uint64_t number;  ///< only the newest iteration that requested a batch may continue
  bool forever;          ///< continue with the next epoch instead of ending
};

/// Data loader: epochs, loss windows, mixing, prefetching and the saved state.
///
/// next() returns the next batch. A caller that must not wait while holding a lock can take the same steps one by one:
///
///     if (!loader.prepare(iteration)) break;          // the epoch has ended
///     while (!loader.wait(50ms)) {}                   // until the batch is ready
///     while (!(batch = loader.take())) loader.wait(50ms);
///     loader.commit();                                // the batch is consumed
///
/// Every call is atomic, even if it throws. Not thread-safe: one call at a time.
class Loader {
 public:
  /// @throws std::invalid_argument  options are inconsistent.  @throws NoThread
  explicit Loader(LoaderOptions options);
  ~Loader();
  Loader(const Loader&) = delete;
  Loader& operator=(const Loader&) = delete;

  // ---- iteration

  /// Return the number of batches per epoch on this rank.
  [[nodiscard]] std::int64_t size() const { return rank_steps_; }
  /// Create an iteration. Its first request for a batch begins the next epoch, or resumes a restored one.
  /// @param forever  continue with the following epochs without end.
  /// @throws std::invalid_argument  forever, and either windows are epochs with lookahead > 0 or this rank has no rows.
  Iteration iterate(bool forever = false);
  /// Do the work that is due before the next batch. Return false if the epoch has ended.
  /// @throws std::runtime_error  a newer iteration or load() replaced this one, or the loader is closed.
  bool prepare(const Iteration& iteration);
  /// Wait for the next batch for at most `timeout` (0: poll). Return whether it is ready.
  bool wait(std::chrono::milliseconds timeout) { return prefetcher_->wait(timeout); }
  /// Take the next batch, for which wait() returned true. Its blocks are empty if it was sent to the destination.
  /// If nullopt, wait and call again.
  std::optional<FilledBatch> take();
  /// Return a batch that is not needed anymore, so that its memory is used for the next ones, that of the list of blocks
  /// too. Optional: without, the blocks return when the batch is destroyed.
  void reuse(FilledBatch batch);
  /// Return the rows of the next batch, for which wait() returned true.
  [[nodiscard]] BatchPlan due() { return prefetcher_->due(); }
  /// Consume the batch.
  void commit();
  /// Discard the prefetched batches, including the next one, and prepare them again.
  void retry();
  /// Discard the prefetched batches and stop reading the fields until the next wait().
  void suspend();
  /// Prepare, wait for, take and commit the next batch. Return nullopt if the epoch has ended.
  std::optional<FilledBatch> next(const Iteration& iteration);

  /// End the epoch after the last batch consumed, as the next iteration does, so that a state has it ended. Its
  /// iterations end. Between epochs, nothing happens.
  void end_epoch();

  // ---- losses

  /// Add the losses of the rows of a batch, in row order.
  /// @param step  total step of the batch, from 0: one of the last lookahead + 1 yielded; default: the last one.
  /// @throws std::invalid_argument  wrong length.  @throws std::runtime_error  unknown batch, or its window is closed.
  template <class Loss>
  void record(std::span<const Loss> losses, std::optional<std::uint64_t> step = {});
  /// Add losses of the given classes.
  template <class Loss, class Class>
  void record(std::span<const Loss> losses, std::span<const Class> classes, std::optional<std::uint64_t> step = {});
  /// Add loss sums and counts.
  void record(const LossSums& sums, std::optional<std::uint64_t> step = {});
  /// Add loss sums and counts [K], skipping classes whose mean is non-finite as a float.
  void record_sums(std::span<const double> sum, std::span<const std::int64_t> count,
                   std::optional<std::uint64_t> step = {});
  /// Return the class of each row of a batch, which must have `num_losses` rows. Valid until the next call.
  std::span<const std::int32_t> classes_of(std::optional<std::uint64_t> step, std::size_t num_losses);
  /// Return the slot to which losses of a batch are added. Call recorded() afterwards.
  LossSlot& slot(std::optional<std::uint64_t> step);
  void recorded(std::optional<std::uint64_t> step, bool all_finite);

  /// Close the window now (windows that are epochs only). It takes effect from the next epoch.
  void update();

  // ---- inspection

  [[nodiscard]] std::uint64_t epoch() const;
  [[nodiscard]] std::int64_t step() const;
  [[nodiscard]] std::uint64_t total_step() const { return prefetcher_->total_step(); }
  /// Return how many times an epoch was begun or resumed.
  [[nodiscard]] std::uint64_t epochs_begun() const { return epochs_begun_; }
  [[nodiscard]] int num_threads() const { return std::max(options_.num_threads, 1); }
  [[nodiscard]] std::int64_t lookahead() const { return options_.lookahead; }
  [[nodiscard]] std::optional<std::uint64_t> seed() const { return options_.seed; }
  [[nodiscard]] const std::vector<std::int64_t>& class_sizes() const { return class_sizes_; }
  [[nodiscard]] const std::vector<double>& proportions() const { return prefetcher_->proportions(); }
  /// Return the last known mean loss of each class; NaN if none is known yet.
  [[nodiscard]] const std::vector<double>& class_losses() const { return class_losses_; }
  /// Return the rows of a yielded batch, by default of the last one; nullopt if there is none.
  [[nodiscard]] std::optional<BatchPlan> plan(std::optional<std::uint64_t> step = {}) const {
    return prefetcher_->plan(step);
  }
  /// Return the proportions with which the batch of plan() was drawn; empty if there is none.
  [[nodiscard]] std::span<const double> batch_proportions(std::optional<std::uint64_t> step = {}) const {
    return prefetcher_->proportions_of(step);
  }
  /// Apply the closed window that is still pending, if any. Waits for losses on a device.
  void apply_pending();

  // ---- state

  /// Return the state just after batch `step`; default: the last batch with losses, at most lookahead batches back.
  /// @throws std::invalid_argument  the state after that batch is not available.
  LoaderState state(std::optional<std::uint64_t> step = {});
  /// Resume from one state, or from those of all ranks, at the next iteration.
  /// @throws std::invalid_argument  they do not fit; nothing changes.
  void load(std::vector<LoaderState> states);
  void load(LoaderState state);
  /// Return the data, options and policy by value. The first call reads the class of every row.
  const Fingerprint& fingerprint();
  /// Make the next iteration start epoch `epoch`; a running epoch continues until then.
  void set_epoch(std::uint64_t epoch);

  /// Stop the threads and free prefetched batches. Idempotent; batches in use stay valid.
  void close();
  /// @throws std::runtime_error  the loader is closed.
  void check_usable() const;

 private:
  static constexpr const char* kNonFiniteText =
      "non-finite losses were recorded; they are excluded from the class losses";
  enum Warning : unsigned { kNonFinite = 1, kNegative = 2 };
  struct Epoch {
    std::uint64_t number;
    std::uint64_t began;  // total step
  };
  /// Window that was applied and not yet reported to the observer.
  struct AppliedWindow {
    std::uint64_t epoch, total_step;
    std::vector<double> class_losses;  // used for the proportions
    std::vector<std::int64_t> counts;
    bool updated, all_finite, negative;
    std::string failure;  // of the policy, if any
  };

  void check_options() const;
  [[nodiscard]] std::int64_t num_ranks() const { return options_.world_size * options_.listed_ranks; }
  void set_steps();
  std::unique_ptr<Prefetcher> make_prefetcher(std::vector<double> proportions) const;
  void lend_memory(std::size_t blocks);
  void draw_seed();

  void begin();
  void check_counts() const;
  void finish_epoch();
  void close_windows();
  [[nodiscard]] bool arrives_later() const;
  void apply_window(bool at_once);
  void report_applied();
  void run_policy(const LossSums& sums, std::span<const double> known, std::span<double> proportions,
                  std::span<double> memory);
  void apply_proportions(const std::vector<double>& proportions);
  void schedule(std::int64_t closed, const std::vector<double>& proportions);
  [[nodiscard]] std::uint64_t plan_until() const;
  void consume_empty();
  bool send_ahead();

  [[nodiscard]] std::int64_t batch_of(std::optional<std::uint64_t> step) const;
  void warn(const std::string& what) const;
  void warn_once(Warning warning, const std::string& what);
  void warn_if_losses_are_missing();
  void check(const LoaderState& state) const;
  /// Return whether the window of an epoch stays open until the next epoch begins.
  [[nodiscard]] bool window_stays_open() const { return !options_.update_every && options_.lookahead > 0; }
  /// Return whether proportions take effect when a batch is requested, not when the one before it is consumed.
  [[nodiscard]] bool applies_on_request() const {
    return window_stays_open() || (options_.lookahead > 0 && options_.lookahead == options_.update_every);
  }
  [[nodiscard]] std::int64_t step_in_epoch() const {
    return ended_ ? steps_ : static_cast<std::int64_t>(total_step() - epoch_began_);
  }
  [[nodiscard]] bool epoch_has_ended() const { return !iterating_ && step_in_epoch() == steps_; }

  LoaderOptions options_;
  std::vector<std::int64_t> class_sizes_;
  Policy::Kind kind_ = Policy::Kind::kFixed;
  std::int64_t steps_ = 0;       // batches per epoch
  std::int64_t rank_steps_ = 0;  // those in which this rank has rows
  bool dropped_step_ = false;  // on fewer ranks, an epoch has another batch, with fewer rows than there are ranks here
  std::int64_t last_batch_rows_ = 0;
  std::vector<std::shared_ptr<LentPool>> pools_;  // memory of the destination, one pool per field
  std::vector<Block> spare_;                      // an empty list from reuse()
  std::int64_t sent_ = 0;                         // batches held by the destination, from the next one on
  bool send_singly_ = false;                      // it had no space for several batches
  std::unique_ptr<Prefetcher> prefetcher_;

  std::uint64_t epoch_ = 0;
  std::uint64_t epoch_began_ = 0;            // total step
  std::vector<Epoch> epochs_;                // earlier epochs, as far back as states are available
  std::optional<std::uint64_t> next_epoch_;  // set_epoch() target, unless it is the next number
  std::uint64_t iterations_ = 0;             // created so far
  std::uint64_t newest_ = 0;                 // the newest one that requested a batch
  bool iterating_ = false;
  bool ended_ = false;          // the epoch has ended and is finished when the next one begins
  std::uint64_t earliest_ = 0;  // total step before which no state is available
  std::uint64_t epochs_begun_ = 0;
  std::uint64_t run_until_ = 0;              // total step until which prepare() has no work
  std::uint64_t counted_until_ = kMaxCount;  // total step until which all counts fit in a state

  OpenWindows windows_;
  std::uint64_t apply_by_ = 0;       // total step at which the pending window is applied at the latest
  std::uint64_t pending_epoch_ = 0;  // epoch in which the pending window was closed
  std::uint64_t reductions_ = 0;     // number of the next sum over all ranks
  bool updated_ = false;             // update() has closed the window of this epoch
  std::uint64_t open_from_ = 0;      // total step from which the window of the epoch accepts losses
  std::vector<double> next_proportions_, class_losses_, memory_;
  bool policy_failed_ = false;  // on the window to be applied next
  std::optional<AppliedWindow> unreported_;
  bool may_miss_losses_ = false;
  unsigned warned_ = 0;
  std::vector<std::int32_t> classes_;  // classes of a batch, for record()
  Fingerprint fingerprint_;            // empty: not requested yet
  bool closed_ = false;
};

template <class Loss>
void Loader::record(std::span<const Loss> losses, std::optional<std::uint64_t> step) {
  record(losses, classes_of(step, losses.size()), step);
}

template <class Loss, class Class>
void Loader::record(std::span<const Loss> losses, std::span<const Class> classes, std::optional<std::uint64_t> step) {
  LossSums& sums = slot(step).host;
  const std::int64_t skipped = class_loss(losses, classes, sums.sum, sums.count, num_threads());
  recorded(step, skipped == 0);
}

}  // namespace l2m
