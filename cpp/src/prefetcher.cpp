#include "l2m/prefetcher.hpp"

#include <algorithm>
#include <condition_variable>
#include <mutex>
#include <optional>
#include <stdexcept>
#include <thread>
#include <utility>

#include "l2m/spin_lock.hpp"
#include "l2m/thread_pool.hpp"

namespace l2m {
namespace {

constexpr std::chrono::microseconds kHurry{50};  // a few times what it costs to wake a thread

constexpr std::chrono::microseconds kLongPlan{10};  // longer than the caches of another thread take to fill

constexpr std::int64_t kChunkBytes =
    128 << 10;  // what a thread copies at a time: long against a hand-over, short against a batch

}  // namespace

class Prefetcher::Pipeline {
 public:
  explicit Pipeline(const Settings& settings)
      : settings_(settings),
        lazy_(settings.options.num_threads == 0 || settings.options.prefetch == 0),
        ahead_(lazy_ ? 1 : settings.options.prefetch),
        queue_(settings.options.num_threads),
        sampler_(settings.index, settings.options.sampler, queue_),
        slots_(static_cast<std::size_t>(ahead_)) {
    const SamplerOptions& sampler = settings.options.sampler;
    const std::int64_t rows = sampler.global_batch / sampler.world_size;
    std::int64_t row_bytes = 0;
    for (const Field& field : settings.fields) {
      row_bytes += field.row_size;
      pools_.push_back(std::make_shared<BlockPool>(static_cast<std::size_t>(rows * field.row_size),
                                                   static_cast<std::size_t>(settings.options.prefetch) + 2));
    }
    chunk_rows_ = std::max<std::int64_t>(kChunkBytes / std::max<std::int64_t>(row_bytes, 1), 1);
  }

  ~Pipeline() {
    stop();
    queue_.cancel();
  }
  Pipeline(const Pipeline&) = delete;
  Pipeline& operator=(const Pipeline&) = delete;

  [[nodiscard]] const Sampler& sampler() const { return sampler_; }

  void start(const EpochRange& range, const SamplerState& state, const std::deque<Scheduled>& schedule,
             std::uint64_t plan_until) {
    stop();
    sampler_.restore(state);
    sampler_.prepare(range.epoch);
    std::unique_lock lock = locked_soon(mutex_);
    range_ = range;
    schedule_ = schedule;
    plan_until_ = plan_until;
    planned_ = taken_ = range.first_step;
    planned_step_ = state.total_step;
    stopping_ = failed_ = false;
    for (Slot& slot : slots_) slot = {};
    if (!lazy_) start_planning(lock);
  }

  void extend_schedule(Scheduled scheduled, std::uint64_t plan_until) {
    std::unique_lock lock = locked_soon(mutex_);
    schedule_.push_back(std::move(scheduled));
    plan_until_ = plan_until;
    if (!lazy_) start_planning(lock);
  }

  bool wait(std::chrono::milliseconds timeout) {
    std::unique_lock lock = locked_soon(mutex_);
    Slot& slot = slots_[slot_of(taken_)];
    if (slot.ready || timeout.count() == 0) return slot.ready;
    hurried_ = std::chrono::steady_clock::now() - left_ < kHurry;
    // A consumer that waits takes part rather than sleep and be woken for every batch. With one thread it would only
    // get in its way, unless it comes back so soon that the thread can be spared.
    std::optional<TaskQueue::Seat> seat;
    if (queue_.max_threads() > 1 || alone()) {
      lock.unlock();
      seat.emplace(queue_);
      lock_soon(lock);
    }
    start_planning(lock);
    if (taken_ == planned_ && !planning_) throw std::logic_error("there is no batch to wait for");
    const auto deadline = std::chrono::steady_clock::now() + timeout;
    auto patience = std::chrono::steady_clock::now() + kPatience;
    while (!slot.ready) {
      lock.unlock();
      const bool ran = seat && seat->run_one();
      const auto now = std::chrono::steady_clock::now();
      if (ran) patience = now + kPatience;
      if (!ran && seat && now < patience) std::this_thread::yield();  // the batch is all but there: not worth a sleep
      lock_soon(lock);
      if (slot.ready || (seat && now < patience)) continue;
      waiting_ = true;
      const bool in_time = changed_.wait_until(lock, deadline) == std::cv_status::no_timeout;
      waiting_ = false;
      if (!in_time) break;
    }
    const bool there = slot.ready;
    lock.unlock();
    return there;
  }

  std::vector<Block> take_blocks() {
    const std::unique_lock lock = locked_soon(mutex_);
    Slot& slot = slots_[slot_of(taken_)];
    if (slot.error) std::rethrow_exception(slot.error);
    return std::move(slot.blocks);
  }

  std::int64_t num_rows() {
    const std::unique_lock lock = locked_soon(mutex_);
    return std::ssize(slots_[slot_of(taken_)].plan.rows);
  }

  void commit(BatchPlan& plan, StateChange& change) {
    std::unique_lock lock = locked_soon(mutex_);
    Slot& slot = slots_[slot_of(taken_)];
    std::swap(plan, slot.plan);
    std::swap(change, slot.change);
    slot.ready = false;
    ++taken_;
    left_ = std::chrono::steady_clock::now();
    // Threads are woken for several batches at once where they can be.
    if (!lazy_ && !alone() && planned_ - taken_ <= ahead_ / 2) start_planning(lock);
  }

 private:
  struct Slot {
    BatchPlan plan;
    StateChange change;
    std::vector<Block> blocks;
    std::exception_ptr error;
    bool ready = false;
    // Guarded by the mutex, so that a thread that comes late finds nothing to do, or helps the slot's next batch.
    std::int64_t chunks = 0;
    std::int64_t next_chunk = 0;
    std::int64_t unfinished = 0;
  };

  [[nodiscard]] std::size_t slot_of(std::int64_t step) const { return static_cast<std::size_t>(step % ahead_); }

  [[nodiscard]] bool can_plan() const {
    return !stopping_ && !failed_ && planned_ < range_.num_steps && planned_ - taken_ < ahead_ &&
           planned_step_ < plan_until_;
  }

  /// Whether the consumer makes its batches itself although there is a thread: each would have to be woken for the other.
  [[nodiscard]] bool alone() const { return hurried_ && queue_.max_threads() == 1; }

  void start_planning(std::unique_lock<std::mutex>& lock) {
    if (planning_ || !can_plan()) return;
    planning_ = true;
    lock.unlock();
    queue_.push([this] { plan_and_fill(); });
    lock_soon(lock);
  }

  /// Task: plans the next batch, passes the planning on, and takes part in the filling. One at a time plans.
  ///
  /// A long plan means many classes, whose state is best left in the caches of one thread: that thread then goes on
  /// planning, and others fill.
  void plan_and_fill() {
    bool goes_on = true;
    while (goes_on) {
      std::unique_lock lock = locked_soon(mutex_);
      if (!can_plan()) {
        planning_ = false;
        changed_.notify_all();
        return;
      }
      Slot& slot = slots_[slot_of(planned_)];
      const auto began = std::chrono::steady_clock::now();
      plan_into(slot, lock);
      const bool more = can_plan() && !alone();
      goes_on = more && queue_.max_threads() > 1 && std::chrono::steady_clock::now() - began > kLongPlan;
      planning_ = more;
      const std::int64_t others = std::min<std::int64_t>(slot.chunks, queue_.max_threads()) - (goes_on ? 0 : 1);
      const bool consumer_sleeps = waiting_;
      lock.unlock();
      // The next plan goes first: of two threads one can plan while the other fills.
      if (more && !goes_on && others > 0) queue_.push([this] { plan_and_fill(); });
      for (std::int64_t i = 0; i < others; ++i) queue_.push([this, &slot] { fill(slot); });
      if (more && !goes_on && others <= 0)
        queue_.push_quietly([this] { plan_and_fill(); });        // a small batch: soon done
      if (consumer_sleeps && others > 0) changed_.notify_all();  // it has a seat, and now something to do
      if (!goes_on) fill(slot);
    }
  }

  /// Plans the next batch; without the lock in between.
  void plan_into(Slot& slot, std::unique_lock<std::mutex>& lock) {
    slot.chunks = slot.next_chunk = 0;
    std::optional<Scheduled> scheduled;
    while (!schedule_.empty() && schedule_.front().step <= planned_step_) {
      // One of an earlier step was scheduled twice, and is in force.
      if (schedule_.front().step == planned_step_) scheduled = std::move(schedule_.front());
      schedule_.pop_front();
    }
    const std::int64_t step = planned_;
    lock.unlock();
    try {
      if (scheduled) sampler_.change_proportions(std::move(scheduled->proportions));
      const bool last = step + 1 == range_.num_steps;
      sampler_.plan(range_.epoch, static_cast<std::uint64_t>(step),
                    last ? range_.last_batch_rows : settings_.options.sampler.global_batch, slot.plan, slot.change);
      slot.blocks.clear();
      for (const auto& pool : pools_) slot.blocks.push_back(pool->take());
    } catch (...) {
      slot.error = std::current_exception();
    }
    lock_soon(lock);
    ++planned_;
    ++planned_step_;
    slot.chunks = slot.error ? 0 : (std::ssize(slot.plan.rows) + chunk_rows_ - 1) / chunk_rows_;
    slot.unfinished = slot.chunks;
    failed_ = slot.error != nullptr;
    if (slot.chunks == 0) {  // there is nothing to fill
      slot.ready = true;
      changed_.notify_all();
    }
  }

  /// Copies chunks of a batch until none is left.
  void fill(Slot& slot) {
    std::unique_lock lock = locked_soon(mutex_);
    bool wake = false;
    while (slot.next_chunk < slot.chunks) {
      const std::int64_t begin = slot.next_chunk++ * chunk_rows_;
      const bool needed = !stopping_;
      lock.unlock();
      if (needed) copy_chunk(slot, begin);
      lock_soon(lock);
      if (--slot.unfinished == 0) {
        slot.ready = true;
        wake = waiting_ || stopping_;
      }
    }
    lock.unlock();
    if (wake) changed_.notify_all();
  }

  void copy_chunk(const Slot& slot, std::int64_t begin) {
    const std::int64_t count = std::min(chunk_rows_, std::ssize(slot.plan.rows) - begin);
    const std::span rows =
        std::span(slot.plan.rows).subspan(static_cast<std::size_t>(begin), static_cast<std::size_t>(count));
    for (std::size_t f = 0; f < settings_.fields.size(); ++f)
      gather(settings_.fields[f], rows, slot.blocks[f].data() + begin * settings_.fields[f].row_size);
  }

  /// Returns when nobody plans or fills.
  void stop() {
    std::unique_lock lock = locked_soon(mutex_);
    stopping_ = true;
    changed_.wait(lock, [this] {
      return !planning_ && std::ranges::all_of(slots_, [](const Slot& slot) { return slot.unfinished == 0; });
    });
  }

  const Settings& settings_;
  const bool lazy_;  // nothing happens ahead of wait()
  const std::int64_t ahead_;
  std::int64_t chunk_rows_ = 1;
  std::vector<std::shared_ptr<BlockPool>> pools_;  // one a field

  TaskQueue queue_;
  Sampler sampler_;  // used by whoever plans, one at a time

  std::mutex mutex_;  // guards all below, but for the insides of a slot between its planning and its ready
  std::condition_variable changed_;
  std::vector<Slot> slots_;
  EpochRange range_;
  std::deque<Scheduled> schedule_;
  std::uint64_t plan_until_ = 0;
  std::uint64_t planned_step_ = 0;  // total_step of the next batch to plan
  std::int64_t planned_ = 0;        // steps of the epoch
  std::int64_t taken_ = 0;
  bool planning_ = false;
  bool waiting_ = false;
  bool stopping_ = false;
  bool failed_ = false;
  bool hurried_ = false;  // the consumer was away for less than kHurry
  std::chrono::steady_clock::time_point left_;
};

class Prefetcher::Use {
 public:
  explicit Use(Prefetcher& prefetcher) : prefetcher_(prefetcher) {
    const bool forked = prefetcher.forks_.exchange(forks()) != forks();
    if (prefetcher.in_use_.exchange(true) && !forked) {
      throw std::runtime_error(prefetcher.closed_ ? "the loader is closed"
                                                  : "a loader has one consumer: another thread is using it");
    }
    try {
      if (prefetcher.closed_) throw std::runtime_error("the loader is closed");
      if (forked) {
        (void)prefetcher.pipeline_.release();  // its locks and threads are the parent's
        prefetcher.pipeline_ = std::make_unique<Pipeline>(prefetcher.settings_);
        prefetcher.restart();
      }
    } catch (...) {
      prefetcher.in_use_ = false;
      throw;
    }
  }
  ~Use() { prefetcher_.in_use_ = false; }
  Use(const Use&) = delete;
  Use& operator=(const Use&) = delete;

 private:
  Prefetcher& prefetcher_;
};

Prefetcher::Prefetcher(std::shared_ptr<const ClassIndex> index, std::vector<Field> fields,
                       std::vector<double> proportions, const PrefetcherOptions& options)
    : settings_{std::move(index), std::move(fields), options},
      pipeline_(std::make_unique<Pipeline>(settings_)),
      forks_(forks()),
      state_(pipeline_->sampler().initial_state(std::move(proportions))) {}

Prefetcher::~Prefetcher() { close(); }

void Prefetcher::begin(const EpochRange& range, std::uint64_t plan_until) {
  const Use use(*this);
  range_ = range;
  plan_until_ = plan_until;
  restart();
}

void Prefetcher::restart() { pipeline_->start(range_, state_, schedule_, plan_until_); }

void Prefetcher::schedule(std::uint64_t step, std::vector<double> proportions, std::uint64_t plan_until) {
  const Use use(*this);
  schedule_.push_back({step, std::move(proportions)});
  plan_until_ = plan_until;
  pipeline_->extend_schedule(schedule_.back(), plan_until);
  apply_schedule();
}

void Prefetcher::apply_schedule() {
  while (!schedule_.empty() && schedule_.front().step == state_.total_step) {
    pipeline_->sampler().change_proportions(state_, std::move(schedule_.front().proportions));
    schedule_.pop_front();
  }
}

bool Prefetcher::wait(std::chrono::milliseconds timeout) {
  const Use use(*this);
  return pipeline_->wait(timeout);
}

std::vector<Block> Prefetcher::take_blocks() {
  const Use use(*this);
  try {
    return pipeline_->take_blocks();
  } catch (...) {
    restart();  // at the same batch
    throw;
  }
}

std::int64_t Prefetcher::num_rows() {
  const Use use(*this);
  return pipeline_->num_rows();
}

void Prefetcher::retry() {
  const Use use(*this);
  restart();
}

void Prefetcher::commit() {
  const Use use(*this);
  pipeline_->commit(plan_, change_);
  change_.apply_to(state_);
  ++range_.first_step;
  apply_schedule();
}

const BatchPlan& Prefetcher::plan() const { return plan_; }

const SamplerState& Prefetcher::state() const { return state_; }

void Prefetcher::set_state(SamplerState state) {
  const Use use(*this);
  pipeline_->sampler().check(state);
  state_ = std::move(state);
  schedule_.clear();
  plan_ = {};
}

void Prefetcher::close() {
  closed_ = true;
  if (forks_.exchange(forks()) != forks()) {
    (void)pipeline_.release();
    in_use_ = false;
  }
  while (in_use_.exchange(true)) std::this_thread::sleep_for(std::chrono::milliseconds(1));
  pipeline_.reset();
  in_use_ = false;
}

}  // namespace l2m
