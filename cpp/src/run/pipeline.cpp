#include "l2m/run/pipeline.hpp"

#include <algorithm>
#include <limits>
#include <new>
#include <stdexcept>
#include <utility>

#include "l2m/base/errors.hpp"
#include "l2m/base/platform.hpp"

namespace l2m {
namespace {

constexpr std::chrono::microseconds kQuickReturn{50};  // a few times the cost of waking a thread

// Bytes that a thread copies at a time: long compared to a claim, short compared to a batch.
constexpr std::int64_t kChunkBytes = 128 << 10;

// Batches in flight with more bytes are written with non-temporal stores: together with their source rows they do not
// fit in a cache of 32 MB shared by a few cores (AMD EPYC of family 25, 2026-11).
constexpr std::int64_t kMaxCachedBytes = 16'200'000;

// Smaller batches are copied by the consumer alone: it takes a few microseconds to share one among the team.
constexpr std::int64_t kMinTeamBytes = 64 << 10;

// A team that takes longer waits for a CPU that is busy with something else, a time slice for each batch. For a while,
// batches are then copied without it.
constexpr std::chrono::nanoseconds kTeamTime{1'000'000}, kTeamTimePerByte{2};
constexpr int kBatchesWithoutTeam = 100;

// Of a batch: can be counted, aligned and addressed.
constexpr std::int64_t kMaxBytes =
    std::min<std::int64_t>(std::int64_t{1} << 62, std::numeric_limits<std::ptrdiff_t>::max());

constexpr int kClaimsPerVisit = 64;  // after which the thread serves other loaders

}  // namespace

Pipeline::Pipeline(const PipelineOptions& options)
    : options_(options),
      lazy_(num_threads() == 0 || options.prefetch == 0),
      ahead_(lazy_ ? 1 : options.prefetch),
      max_busy_(num_threads() > 0 && num_threads() < usable_cpus() ? num_threads() + 1 : std::max(num_threads(), 1)),
      rows_(options.sampler.global_batch / options.sampler.world_size),
      sampler_(options.index, options.sampler, num_threads() > 0),
      slots_(static_cast<std::size_t>(ahead_)) {
  if (num_threads() > 0) queue_.emplace(num_threads());
  planned_.reserve(2);  // so that adding an entry cannot fail
  pools_ = options.pools;
  for (const auto& field : options.fields) {
    if (std::max(field->row_size(), field->row_cost()) > kMaxBytes / rows_ - std::max(row_bytes_, row_cost_))
      throw OutOfMemory("a batch", rows_,
                        static_cast<double>(rows_) * static_cast<double>(row_bytes_ + field->row_size()));
    row_bytes_ += field->row_size();
    row_cost_ += field->row_cost();
    if (!options.pools.empty()) continue;
    pools_.push_back(std::make_shared<HeapPool>(static_cast<std::size_t>(rows_ * field->row_size()),
                                                static_cast<std::size_t>(options.prefetch) + 2));
  }
  const std::int64_t chunks = kHasThreads ? std::clamp<std::int64_t>(rows_ * row_cost_ / kChunkBytes, 1, rows_) : 1;
  chunk_rows_ = (rows_ + chunks - 1) / chunks;
  // The consumer has a batch, and another one is being filled.
  const std::int64_t max_cached = kMaxCachedBytes / (std::int64_t{options.prefetch} + 2);
  writes_ = rows_ * row_bytes_ > max_cached ? Writes::kNonTemporal : Writes::kCached;
}

Pipeline::~Pipeline() {
  stop();
  queue_.reset();  // before the members that its tasks use
}

void Pipeline::start(const EpochRange& range, const SamplerState& state, const Schedule& schedule,
                     std::uint64_t plan_until) {
  stop();
  sampler_.restore(state);
  sampler_.prepare(range.epoch);
  Lock lock = spin_locked(mutex_);
  range_ = range;
  schedule_ = schedule;
  plan_until_ = plan_until;
  planned_total_step_ = state.total_step;
  planned_step_ = opened_ = filled_ = taken_ = range.first_step;
  planned_.clear();
  for (Slot& slot : slots_) {
    slot.batch.plans.reset();
    slot.batch.blocks.clear();
    slot.batch.error = nullptr;
    slot.stage = Stage::kFree;
  }
  stopping_ = failed_ = false;
  wake_worker(lock);
}

void Pipeline::check(const SamplerState& state) {
  stop();
  sampler_.check(state);
}

void Pipeline::extend_schedule(Scheduled scheduled, std::uint64_t plan_until) {
  Lock lock = spin_locked(mutex_);
  schedule_.push_back(std::move(scheduled));
  plan_until_ = plan_until;
  wake_worker(lock);
}

bool Pipeline::wait(std::chrono::milliseconds timeout) {
  Lock lock = spin_locked(mutex_);
  const Slot& slot = slots_[slot_of(taken_)];
  const auto began = Clock::now();
  returned_quickly_ = began - last_take_ < kQuickReturn;
  if (slot.stage == Stage::kReady || timeout.count() == 0) return slot.stage == Stage::kReady;
  waiting_ = true;
  team_size_ = team_size();
  batches_without_team_ = std::max(batches_without_team_ - 1, 0);
  if (taken_ == planned_step_ && !planning_ && !can_plan()) {
    waiting_ = false;
    throw std::logic_error("there is no batch to wait for");
  }
  wake_worker(lock);
  const auto deadline = began + timeout;
  auto spin_until = began + kSpinTime;
  bool in_time = true;
  while (slot.stage != Stage::kReady && in_time) {
    const Claim claimed = busy_ < max_busy_ ? claim(Worker::kConsumer) : Claim{Claim::Kind::kNothing};
    if (claimed.kind != Claim::Kind::kNothing) {
      run(claimed, lock);
      const auto now = Clock::now();
      spin_until = now + kSpinTime;
      if (kHasThreads) in_time = now < deadline;
    } else if (Clock::now() < spin_until) {  // the batch is nearly ready: not worth a sleep
      lock.unlock();
      yield();
      spin_then_lock(lock);
    } else {
      sleeping_ = true;
      in_time = changed_.wait_until(lock, deadline);
      sleeping_ = false;
    }
  }
  waiting_ = false;
  return slot.stage == Stage::kReady;
}

bool Pipeline::ready(std::int64_t ahead) {
  const Lock lock = spin_locked(mutex_);
  if (ahead >= ahead_ || taken_ + ahead >= opened_) return false;
  const Slot& slot = slots_[slot_of(taken_ + ahead)];
  return slot.stage == Stage::kReady && !slot.batch.error;
}

void Pipeline::next(std::vector<std::shared_ptr<BatchPlans>>& unneeded) {
  Lock lock = spin_locked(mutex_);
  unneeded.clear();
  Slot& slot = slots_[slot_of(taken_)];
  slot.batch.plans.reset();
  slot.stage = Stage::kFree;
  ++taken_;
  filled_ = std::max(filled_, taken_);
  last_take_ = Clock::now();
  // Wake workers for several batches at once if possible.
  const std::int64_t ready = opened_ - taken_ - options_.taken_ahead;
  if (ready <= (ahead_ - options_.taken_ahead + 1) / 3) wake_worker(lock);
}

bool Pipeline::can_plan() const {
  // One group of plans is made ahead of the one whose batches are being opened.
  return may_work() && !planning_ && !failed_ && planned_.size() < 2 && planned_step_ < range_.num_steps &&
         planned_total_step_ < plan_until_;
}

bool Pipeline::can_open() const { return may_work() && opened_ < planned_step_ && opened_ - taken_ < ahead_; }

bool Pipeline::can_fill() {
  if (!may_work()) return false;
  const auto unclaimed = [&](std::int64_t step) {
    const Slot& slot = slots_[slot_of(step)];
    return slot.stage == Stage::kFilling && slot.next_chunk < slot.chunks;
  };
  while (filled_ < opened_ && slots_[slot_of(filled_)].stage != Stage::kOpening && !unclaimed(filled_)) ++filled_;
  for (std::int64_t step = filled_; step < opened_; ++step)
    if (unclaimed(step)) return true;
  return false;
}

/// Return the maximum number of pool threads. A waiting consumer replaces one thread if all CPUs have one. So does a
/// consumer that returns quickly, unless that thread is the last: the consumer may be away for longer this time.
int Pipeline::max_pool_threads() const {
  if (waiting_) return max_busy_ - 1;
  return returned_quickly_ ? std::clamp(max_busy_ - 1, 1, num_threads()) : num_threads();
}

/// Return the number of threads of the team if it copies the next batch, or 0.
int Pipeline::team_size() const {
  if (!kHasThreads || options_.team == nullptr || options_.prefetch > 0) return 0;
  if (rows_ * row_cost_ < kMinTeamBytes || forks() > 0) return 0;  // a forked child lacks the threads of the team
  if (batches_without_team_ > 0) return 0;
  const int size = options_.team->size();
  return size > 1 && size <= num_threads() ? size : 0;
}

/// Return whether pool threads plan, open and fill batches, besides computing passes.
bool Pipeline::threads_prepare_batches() const { return !lazy_ || (team_size_ == 0 && chunk_rows_ < rows_); }

/// Claim the next piece of work. The claimant must run() it.
Pipeline::Claim Pipeline::claim(Worker worker) {
  const Claim claimed = next_claim(worker);
  if (claimed.kind != Claim::Kind::kNothing) ++busy_;
  return claimed;
}

Pipeline::Claim Pipeline::next_claim(Worker worker) {
  using enum Claim::Kind;
  // The consumer leaves work that takes longer than a batch to the threads, since it would be late for the next batch.
  const bool has_time = worker == Worker::kThread;
  const bool shuffles = has_time && !stopping_ && sampler_.passes().has_work();
  if (shuffles && ++turns_ % 4 == 0) return {kShuffle};  // passes are ready in time, however much there is to copy
  if (has_time && !threads_prepare_batches()) return {shuffles ? kShuffle : kNothing};
  // Plan while another thread copies: the next plans should exist before that thread runs out of batches.
  if (has_time && can_plan() && busy_ > 0) return planning_ = true, Claim{kPlan};
  if (can_fill()) {
    for (std::int64_t step = filled_;; ++step) {
      Slot& slot = slots_[slot_of(step)];
      if (slot.stage == Stage::kFilling && slot.next_chunk < slot.chunks) return {kFill, step, slot.next_chunk++};
    }
  }
  if (can_open()) {
    const std::int64_t step = opened_++;
    Slot& slot = slots_[slot_of(step)];
    Planned& planned = planned_.front();
    slot.stage = Stage::kOpening;
    slot.batch.plans = planned.plans;
    slot.batch.index = step - planned.first_step;
    slot.batch.error = planned.error;
    if (opened_ == planned.end_step) planned_.erase(planned_.begin());
    return {.kind = kOpen, .step = step, .team_size = worker == Worker::kConsumer ? team_size_ : 0};
  }
  if (can_plan()) return planning_ = true, Claim{kPlan};
  if (shuffles) return {kShuffle};
  return {kNothing};
}

/// Run a claim without the lock.
void Pipeline::run(const Claim& claim, Lock& lock) {
  switch (claim.kind) {
    case Claim::Kind::kPlan:
      plan(lock);
      break;
    case Claim::Kind::kOpen:
      open(claim.step, claim.team_size, lock);
      break;
    case Claim::Kind::kFill:
      fill(slots_[slot_of(claim.step)], claim.chunk, lock);
      break;
    case Claim::Kind::kShuffle:
      lock.unlock();
      sampler_.passes().work();
      spin_then_lock(lock);
      break;
    case Claim::Kind::kNothing:
      break;
  }
  --busy_;
  if (stopping_) changed_.notify_all();
}

/// Plan the next batches.
void Pipeline::plan(Lock& lock) {
  std::shared_ptr<const std::vector<double>> proportions;  // new ones that take effect now, if any
  while (!schedule_.empty() && schedule_.front().step <= planned_total_step_) {
    // Proportions of an earlier step were scheduled twice and have taken effect.
    if (schedule_.front().step == planned_total_step_) proportions = std::move(schedule_.front().proportions);
    schedule_.pop_front();
  }
  const std::int64_t step = planned_step_;
  const bool last = step + 1 == range_.num_steps;
  const std::int64_t rows = last ? range_.last_batch_rows : options_.sampler.global_batch;
  std::uint64_t max_batches = last ? 1 : static_cast<std::uint64_t>(range_.num_steps - 1 - step);
  max_batches = std::min(max_batches, plan_until_ - planned_total_step_);
  if (!schedule_.empty()) max_batches = std::min(max_batches, schedule_.front().step - planned_total_step_);
  std::exception_ptr error;
  std::shared_ptr<BatchPlans> plans;
  try {
    plans = spare_plans();
    lock.unlock();
    if (proportions) sampler_.change_proportions(*proportions);
    sampler_.plan(range_.epoch, static_cast<std::uint64_t>(step), static_cast<std::int64_t>(max_batches), rows, *plans);
  } catch (...) {
    error = std::current_exception();
  }
  if (!lock.owns_lock()) spin_then_lock(lock);
  planning_ = false;
  failed_ = error != nullptr;
  const std::int64_t size = error ? 1 : plans->size();
  planned_.push_back({std::move(plans), step, step + size, error});
  planned_step_ += size;
  planned_total_step_ += static_cast<std::uint64_t>(size);
  wake_worker(lock);
}

/// Prepare a planned batch for filling, and fill it if it is small.
void Pipeline::open(std::int64_t step, int team_size, Lock& lock) {
  Slot& slot = slots_[slot_of(step)];
  lock.unlock();
  bool was_slow = false;
  Batch& batch = slot.batch;
  std::int64_t chunks = 0;
  if (!batch.error) {
    try {
      const auto rows = batch.plans->rows(batch.index);
      sampler_.arrange(range_.epoch, static_cast<std::uint64_t>(step), rows);
      batch.blocks.clear();
      take_blocks(batch);
      if (kHasThreads && team_size > 0) {
        was_slow = !copy_by_team(slot, team_size, slot.outs);
      } else {
        chunks = (std::ssize(rows) + chunk_rows_ - 1) / chunk_rows_;
        if (chunks == 1) copy_chunk(slot, 0, slot.outs);
      }
    } catch (...) {
      batch.error = std::current_exception();
      chunks = 0;
    }
  }
  spin_then_lock(lock);
  if (was_slow) batches_without_team_ = kBatchesWithoutTeam;
  if (chunks <= 1) {
    make_ready(slot);
    return;
  }
  slot.stage = Stage::kFilling;
  slot.chunks = slot.unfinished = chunks;
  slot.next_chunk = 0;
  wake_worker(lock);
}

/// Take the memory of a batch.
void Pipeline::take_blocks(Batch& batch) const {
  try {
    for (const auto& pool : pools_) batch.blocks.push_back(pool->take());
  } catch (const std::bad_alloc&) {
    throw OutOfMemory("a batch", rows_, static_cast<double>(rows_) * static_cast<double>(row_bytes_));
  }
}

void Pipeline::fill(Slot& slot, std::int64_t chunk, Lock& lock) {
  lock.unlock();
  std::exception_ptr error;
  try {
    std::vector<std::byte*> outs;
    copy_chunk(slot, chunk, outs);
  } catch (...) {
    error = std::current_exception();
  }
  spin_then_lock(lock);
  if (error && !slot.batch.error) slot.batch.error = error;
  if (--slot.unfinished == 0) make_ready(slot);
}

/// Copy a chunk of a batch. @param outs  scratch.
void Pipeline::copy_chunk(const Slot& slot, std::int64_t chunk, std::vector<std::byte*>& outs) const {
  const auto rows = slot.batch.plans->rows(slot.batch.index);
  const std::int64_t begin = chunk * chunk_rows_;
  const std::int64_t count = std::min(chunk_rows_, std::ssize(rows) - begin);
  outs.clear();
  for (std::size_t f = 0; f < options_.fields.size(); ++f)
    outs.push_back(slot.batch.blocks[f].data() + begin * options_.fields[f]->row_size());
  copy_fields(options_.fields, rows.subspan(static_cast<std::size_t>(begin), static_cast<std::size_t>(count)), outs,
              writes_);
}

/// Copy a batch, a part by each thread of the team. Return whether it took a plausible time.
/// @param outs  scratch.
bool Pipeline::copy_by_team(const Slot& slot, int num_parts, std::vector<std::byte*>& outs) const {
  if (!kHasThreads) return true;
  const auto began = Clock::now();
  const auto rows = slot.batch.plans->rows(slot.batch.index);
  const auto begin_of = [&](int part) { return std::ssize(rows) * part / num_parts; };
  const std::size_t num_fields = options_.fields.size();
  outs.clear();
  for (int part = 0; part < num_parts; ++part)
    for (std::size_t f = 0; f < num_fields; ++f)
      outs.push_back(slot.batch.blocks[f].data() + begin_of(part) * options_.fields[f]->row_size());
  const auto copy_part = [&](int part) {
    const auto begin = static_cast<std::size_t>(begin_of(part)), end = static_cast<std::size_t>(begin_of(part + 1));
    const auto to = std::span(outs).subspan(static_cast<std::size_t>(part) * num_fields, num_fields);
    copy_fields(options_.fields, rows.subspan(begin, end - begin), to, writes_);
  };
  const auto task = [](const void* copy, int part) { (*static_cast<decltype(copy_part)*>(copy))(part); };
  options_.team->run(num_parts, task, &copy_part);
  return Clock::now() - began < kTeamTime + std::ssize(rows) * row_cost_ * kTeamTimePerByte;
}

void Pipeline::make_ready(Slot& slot) {
  slot.stage = Stage::kReady;
  if (sleeping_) changed_.notify_all();
}

/// Wake a worker if there is work. Each worker wakes the next one.
void Pipeline::wake_worker(Lock& lock) {
  if (num_threads() == 0) return;
  const bool has_batches = can_plan() || can_open() || can_fill();
  const bool has_passes = may_work() && sampler_.passes().has_work();
  if (!has_batches && !has_passes) return;
  if (sleeping_ && has_batches && busy_ < max_busy_) changed_.notify_all();
  if (threads_ >= max_pool_threads() || !(has_passes || threads_prepare_batches())) return;
  ++threads_;
  lock.unlock();
  bool called = true;
  try {
    queue_->push([this] { work(); });
  } catch (const std::bad_alloc&) {  // the consumer does the work while it waits
    called = false;
  }
  spin_then_lock(lock);
  if (!called) --threads_;
}

/// Run claims until there is no work; a task of the pool.
void Pipeline::work() {
  if (!kHasThreads) return;
  Lock lock = spin_locked(mutex_);
  for (int claims = 0; claims < kClaimsPerVisit && threads_ <= max_pool_threads() && busy_ < max_busy_;) {
    const Claim claimed = claim(Worker::kThread);
    if (claimed.kind == Claim::Kind::kNothing) {
      // The next batch may need a pass, whose next stage will have tasks.
      if (stopping_ || !planning_ || !sampler_.passes().in_progress()) break;
      lock.unlock();
      yield();
      spin_then_lock(lock);
      continue;
    }
    ++claims;
    wake_worker(lock);
    run(claimed, lock);
  }
  --threads_;
  wake_worker(lock);
}

void Pipeline::stop() {
  Lock lock = spin_locked(mutex_);
  stopping_ = true;
  while (busy_ != 0) changed_.wait(lock);
}

std::shared_ptr<BatchPlans> Pipeline::spare_plans() {
  for (const auto& plans : all_plans_)
    if (plans.use_count() == 1) return plans;
  all_plans_.push_back(std::make_shared<BatchPlans>());
  return all_plans_.back();
}

}  // namespace l2m
