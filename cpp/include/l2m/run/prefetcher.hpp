#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <deque>
#include <memory>
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
  Prefetcher(PipelineSettings settings, std::vector<double> proportions);
  /// Closes.
  ~Prefetcher();
  Prefetcher(const Prefetcher&) = delete;
  Prefetcher& operator=(const Prefetcher&) = delete;

  /// Takes another seed; before anything was begun.
  void reseed(std::uint64_t seed);

  /// Gives up what lies ready and begins with `range`, from the consumed state.
  ///
  /// @param plan_until  batches of this total_step and later wait for proportions, see schedule().
  void begin(const EpochRange& range, std::uint64_t plan_until);

  /// Says with which proportions (normalised) the batches from total_step `step` on are planned.
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
  /// Makes what lay ready anew, the next batch too.
  void retry();
  /// Drops what lies ready and stops copying. The next wait() makes it anew.
  void suspend();
  /// Consumes the next batch, for which wait() was true.
  void commit();

  /// The plan of the last batch consumed that had rows; empty at first. Valid until the next call.
  [[nodiscard]] BatchPlan plan() const;

  /// Batches consumed since the beginning of training.
  [[nodiscard]] std::uint64_t total_step() const {
    return state_.total_step + static_cast<std::uint64_t>(consumed_ - settled_);
  }
  /// What was consumed.
  [[nodiscard]] const SamplerState& state();
  /// Goes on from `state` at the next begin(). @throws std::invalid_argument  it cannot be one of these data; nothing changes.
  void set_state(SamplerState state);

  /// Drops what lies ready and stops its threads, once a call of another thread has returned. Idempotent; blocks stay
  /// valid, state() too.
  void close();

 private:
  class Use;  // one call: refuses a second thread, replaces a pipeline that a fork left without threads
  void restart();
  void settle();
  void apply_schedule();

  PipelineSettings settings_;
  std::unique_ptr<Pipeline> pipeline_;
  std::atomic<bool> in_use_{false};
  std::atomic<bool> closed_{false};
  std::atomic<int> forks_;

  // Enough to begin a pipeline anew at the next batch.
  SamplerState state_;  // lags behind by the batches [settled_, consumed_) of plans_
  EpochRange range_;
  std::deque<Scheduled> schedule_;  // that acts from batches not yet consumed
  std::uint64_t plan_until_ = 0;
  std::shared_ptr<BatchPlans> plans_;    // of the last batch consumed
  std::shared_ptr<BatchPlans> yielded_;  // of the last one that had rows
  std::int64_t yielded_index_ = 0;
  std::int64_t consumed_ = 0;
  std::int64_t settled_ = 0;
  bool suspended_ = false;
};

}  // namespace l2m
