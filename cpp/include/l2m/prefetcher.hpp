#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <deque>
#include <memory>
#include <vector>

#include "l2m/block_pool.hpp"
#include "l2m/class_index.hpp"
#include "l2m/gather.hpp"
#include "l2m/sampler.hpp"

namespace l2m {

struct PrefetcherOptions {
  SamplerOptions sampler;
  int prefetch = 4;     ///< batches planned and filled ahead of the consumer
  int num_threads = 0;  ///< threads of the pool used at most; 0: everything happens in the consumer's calls
};

/// A run of consecutive batches of one epoch.
struct EpochRange {
  std::uint64_t epoch = 0;
  std::int64_t first_step = 0;       ///< goes on here
  std::int64_t num_steps = 0;        ///< of the whole epoch
  std::int64_t last_batch_rows = 0;  ///< global rows of the last batch; the others have options.sampler.global_batch
};

/// Plans and fills batches ahead of the consumer, in order; a stage of the loop knows nothing of those after it.
///
/// The state is that of what was consumed, whatever lies ready ahead: each slot carries what its batch changed. A
/// batch's error surfaces when that batch is due; the same batch is tried again afterwards. A batch is consumed by commit().
///
/// One thread at a time may call; a second one gets std::runtime_error, as does a call after close(). A forked child
/// goes on by itself, with threads of its own.
class Prefetcher {
 public:
  /// @param fields  all with the rows that `index` names, valid as long as the prefetcher lives.
  Prefetcher(std::shared_ptr<const ClassIndex> index, std::vector<Field> fields, std::vector<double> proportions,
             const PrefetcherOptions& options);
  /// Closes.
  ~Prefetcher();
  Prefetcher(const Prefetcher&) = delete;
  Prefetcher& operator=(const Prefetcher&) = delete;

  /// Gives up what lies ready and begins with `range`, from the consumed state.
  ///
  /// @param plan_until  batches of this total_step and later wait for proportions, see schedule().
  void begin(const EpochRange& range, std::uint64_t plan_until);

  /// Says with which proportions (normalised) the batches from total_step `step` on are planned.
  ///
  /// @param step        >= state().total_step, and not yet planned.
  /// @param plan_until  batches of this total_step and later wait for the next call.
  void schedule(std::uint64_t step, std::vector<double> proportions, std::uint64_t plan_until);

  /// Waits for the next batch, `timeout` at most (0: only looks, at once). Returns whether it is there.
  bool wait(std::chrono::milliseconds timeout);

  /// The blocks of the next batch, for which wait() was true: one for each field, of which the rows of the batch are
  /// filled. Throws what went wrong with the batch. The batch is not consumed before commit().
  std::vector<Block> take_blocks();
  /// Rows of the next batch, for which wait() was true.
  std::int64_t num_rows();
  /// Makes what lay ready anew, the next batch too.
  void retry();
  /// Consumes the next batch, for which wait() was true.
  void commit();

  /// The plan of the last batch consumed; empty at first and after set_state().
  [[nodiscard]] const BatchPlan& plan() const;

  /// What was consumed.
  [[nodiscard]] const SamplerState& state() const;
  /// Goes on from `state` at the next begin(). @throws std::invalid_argument  it cannot be one of these data; nothing changes.
  void set_state(SamplerState state);

  /// Drops what lies ready and stops its threads, once a call of another thread has returned. Idempotent; blocks stay
  /// valid, state() too.
  void close();

 private:
  class Pipeline;  // the threads' side: what lies between planning a batch and handing it over
  class Use;       // one call: refuses a second thread, replaces a pipeline that a fork left without threads
  struct Settings {
    std::shared_ptr<const ClassIndex> index;
    std::vector<Field> fields;
    PrefetcherOptions options;
  };
  struct Scheduled {
    std::uint64_t step;
    std::vector<double> proportions;
  };
  void restart();
  void apply_schedule();

  const Settings settings_;
  std::unique_ptr<Pipeline> pipeline_;
  std::atomic<bool> in_use_{false};
  std::atomic<bool> closed_{false};
  std::atomic<int> forks_;

  // The consumer's side; enough to begin a pipeline anew at the next batch.
  SamplerState state_;
  EpochRange range_;
  std::deque<Scheduled> schedule_;  // that acts from batches not yet consumed
  std::uint64_t plan_until_ = 0;
  BatchPlan plan_;
  StateChange change_;
};

}  // namespace l2m
