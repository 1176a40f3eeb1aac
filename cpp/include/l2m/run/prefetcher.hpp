#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <deque>
#include <memory>
#include <optional>
#include <vector>

#include "l2m/plan/batch_plan.hpp"
#include "l2m/run/block_pool.hpp"
#include "l2m/run/pipeline.hpp"

namespace l2m {

/// Hands batches over that a pipeline plans and fills ahead, and keeps the state of what was consumed.
///
/// The state is that of what was consumed, whatever lies ready ahead: the plans of the batches know what each of them
/// changed. A batch's error surfaces when that batch is due; the same batch is tried again afterwards. A batch is
/// consumed by commit().
///
/// One thread at a time may call; a second one gets std::runtime_error, as does a call after close(). A forked child
/// goes on by itself, with threads of its own.
class Prefetcher {
 public:
  /// @param lookahead       batches before the last one consumed whose states and plans are kept.
  /// @param before_changes  state_at() tells the state before proportions that act from then on come into force.
  Prefetcher(PipelineSettings settings, std::vector<double> proportions, std::int64_t lookahead = 0,
             bool before_changes = false);
  /// Closes.
  ~Prefetcher();
  Prefetcher(const Prefetcher&) = delete;
  Prefetcher& operator=(const Prefetcher&) = delete;

  /// Gives up what lies ready and begins with `range`, from the consumed state.
  ///
  /// @param plan_until  batches of this total_step and later wait for proportions, see schedule().
  void begin(const EpochRange& range, std::uint64_t plan_until);

  /// Says with which proportions (normalized) the batches from total_step `step` on are planned.
  ///
  /// @param step        >= total_step(), and not yet planned.
  /// @throws std::invalid_argument  these are no proportions of the classes; nothing changes.
  /// @param plan_until  batches of this total_step and later wait for the next call.
  void schedule(std::uint64_t step, std::vector<double> proportions, std::uint64_t plan_until);

  /// Waits for the next batch, `timeout` at most (0: only looks, at once). Returns whether it is there.
  bool wait(std::chrono::milliseconds timeout);

  /// Whether the batch `ahead` of the next is there, without an error. Never waits.
  bool ready(std::int64_t ahead);
  /// The blocks of the batch `ahead` of the next, for which wait() or ready() was true: one for each field, of which the rows
  /// of the batch are filled. Throws what went wrong with the batch. The batch is not consumed before commit().
  std::vector<Block> take_blocks(std::int64_t ahead = 0);
  /// Rows of the batch `ahead` of the next, for which wait() or ready() was true.
  std::int64_t num_rows(std::int64_t ahead = 0);
  /// The plan of the next batch, for which wait() was true.
  [[nodiscard]] BatchPlan due();
  /// Drops what lies ready, the next batch too, and stops copying. The next wait() makes it anew.
  void suspend();
  /// Consumes the next batch, for which wait() was true.
  void commit();
  /// Consumes a batch after the range that begin() got, of which only other ranks have rows. There is one class.
  /// @param pass  that the batch begins, if any.
  void commit_empty(std::int64_t global_rows, std::optional<std::uint64_t> pass);

  /// The plan of batch `step`, one of the last lookahead + 1 consumed, or by default of the last; those without rows are passed
  /// over. Nothing: there is none. Valid until the next call.
  [[nodiscard]] std::optional<BatchPlan> plan(std::optional<std::uint64_t> step = {}) const;

  /// The last batch consumed that had rows, since the run began or set_state(); counted from 0.
  [[nodiscard]] std::optional<std::uint64_t> newest() const {
    return yielded_.empty() ? std::nullopt : std::optional(yielded_.back().step);
  }
  /// Batches consumed since the beginning of training.
  [[nodiscard]] std::uint64_t total_step() const { return total_step_; }
  /// The proportions of the next batch.
  [[nodiscard]] const std::vector<double>& proportions() const { return proportions_; }
  /// The state when `total_step` batches were consumed. @param total_step  in [oldest(), total_step()].
  [[nodiscard]] SamplerState state_at(std::uint64_t total_step);
  /// The first total_step that state_at() still knows.
  [[nodiscard]] std::uint64_t oldest() const;

  /// Goes on from `state` at the next begin(). @throws std::invalid_argument  it cannot be one of these data; nothing changes.
  void set_state(SamplerState state);
  /// Makes this state the oldest known, with the proportions that act from now on in force.
  void forget_before();
  /// Makes every class start a fresh pass, addressed by `pass`, at the next begin().
  void start_passes(std::uint64_t pass);

  /// Drops what lies ready and stops its threads, once a call of another thread has returned. Idempotent; blocks stay
  /// valid, and plan(), proportions() and total_step() may be called.
  void close();

 private:
  class Use;  // one call: refuses a second thread, replaces a pipeline that a fork left without threads

  /// Consecutive batches that were consumed.
  struct Consumed {
    std::uint64_t begin, end;                // total steps
    std::shared_ptr<BatchPlans> plans;       // null: one batch of which only other ranks have rows
    std::int64_t index;                      // of the first in the plans
    std::int64_t global_rows = 0;            // of a batch without plans
    std::optional<std::uint64_t> pass = {};  // that such a batch begins
  };
  struct Yielded {
    std::uint64_t step;
    std::shared_ptr<BatchPlans> plans;
    std::int64_t index;
  };

  void restart();
  void settle(std::uint64_t total_step);
  void settle_all();
  void advance(SamplerState& state, std::uint64_t to, bool changes) const;
  void apply_schedule();

  PipelineSettings settings_;
  std::unique_ptr<Pipeline> pipeline_;
  const std::uint64_t lookahead_;
  const bool before_changes_;
  std::atomic<bool> in_use_{false};
  std::atomic<bool> closed_{false};
  std::atomic<int> forks_;

  // Enough to begin a pipeline anew at the next batch.
  SamplerState state_;             // lags behind by consumed_ and changed_
  std::deque<Consumed> consumed_;  // since state_
  Schedule changed_;               // proportions that came into force since state_
  std::vector<double> proportions_;
  std::uint64_t total_step_ = 0;
  EpochRange range_;
  Schedule schedule_;  // that acts from batches not yet consumed
  std::uint64_t plan_until_ = 0;
  std::vector<Yielded> yielded_;  // the last lookahead + 1 that had rows
  std::vector<std::shared_ptr<BatchPlans>> unneeded_;
  bool suspended_ = false;
};

}  // namespace l2m
