#pragma once

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <exception>
#include <list>
#include <memory>
#include <mutex>
#include <vector>

#include "l2m/data/field.hpp"
#include "l2m/plan/class_index.hpp"
#include "l2m/plan/sampler.hpp"
#include "l2m/run/block_pool.hpp"
#include "l2m/run/thread_pool.hpp"

namespace l2m {

struct PipelineSettings {
  std::shared_ptr<const ClassIndex> index;
  Fields fields;  ///< all with the rows that `index` names
  SamplerOptions sampler;
  int prefetch = 4;     ///< batches filled ahead of the consumer
  int num_threads = 0;  ///< threads used at most, the waiting consumer being one; 0: everything happens in wait()
  int taken_ahead = 0;  ///< of `prefetch`, batches whose blocks the consumer takes before it consumes them
  /// Memory of the batches, one pool for each field; blocks for max(prefetch, 1) batches at least. Empty: the pipeline makes its own.
  std::vector<std::shared_ptr<BlockPool>> pools = {};
};

/// A run of consecutive batches of one epoch.
struct EpochRange {
  std::uint64_t epoch = 0;
  std::int64_t first_step = 0;       ///< goes on here
  std::int64_t num_steps = 0;        ///< of the whole epoch
  std::int64_t last_batch_rows = 0;  ///< global rows of the last batch; the others have sampler.global_batch
};

/// Proportions (normalized) with which the batches from total_step `step` on are planned.
struct Scheduled {
  std::uint64_t step;
  std::vector<double> proportions;
};
using Schedule = std::list<Scheduled>;  // to move one from a schedule to another cannot fail

/// Plans and fills batches with several threads, and hands them over in order.
///
/// Work is claimed piece by piece, by threads of the pool and by the consumer while it waits: some batches are planned
/// together by one thread at a time, then each is opened (its rows put in order, memory taken) and its chunks are copied
/// by whoever is free. One consumer, which calls all of this.
class Pipeline {
 public:
  /// @param settings  outlives the pipeline.
  explicit Pipeline(const PipelineSettings& settings);
  /// Drops what lies ready; returns when no thread works on it any more.
  ~Pipeline();
  Pipeline(const Pipeline&) = delete;
  Pipeline& operator=(const Pipeline&) = delete;

  [[nodiscard]] const Sampler& sampler() const { return sampler_; }

  /// Gives up what lies ready and begins with `range`, from `state`.
  ///
  /// @param schedule    by step, all of them >= state.total_step.
  /// @param plan_until  batches of this total_step and later wait for extend_schedule().
  void start(const EpochRange& range, const SamplerState& state, const Schedule& schedule, std::uint64_t plan_until);
  void extend_schedule(Scheduled scheduled, std::uint64_t plan_until);
  /// Stops, and refuses a state that cannot be one of these data. @throws std::invalid_argument
  void check(const SamplerState& state);
  /// Returns when nobody plans or fills any more; nothing happens until start().
  void stop();

  /// Waits for the next batch, `timeout` at most (0: only looks, at once). Returns whether it is there.
  bool wait(std::chrono::milliseconds timeout);

  /// A batch and the plans of which it is one.
  struct Batch {
    std::shared_ptr<BatchPlans> plans;
    std::int64_t index = 0;  ///< in the plans
    std::vector<Block> blocks;
    std::exception_ptr error;  ///< instead of the blocks
  };
  /// The batch `ahead` of the next, for which wait() or ready() was true.
  [[nodiscard]] Batch& due(std::int64_t ahead) { return slots_[slot_of(taken_ + ahead)].batch; }
  /// Whether the batch `ahead` of the next is there, without an error.
  [[nodiscard]] bool ready(std::int64_t ahead);
  /// Goes on to the batch after it, and lets go of plans that are no longer needed, so that they can be used again.
  void next(std::vector<std::shared_ptr<BatchPlans>>& unneeded);

 private:
  enum class Stage { kFree, kOpening, kFilling, kReady };
  struct Slot {
    Batch batch;
    Stage stage = Stage::kFree;
    std::int64_t chunks = 0;
    std::int64_t next_chunk = 0;
    std::int64_t unfinished = 0;
  };
  /// Batches that are planned but not all opened.
  struct Planned {
    std::shared_ptr<BatchPlans> plans;
    std::int64_t first_step;
    std::int64_t end_step;
    std::exception_ptr error;  ///< of the first of them
  };
  struct Claim {
    enum class What { kNothing, kPlan, kOpen, kFill, kShuffle } what;
    std::int64_t step = 0;
    std::int64_t chunk = 0;
  };
  enum class Worker { kThread, kConsumer };
  using Lock = std::unique_lock<std::mutex>;

  [[nodiscard]] std::size_t slot_of(std::int64_t step) const { return static_cast<std::size_t>(step % ahead_); }
  [[nodiscard]] bool may_work() const { return !stopping_ && (!lazy_ || waiting_); }
  [[nodiscard]] bool can_plan() const;
  [[nodiscard]] bool can_open() const;
  [[nodiscard]] bool can_fill();
  [[nodiscard]] int pool_threads_wanted() const;

  Claim claim(Worker worker);
  Claim next_claim(Worker worker);
  void run(const Claim& claim, Lock& lock);
  void plan(Lock& lock);
  void open(std::int64_t step, Lock& lock);
  void fill(Slot& slot, std::int64_t chunk, Lock& lock);
  void take_blocks(Batch& batch) const;
  void copy_chunk(const Slot& slot, std::int64_t chunk) const;
  void make_ready(Slot& slot);
  void call_threads(Lock& lock);
  void work();
  std::shared_ptr<BatchPlans> spare_plans();

  const PipelineSettings& settings_;
  const bool lazy_;  // nothing happens ahead of wait()
  const std::int64_t ahead_;
  const int most_busy_;
  const std::int64_t rows_;     // of a batch of this rank, at most
  std::int64_t row_bytes_ = 0;  // of all fields
  std::int64_t row_cost_ = 0;   // likewise
  std::int64_t chunk_rows_ = 1;
  Writes writes_ = Writes::kToCache;
  std::vector<std::shared_ptr<BlockPool>> pools_;  // one a field

  TaskQueue queue_;
  Sampler sampler_;  // used by whoever plans, one at a time

  std::mutex mutex_;  // guards all below, but for the insides of a batch between its claim and its ready
  std::condition_variable changed_;
  std::vector<Slot> slots_;
  std::vector<Planned> planned_;  // two at most
  std::vector<std::shared_ptr<BatchPlans>> all_plans_;
  EpochRange range_;
  Schedule schedule_;
  std::uint64_t plan_until_ = 0;
  std::uint64_t planned_total_step_ = 0;  // of the next batch to plan
  // Steps of the epoch: taken_ <= filled_ <= opened_ <= planned_step_.
  std::int64_t planned_step_ = 0;  // the next to plan
  std::int64_t opened_ = 0;        // the next to open
  std::int64_t filled_ = 0;        // the chunks of those before are all claimed
  std::int64_t taken_ = 0;         // the next to hand over
  bool planning_ = false;
  bool failed_ = false;
  bool stopping_ = false;
  bool waiting_ = false;   // the consumer is in wait(), and takes part
  bool sleeping_ = false;  // the consumer is in wait(), and has to be woken
  bool hurried_ = false;   // the consumer was away for less than kHurry
  int busy_ = 0;           // claims being worked on
  int threads_ = 0;        // of the pool that were called and have not left yet
  unsigned turns_ = 0;
  std::chrono::steady_clock::time_point left_;  // when the consumer took its last batch
};

}  // namespace l2m
