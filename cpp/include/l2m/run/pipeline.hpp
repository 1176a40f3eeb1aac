#pragma once

#include <chrono>
#include <cstdint>
#include <deque>
#include <exception>
#include <list>
#include <memory>
#include <optional>
#include <vector>

#include "l2m/base/threads.hpp"
#include "l2m/data/field.hpp"
#include "l2m/plan/class_index.hpp"
#include "l2m/plan/sampler.hpp"
#include "l2m/run/block_pool.hpp"
#include "l2m/run/team.hpp"
#include "l2m/run/thread_pool.hpp"

namespace l2m {

struct PipelineOptions {
  std::shared_ptr<const ClassIndex> index;
  Fields fields;  ///< with the rows to which `index` refers
  SamplerOptions sampler;
  int prefetch = 4;     ///< batches filled ahead of the consumer
  int num_threads = 0;  ///< of the pool, beside a waiting consumer, or in place of one; 0: all work happens in wait()
  /// Copies batches if prefetch is 0 and num_threads is not less than its size; null: pool threads do. Outlives the
  /// pipeline.
  const Team* team = nullptr;
  int taken_ahead = 0;  ///< batches among `prefetch` whose blocks are taken before they are consumed
  /// One pool per field, with blocks for at least max(prefetch, 1) batches. Empty: use host memory.
  std::vector<std::shared_ptr<BlockPool>> pools = {};
};

/// Range of consecutive batches of one epoch.
struct EpochRange {
  std::uint64_t epoch = 0;
  std::int64_t first_step = 0;       ///< step at which to start
  std::int64_t num_steps = 0;        ///< steps of the whole epoch
  std::int64_t last_batch_rows = 0;  ///< global rows of the last batch; the others have sampler.global_batch
};

/// Proportions (normalized) that take effect at the batch of total_step `step`.
struct Scheduled {
  std::uint64_t step;
  std::shared_ptr<const std::vector<double>> proportions;
};
using Schedule = std::list<Scheduled>;  // a list, because moving an entry to another schedule cannot fail

/// Multithreaded pipeline that plans and fills batches and hands them over in order.
///
/// Pool threads, and the consumer while it waits, claim one piece of work at a time. One thread at a time plans several
/// batches together. Each batch is then opened (rows ordered, memory taken), and its chunks are copied by any threads.
/// All members are called by one consumer.
class Pipeline {
 public:
  /// @param options  must outlive the pipeline.
  explicit Pipeline(const PipelineOptions& options);
  /// Drop the prefetched batches, and wait until no thread uses them.
  ~Pipeline();
  Pipeline(const Pipeline&) = delete;
  Pipeline& operator=(const Pipeline&) = delete;

  [[nodiscard]] const Sampler& sampler() const { return sampler_; }

  /// Drop the prefetched batches and start on `range` from `state`.
  ///
  /// @param schedule    ordered by step, all >= state.total_step.
  /// @param plan_until  batches from this total_step on wait for extend_schedule().
  void start(const EpochRange& range, const SamplerState& state, const Schedule& schedule, std::uint64_t plan_until);
  void extend_schedule(Scheduled scheduled, std::uint64_t plan_until);
  /// Stop, and check that a state fits the data. @throws std::invalid_argument  it does not.
  void check(const SamplerState& state);
  /// Wait until no thread plans or fills, and pause until start().
  void stop();
  /// Free memory that can be computed again, unless there are threads.
  void release_passes() { sampler_.passes().release(); }

  /// Wait for the next batch for at most `timeout` (0: poll). Return whether it is ready.
  bool wait(std::chrono::milliseconds timeout);

  /// Batch and the group of plans to which it belongs.
  struct Batch {
    std::shared_ptr<BatchPlans> plans;
    std::int64_t index = 0;  ///< within the plans
    std::vector<Block> blocks;
    std::exception_ptr error;  ///< replaces the blocks
  };
  /// Return the batch `ahead` of the next one, for which wait() or ready() returned true.
  [[nodiscard]] Batch& due(std::int64_t ahead) { return slots_[slot_of(taken_ + ahead)].batch; }
  /// Return whether the batch `ahead` of the next one is ready and without error.
  [[nodiscard]] bool ready(std::int64_t ahead);
  /// Advance to the following batch, and release plans that are no longer needed, so that they can be reused.
  void next(std::vector<std::shared_ptr<BatchPlans>>& unneeded);

 private:
  enum class Stage { kFree, kOpening, kFilling, kReady };
  struct Slot {
    Batch batch;
    std::vector<std::byte*> outs;  // scratch of open()
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
    std::exception_ptr error;  ///< of the first batch
  };
  struct Claim {
    enum class Kind { kNothing, kPlan, kOpen, kFill, kShuffle } kind;
    std::int64_t step = 0;
    std::int64_t chunk = 0;
    int team_size = 0;  // number of threads of the team that copies the batch; 0: it is copied in chunks
  };
  enum class Worker { kThread, kConsumer };

  [[nodiscard]] std::size_t slot_of(std::int64_t step) const { return static_cast<std::size_t>(step % ahead_); }
  [[nodiscard]] bool may_work() const { return !stopping_ && (!lazy_ || waiting_); }
  [[nodiscard]] bool can_plan() const;
  [[nodiscard]] bool can_open() const;
  [[nodiscard]] bool can_fill();
  [[nodiscard]] int num_threads() const { return usable_threads(options_.num_threads); }
  [[nodiscard]] int max_pool_threads() const;
  [[nodiscard]] int team_size() const;
  [[nodiscard]] bool threads_prepare_batches() const;

  Claim claim(Worker worker);
  Claim next_claim(Worker worker);
  void run(const Claim& claim, Lock& lock);
  void plan(Lock& lock);
  void open(std::int64_t step, int team_size, Lock& lock);
  void fill(Slot& slot, std::int64_t chunk, Lock& lock);
  void take_blocks(Batch& batch) const;
  void copy_chunk(const Slot& slot, std::int64_t chunk, std::vector<std::byte*>& outs) const;
  bool copy_by_team(const Slot& slot, int num_parts, std::vector<std::byte*>& outs) const;
  void make_ready(Slot& slot);
  void wake_worker(Lock& lock);
  void work();
  std::shared_ptr<BatchPlans> spare_plans();

  const PipelineOptions& options_;
  const bool lazy_;  // no work is done outside wait()
  const std::int64_t ahead_;
  const int max_busy_;          // claims in progress: by pool threads, and by a waiting consumer
  const std::int64_t rows_;     // maximum per batch on this rank
  std::int64_t row_bytes_ = 0;  // over all fields
  std::int64_t row_cost_ = 0;   // over all fields
  std::int64_t chunk_rows_ = 1;
  Writes writes_ = Writes::kCached;
  std::vector<std::shared_ptr<BlockPool>> pools_;  // one per field

  std::optional<TaskQueue> queue_;  // if there are threads
  Sampler sampler_;                 // used by the planning thread only

  Mutex mutex_;  // guards the members below, except batches that are being filled
  Condition changed_;
  std::vector<Slot> slots_;
  std::vector<Planned> planned_;  // at most two
  std::vector<std::shared_ptr<BatchPlans>> all_plans_;
  EpochRange range_;
  Schedule schedule_;
  std::uint64_t plan_until_ = 0;
  std::uint64_t planned_total_step_ = 0;  // of the next batch to plan
  // Steps of the epoch, with taken_ <= filled_ <= opened_ <= planned_step_:
  std::int64_t planned_step_ = 0;  // next to plan
  std::int64_t opened_ = 0;        // next to open
  std::int64_t filled_ = 0;        // all chunks of earlier steps are claimed
  std::int64_t taken_ = 0;         // next to hand over
  bool planning_ = false;
  bool failed_ = false;
  bool stopping_ = false;
  bool waiting_ = false;           // the consumer is in wait() and takes part in the work
  bool sleeping_ = false;          // the consumer is in wait() and must be woken
  bool returned_quickly_ = false;  // the consumer came back within kQuickReturn
  int team_size_ = 0;              // number of threads of the team that copies the next batch, or 0
  int batches_without_team_ = 0;   // because the team was slow
  int busy_ = 0;                   // claims in progress
  int threads_ = 0;                // pool threads that are running or were called
  unsigned turns_ = 0;
  Clock::time_point last_take_;  // time at which the consumer took its last batch
};

}  // namespace l2m
