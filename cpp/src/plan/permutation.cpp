#include "l2m/plan/permutation.hpp"

#include <algorithm>
#include <bit>
#include <new>
#include <numeric>
#include <utility>

#include "l2m/base/random.hpp"
#include "l2m/run/thread_pool.hpp"

namespace l2m {
namespace {

constexpr std::int64_t kInlineRows = 8192;  // shuffled within about 16 us, too short for a task
constexpr std::int64_t kMaxTasks = 64;      // per stage, which bounds the memory for bucket counts

std::int64_t ceil_div(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }

}  // namespace

Permutation::Permutation(const RowIds& source, const RowIds& target, std::int64_t offset, std::int64_t size,
                         std::uint64_t seed, std::uint64_t class_id, std::uint64_t pass)
    : source_(&source), target_(&target), offset_(offset), size_(size), seed_(seed), class_id_(class_id), pass_(pass) {
  if (size <= kUnsplitRows) return;
  bucket_bits_ = std::min(std::countr_zero(std::bit_ceil(static_cast<std::uint64_t>(ceil_div(size, kBucketRows)))), 16);
  rows_per_task_ = ceil_div(ceil_div(size, kMaxTasks), kPartRows) * kPartRows;
  next_.resize(static_cast<std::size_t>(ceil_div(size, rows_per_task_)) << bucket_bits_, 0);
  bucket_.resize((std::size_t{1} << bucket_bits_) + 1);
  stage_ = Stage::kCount;
}

std::int64_t Permutation::tasks() const {
  switch (stage_) {
    case Stage::kCount:
    case Stage::kScatter:
      return ceil_div(size_, rows_per_task_);
    case Stage::kSwap:
      return std::int64_t{1} << bucket_bits_;
    case Stage::kDone:
      break;
  }
  return 0;
}

void Permutation::run(std::int64_t task) {
  if (stage_ == Stage::kCount) count(task);
  if (stage_ == Stage::kScatter) scatter(task);
  if (stage_ == Stage::kSwap) swap_bucket(task);
}

void Permutation::next_stage() {
  if (stage_ == Stage::kCount) {
    const std::size_t buckets = std::size_t{1} << bucket_bits_;
    std::int64_t total = 0;
    for (std::size_t bucket = 0; bucket < buckets; ++bucket) {
      bucket_[bucket] = total;
      for (std::size_t i = bucket; i < next_.size(); i += buckets) total += std::exchange(next_[i], total);
    }
    bucket_[buckets] = total;
  }
  stage_ = static_cast<Stage>(static_cast<int>(stage_) + 1);
}

/// Call visit(position, bucket, i) for the rows of a task, where i = 0 .. 3 cycles over consecutive rows.
template <class Visit>
void Permutation::for_buckets_of(std::int64_t task, Visit&& visit) const {
  const std::int64_t end = std::min((task + 1) * rows_per_task_, size_);
  for (std::int64_t row = task * rows_per_task_; row < end;) {
    Sfc64 random(RandomStream(seed_, Purpose::kBucket, class_id_, pass_, static_cast<std::uint64_t>(row / kPartRows)));
    const std::int64_t end_of_part = std::min(row + kPartRows, end);
    for (; row < end_of_part; row += 4) {
      const std::uint64_t word = random();  // 16 bits for each of four rows
      const auto visit_one = [&](int i) {
        visit(row + i, static_cast<std::size_t>((word >> (16 * i)) & 0xFFFF) >> (16 - bucket_bits_), i);
      };
      if (end_of_part - row >= 4) {
        for (int i = 0; i < 4; ++i) visit_one(i);
      } else {
        for (int i = 0; i < end_of_part - row; ++i) visit_one(i);
      }
    }
  }
}

void Permutation::count(std::int64_t task) {
  std::int64_t* const count = next_.data() + (static_cast<std::size_t>(task) << bucket_bits_);
  // Four counters per bucket: with few buckets, a single one would stall on its previous increment at nearly every row.
  // Without memory for them, one per bucket: a task that has begun must end, since others wait for it.
  std::vector<std::int64_t> counts;
  try {
    counts.resize(std::size_t{4} << bucket_bits_, 0);
  } catch (const std::bad_alloc&) {
    for_buckets_of(task, [&](std::int64_t, std::size_t bucket, int) { ++count[bucket]; });
    return;
  }
  for_buckets_of(task,
                 [&](std::int64_t, std::size_t bucket, int i) { ++counts[4 * bucket + static_cast<std::size_t>(i)]; });
  for (std::size_t i = 0; i < counts.size(); ++i) count[i / 4] += counts[i];
}

void Permutation::scatter(std::int64_t task) {
  std::int64_t* const next = next_.data() + (static_cast<std::size_t>(task) << bucket_bits_);
  target_->visit([&]<class Id>(std::span<Id> target_ids) {
    if constexpr (sizeof(Id) == 2) return;  // has fewer than kUnsplitRows rows
    Id* const target = target_ids.data() + offset_;
    if (source_->size() == 0) {
      for_buckets_of(task,
                     [&](std::int64_t row, std::size_t bucket, int) { target[next[bucket]++] = static_cast<Id>(row); });
    } else {
      const Id* const source = source_->ids<Id>().data() + offset_;
      for_buckets_of(task, [&](std::int64_t row, std::size_t bucket, int) { target[next[bucket]++] = source[row]; });
    }
  });
}

void Permutation::swap_bucket(std::int64_t bucket) {
  const bool split = bucket_bits_ > 0;
  const std::int64_t begin = split ? bucket_[static_cast<std::size_t>(bucket)] : 0;
  const std::int64_t end = split ? bucket_[static_cast<std::size_t>(bucket) + 1] : size_;
  target_->visit([&]<class Id>(std::span<Id> target_ids) {
    const std::span<Id> rows =
        target_ids.subspan(static_cast<std::size_t>(offset_ + begin), static_cast<std::size_t>(end - begin));
    if (!split && source_->size() == 0)
      std::iota(rows.begin(), rows.end(), Id{0});
    else if (!split)
      std::ranges::copy(source_->ids<Id>().subspan(static_cast<std::size_t>(offset_), rows.size()), rows.begin());
    fisher_yates(rows,
                 Sfc64(RandomStream(seed_, Purpose::kShuffle, class_id_, pass_, static_cast<std::uint64_t>(bucket))));
  });
}

void shuffle_all(const ClassIndex& index, std::uint64_t seed, std::uint64_t pass, int num_threads,
                 const RowIds& target) {
  const auto permutation = [&](std::int64_t k) {
    return Permutation(index.rows(), target, index.offset(k), index.size(k), seed, static_cast<std::uint64_t>(k), pass);
  };
  // Small classes are grouped until they are worth a task; large classes are split among the threads one by one.
  std::vector<std::int64_t> first_of_task;
  std::int64_t rows = Permutation::kUnsplitRows;
  for (std::int64_t k = 0; k < index.num_classes(); ++k) {
    if (index.size(k) > Permutation::kUnsplitRows) continue;
    if (rows >= Permutation::kUnsplitRows) {
      first_of_task.push_back(k);
      rows = 0;
    }
    rows += index.size(k);
  }
  parallel_for(num_threads, static_cast<std::int64_t>(first_of_task.size()), [&](std::int64_t task) {
    const auto i = static_cast<std::size_t>(task);
    const std::int64_t end = i + 1 < first_of_task.size() ? first_of_task[i + 1] : index.num_classes();
    for (std::int64_t k = first_of_task[i]; k < end; ++k)
      if (index.size(k) <= Permutation::kUnsplitRows) permutation(k).run(0);
  });
  for (std::int64_t k = 0; k < index.num_classes(); ++k) {
    if (index.size(k) <= Permutation::kUnsplitRows) continue;
    for (Permutation work = permutation(k); !work.done(); work.next_stage())
      parallel_for(num_threads, work.tasks(), [&](std::int64_t task) { work.run(task); });
  }
}

Passes::Passes(std::shared_ptr<const ClassIndex> index, std::uint64_t seed, bool shuffle, bool in_background)
    : index_(std::move(index)), seed_(seed), shuffle_(shuffle), in_background_(in_background) {
  if (!shuffle_) return;
  for (std::size_t i = 0; i < num_buffers(); ++i) order_[i] = RowIds(index_->num_rows(), index_->id_bytes());
  made_.resize(static_cast<std::size_t>(index_->num_classes()) * num_buffers(), 0);
}

void Passes::prefetch_class(std::int64_t class_id) const {
  index_->prefetch_offset(class_id);
  if (shuffle_) __builtin_prefetch(&made_[buffer(class_id, 0)]);
}

void Passes::prefetch_rows(std::int64_t class_id, std::uint64_t pass, std::int64_t position) const {
  if (!shuffle_) return;
  order(pass).visit([&](auto ids) {
    if (ids.empty()) return;
    const auto* const rows = ids.data() + index_->offset(class_id) + position;
    __builtin_prefetch(rows);
    __builtin_prefetch(rows + 16);
  });
}

Permutation Passes::permutation(std::int64_t class_id, std::uint64_t pass) const {
  return {index_->rows(),
          order(pass),
          index_->offset(class_id),
          index_->size(class_id),
          seed_,
          static_cast<std::uint64_t>(class_id),
          pass};
}

/// Return whether other threads compute the passes of a class.
bool Passes::in_background(std::int64_t class_id) const {
  return kHasThreads && in_background_ && index_->size(class_id) > kInlineRows;
}

/// Complete the pass in its buffer, and start on the next one.
void Passes::make_current(std::int64_t class_id, std::uint64_t pass) {
  const std::size_t index = buffer(class_id, pass);
  if (in_background(class_id)) {
    prepare(class_id, pass);
    finish(*pending_.extract(index).mapped());
  } else {
    if (order_[0].size() == 0) order_[0] = RowIds(index_->num_rows(), index_->id_bytes());
    Permutation work = permutation(class_id, pass);
    made_[index] = 0;  // drop what the buffer held
    for (; !work.done(); work.next_stage())
      for (std::int64_t task = 0; task < work.tasks(); ++task) work.run(task);
  }
  made_[index] = pass + 1;
  prepare(class_id, pass + 1);
}

void Passes::prepare(std::int64_t class_id, std::uint64_t pass) {
  if (!shuffle_ || !in_background(class_id)) return;
  const std::size_t index = buffer(class_id, pass);
  if (made_[index] == pass + 1) return;
  std::shared_ptr<Job>& job = pending_[index];
  if (job && job->pass == pass) return;
  std::list<std::shared_ptr<Job>> fresh;
  fresh.push_back(std::make_shared<Job>(Job{permutation(class_id, pass), pass}));
  if (job) cancel(*std::exchange(job, nullptr));
  made_[index] = 0;  // drop what the buffer held
  const Lock lock(mutex_);
  job = fresh.front();
  jobs_.splice(jobs_.end(), fresh);
  ++open_jobs_;
}

void Passes::release() {
  if (num_buffers() > 1) return;
  std::ranges::fill(made_, 0);
  order_[0] = RowIds();
}

/// Work on a job until it is done.
void Passes::finish(Job& job) {
  Lock lock(mutex_);
  while (!job.permutation.done())
    if (!run_task(job, lock)) progress_.wait(lock);
}

/// Cancel a job. Its buffer has unspecified content afterwards.
void Passes::cancel(Job& job) {
  Lock lock(mutex_);
  if (job.next < job.permutation.tasks()) --open_jobs_;
  job.canceled = true;
  while (job.next != job.finished) progress_.wait(lock);
}

/// Run one task of a job without the lock, if any is available. Return whether one was.
bool Passes::run_task(Job& job, Lock& lock) {
  if (job.canceled || job.next == job.permutation.tasks()) return false;
  const std::int64_t task = job.next++;
  if (job.next == job.permutation.tasks()) --open_jobs_;
  lock.unlock();
  job.permutation.run(task);
  lock.lock();
  if (++job.finished == job.permutation.tasks()) {
    job.permutation.next_stage();
    job.next = job.finished = 0;
    if (!job.canceled && !job.permutation.done()) ++open_jobs_;
  }
  progress_.notify_all();
  return true;
}

bool Passes::in_progress() {
  if (!kHasThreads) return false;
  const Lock lock(mutex_);
  return std::ranges::any_of(jobs_, [](const auto& job) { return !job->canceled && !job->permutation.done(); });
}

bool Passes::work() {
  if (!kHasThreads) return false;
  Lock lock(mutex_);
  std::erase_if(jobs_, [](const auto& job) { return job->canceled || job->permutation.done(); });
  for (const auto& candidate : jobs_) {
    const std::shared_ptr<Job> job = candidate;  // keeps the job alive if jobs_ changes
    if (run_task(*job, lock)) return true;
  }
  return false;
}

}  // namespace l2m
