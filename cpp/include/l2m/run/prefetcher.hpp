#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "l2m/base/threads.hpp"
#include "l2m/plan/batch_plan.hpp"
#include "l2m/run/block_pool.hpp"
#include "l2m/run/pipeline.hpp"

namespace l2m {

/// Prefetcher of batches that keeps the state of what was consumed, however many batches are ready ahead.
///
/// commit() consumes a batch and applies the state changes recorded in its plan. An error surfaces when its batch is
/// due; the same batch is then retried.
///
/// One thread at a time may call; a second one gets std::runtime_error, as does a call after close(). A forked child
/// continues independently, with its own threads.
class Prefetcher {
 public:
  /// @param lookahead       number of batches before the last consumed one whose states and plans are kept.
  /// @param before_changes  state_at() excludes new proportions that take effect at that very step.
  Prefetcher(PipelineOptions options, std::vector<double> proportions, std::int64_t lookahead = 0,
             bool before_changes = false);
  /// Close the prefetcher.
  ~Prefetcher();
  Prefetcher(const Prefetcher&) = delete;
  Prefetcher& operator=(const Prefetcher&) = delete;

  /// Drop the prefetched batches and start on `range` from the consumed state.
  ///
  /// @param plan_until  batches from this total_step on wait for proportions, see schedule().
  void begin(const EpochRange& range, std::uint64_t plan_until);

  /// Set the proportions (normalized) of the batches from total_step `step` on.
  ///
  /// @param step        >= total_step(), not planned yet.
  /// @param plan_until  batches from this total_step on wait for the next call.
  /// @throws std::invalid_argument  the proportions are invalid for these classes; nothing changes.
  void schedule(std::uint64_t step, std::vector<double> proportions, std::uint64_t plan_until);

  /// Wait for the next batch for at most `timeout` (0: poll). Return whether it is ready.
  bool wait(std::chrono::milliseconds timeout);

  /// Return whether the batch `ahead` of the next one is ready and without error. Does not block.
  bool ready(std::int64_t ahead);
  /// Take the blocks of the batch `ahead` of the next one, for which wait() or ready() returned true: one per field,
  /// with the rows of the batch filled. Throws the error of the batch, if any. commit() consumes the batch.
  /// @param spare  blocks that are not needed anymore; their memory is used for a later batch.
  std::vector<Block> take_blocks(std::int64_t ahead = 0, std::vector<Block> spare = {});
  /// Return the number of rows of the batch `ahead` of the next one, for which wait() or ready() returned true.
  std::int64_t num_rows(std::int64_t ahead = 0);
  /// Return the plan of the next batch, for which wait() returned true.
  [[nodiscard]] BatchPlan due();
  /// Drop the prefetched batches, including the next one, and stop copying. The next wait() prepares them again.
  void suspend();
  /// Consume the next batch, for which wait() returned true.
  void commit();
  /// Consume a batch that follows the range of begin() and has rows on other ranks only. Requires a single class.
  /// @param pass  pass that the batch begins, if any.
  void commit_empty(std::int64_t global_rows, std::optional<std::uint64_t> pass);

  /// Return the plan of batch `step`, one of the last lookahead + 1 consumed batches with rows; default: the last one.
  /// Returns nullopt if there is none. Valid until the next call.
  [[nodiscard]] std::optional<BatchPlan> plan(std::optional<std::uint64_t> step = {}) const;
  /// Return the proportions with which the batch of plan() was drawn; empty if there is none. Valid until the next call.
  [[nodiscard]] std::span<const double> proportions_of(std::optional<std::uint64_t> step = {}) const;

  /// Return the step (from 0) of the last batch with rows consumed since the run began or set_state().
  [[nodiscard]] std::optional<std::uint64_t> newest() const {
    return yielded_.empty() ? std::nullopt : std::optional(yielded_.back().step);
  }
  /// Return the number of batches consumed since the beginning of training.
  [[nodiscard]] std::uint64_t total_step() const { return total_step_; }
  /// Return the proportions of the next batch.
  [[nodiscard]] const std::vector<double>& proportions() const { return *proportions_; }
  /// Return the state after `total_step` batches. @param total_step  in [oldest(), total_step()].
  [[nodiscard]] SamplerState state_at(std::uint64_t total_step);
  /// Return the smallest total_step for which state_at() is available.
  [[nodiscard]] std::uint64_t oldest() const;

  /// Resume from `state` at the next begin(). @throws std::invalid_argument  it does not fit the data; nothing changes.
  void set_state(SamplerState state);
  /// Free memory that the next batches compute again, unless there are threads.
  void release_passes();
  /// Make the current state, including proportions that take effect now, the oldest one available.
  void drop_history();
  /// Make every class start a new pass, addressed by `pass`, at the next begin().
  void start_passes(std::uint64_t pass);

  /// Wait until no other thread is in a call, then drop the prefetched batches and stop the threads. Idempotent. Blocks
  /// stay valid, and plan(), proportions() and total_step() may still be called.
  void close();

 private:
  class Use;  // scope of one call: refuses a second thread, and rebuilds the pipeline in a forked child

  /// Consecutive consumed batches.
  struct Consumed {
    std::uint64_t begin, end;                // total steps
    std::shared_ptr<BatchPlans> plans;       // null: one batch that has rows on other ranks only
    std::int64_t index;                      // of the first batch within the plans
    std::int64_t global_rows = 0;            // of a batch without plans
    std::optional<std::uint64_t> pass = {};  // that a batch without plans begins
  };
  struct Yielded {
    std::uint64_t step;
    std::shared_ptr<BatchPlans> plans;
    std::int64_t index;
    std::shared_ptr<const std::vector<double>> proportions;
  };

  [[nodiscard]] const Yielded* yielded(std::optional<std::uint64_t> step) const;
  void restart();
  void advance_state(std::uint64_t total_step);
  void advance(SamplerState& state, std::uint64_t to, bool changes) const;
  void apply_schedule();

  PipelineOptions options_;
  std::unique_ptr<Pipeline> pipeline_;
  const std::uint64_t lookahead_;
  const bool before_changes_;
  Atomic<bool> in_use_{false};
  Atomic<bool> closed_{false};
  Atomic<int> forks_;

  // State from which the pipeline restarts at the next batch:
  SamplerState state_;              // before consumed_ and changed_
  std::vector<Consumed> consumed_;  // since state_
  Schedule changed_;                // proportions that took effect since state_
  std::shared_ptr<const std::vector<double>> proportions_;
  std::uint64_t total_step_ = 0;
  EpochRange range_;
  Schedule schedule_;  // that takes effect at batches not consumed yet
  std::uint64_t plan_until_ = 0;
  std::vector<Yielded> yielded_;  // the last lookahead + 1 batches with rows
  std::vector<std::shared_ptr<BatchPlans>> unneeded_;
  bool suspended_ = false;
};

}  // namespace l2m
