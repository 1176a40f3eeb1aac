#include "l2m/shuffle.hpp"

#include <algorithm>
#include <bit>
#include <utility>

#include "l2m/philox.hpp"

namespace l2m {
namespace {

constexpr std::int64_t kInlineRows = 8192;    // shuffled within about 16 us: not worth a task
constexpr std::int64_t kRowsOfQuarters = 16;  // a block of four words chooses the buckets of sixteen rows

}  // namespace

Permutation::Permutation(const RowIds& source, const RowIds& target, std::int64_t offset, std::int64_t size,
                         std::uint64_t seed, std::uint64_t class_id, std::uint64_t pass)
    : source_(&source), target_(&target), offset_(offset), size_(size), seed_(seed), class_id_(class_id), pass_(pass) {
  if (size <= kUnsplitRows) return;
  const auto wanted = static_cast<std::uint64_t>((size + kUnsplitRows - 1) / kUnsplitRows);
  bucket_bits_ = std::min(std::countr_zero(std::bit_ceil(wanted)), 16);
  parts_ = std::min<std::int64_t>(64, size / 65536);
  rows_a_part_ = ((size + parts_ - 1) / parts_ + kRowsOfQuarters - 1) / kRowsOfQuarters * kRowsOfQuarters;
  parts_ = (size + rows_a_part_ - 1) / rows_a_part_;
  next_.resize(static_cast<std::size_t>(parts_) << bucket_bits_, 0);
  bucket_.resize((std::size_t{1} << bucket_bits_) + 1);
  stage_ = Stage::kCount;
}

std::int64_t Permutation::tasks() const {
  switch (stage_) {
    case Stage::kCount:
    case Stage::kScatter:
      return parts_;
    case Stage::kSwap:
      return std::int64_t{1} << bucket_bits_;
    case Stage::kDone:
      break;
  }
  return 0;
}

void Permutation::run(std::int64_t task) {
  if (stage_ == Stage::kCount) count_part(task);
  if (stage_ == Stage::kScatter) scatter_part(task);
  if (stage_ == Stage::kSwap) swap_bucket(task);
}

void Permutation::next_stage() {
  if (stage_ == Stage::kCount) {
    const std::size_t buckets = std::size_t{1} << bucket_bits_;
    std::int64_t total = 0;
    for (std::size_t bucket = 0; bucket < buckets; ++bucket) {
      bucket_[bucket] = total;
      for (std::size_t part = 0; part < static_cast<std::size_t>(parts_); ++part)
        total += std::exchange(next_[part * buckets + bucket], total);
    }
    bucket_[buckets] = total;
  }
  stage_ = static_cast<Stage>(static_cast<int>(stage_) + 1);
}

/// Calls visit(row position, its bucket) for the rows of a part. Quarter i of the words chooses the bucket of row i.
template <class Visit>
void Permutation::for_buckets_of(std::int64_t part, Visit&& visit) const {
  const RandomStream random(seed_, Purpose::kShuffle, class_id_, pass_, 0);
  const int shift = 16 - bucket_bits_;
  const std::int64_t end = std::min((part + 1) * rows_a_part_, size_);
  for (std::int64_t row = part * rows_a_part_; row < end; row += kRowsOfQuarters) {
    const auto words = random.block(static_cast<std::uint64_t>(row / kRowsOfQuarters));
    const auto count = static_cast<int>(std::min(end - row, kRowsOfQuarters));
    const auto visit_quarter = [&](int i) {
      visit(row + i,
            static_cast<std::size_t>((words[static_cast<std::size_t>(i / 4)] >> (16 * (i % 4))) & 0xFFFF) >> shift);
    };
    if (count == kRowsOfQuarters) {
      for (int i = 0; i < static_cast<int>(kRowsOfQuarters); ++i) visit_quarter(i);
    } else {
      for (int i = 0; i < count; ++i) visit_quarter(i);
    }
  }
}

void Permutation::count_part(std::int64_t part) {
  std::int64_t* const count = next_.data() + (static_cast<std::size_t>(part) << bucket_bits_);
  for_buckets_of(part, [&](std::int64_t, std::size_t bucket) { ++count[bucket]; });
}

void Permutation::scatter_part(std::int64_t part) {
  std::int64_t* const next = next_.data() + (static_cast<std::size_t>(part) << bucket_bits_);
  target_->visit([&]<class Id>(std::span<Id> target_ids) {
    Id* const target = target_ids.data() + offset_;
    source_->visit([&](auto source_ids) {
      if (source_ids.empty()) {
        for_buckets_of(part,
                       [&](std::int64_t row, std::size_t bucket) { target[next[bucket]++] = static_cast<Id>(row); });
      } else {
        const auto* const source = source_ids.data() + offset_;
        for_buckets_of(
            part, [&](std::int64_t row, std::size_t bucket) { target[next[bucket]++] = static_cast<Id>(source[row]); });
      }
    });
  });
}

void Permutation::swap_bucket(std::int64_t bucket) {
  const bool split = bucket_bits_ > 0;
  const std::int64_t begin = split ? bucket_[static_cast<std::size_t>(bucket)] : 0;
  const std::int64_t end = split ? bucket_[static_cast<std::size_t>(bucket) + 1] : size_;
  target_->visit([&]<class Id>(std::span<Id> target_ids) {
    Id* const rows = target_ids.data() + offset_ + begin;
    if (!split) {
      source_->visit([&](auto source_ids) {
        for (std::int64_t i = 0; i < size_; ++i)
          rows[i] = static_cast<Id>(source_ids.empty() ? static_cast<std::uint64_t>(i)
                                                       : source_ids[static_cast<std::size_t>(offset_ + i)]);
      });
    }
    fisher_yates(static_cast<std::uint32_t>(end - begin),
                 RandomStream(seed_, Purpose::kShuffle, class_id_, pass_, 1 + static_cast<std::uint64_t>(bucket)),
                 [rows](std::uint32_t i, std::uint32_t j) { std::swap(rows[i], rows[j]); });
  });
}

void shuffle_all(const ClassIndex& index, std::uint64_t seed, std::uint64_t pass, int num_threads,
                 const RowIds& target) {
  const auto permutation = [&](std::int64_t k) {
    return Permutation(index.rows(), target, index.offset(k), index.size(k), seed, static_cast<std::uint64_t>(k), pass);
  };
  // Classes of one task share a task until it is worth one; the others are split among the threads one by one.
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

Passes::Passes(std::shared_ptr<const ClassIndex> index, std::uint64_t seed, bool shuffle, TaskQueue& queue)
    : index_(std::move(index)), seed_(seed), shuffle_(shuffle), queue_(queue) {
  if (!shuffle_) return;
  for (RowIds& order : order_) order = RowIds(index_->num_rows(), index_->wide());
  made_.resize(static_cast<std::size_t>(2 * index_->num_classes()), 0);
}

void Passes::copy(std::int64_t class_id, std::uint64_t pass, std::int64_t begin, std::int64_t count,
                  std::int64_t* rows) {
  if (shuffle_) make_current(class_id, pass);
  if (!shuffle_ && index_->identity()) {
    for (std::int64_t i = 0; i < count; ++i) rows[i] = begin + i;
    return;
  }
  const RowIds& order = shuffle_ ? order_[pass % 2] : index_->rows();
  order.visit([&](auto ids) {
    const auto* const from = ids.data() + index_->offset(class_id) + begin;
    for (std::int64_t i = 0; i < count; ++i) rows[i] = static_cast<std::int64_t>(from[i]);
  });
}

void Passes::prefetch_class(std::int64_t class_id) const {
  index_->prefetch_offset(class_id);
  if (shuffle_) __builtin_prefetch(&made_[static_cast<std::size_t>(buffer(class_id, 0))]);
}

void Passes::prefetch_rows(std::int64_t class_id, std::uint64_t pass, std::int64_t position) const {
  if (!shuffle_) return;
  order_[pass % 2].visit([&](auto ids) { __builtin_prefetch(ids.data() + index_->offset(class_id) + position); });
}

Permutation Passes::permutation(std::int64_t class_id, std::uint64_t pass) const {
  return {index_->rows(),
          order_[pass % 2],
          index_->offset(class_id),
          index_->size(class_id),
          seed_,
          static_cast<std::uint64_t>(class_id),
          pass};
}

/// Sees to it that the buffer of the pass holds it.
void Passes::make_current(std::int64_t class_id, std::uint64_t pass) {
  const Buffer here = buffer(class_id, pass);
  std::uint64_t& made = made_[static_cast<std::size_t>(here)];
  if (made == pass + 1) return;
  if (index_->size(class_id) <= kInlineRows) {
    permutation(class_id, pass).run(0);
  } else {
    prepare(class_id, pass);
    finish(*pending_.extract(here).mapped());
  }
  made = pass + 1;
  if (queue_.max_threads() > 0) prepare(class_id, pass + 1);
}

void Passes::prepare(std::int64_t class_id, std::uint64_t pass) {
  if (!shuffle_ || index_->size(class_id) <= kInlineRows) return;
  const Buffer here = buffer(class_id, pass);
  std::uint64_t& made = made_[static_cast<std::size_t>(here)];
  if (made == pass + 1) return;
  std::shared_ptr<Job>& job = pending_[here];
  if (job && job->pass == pass) return;
  if (job) cancel(*job);
  made = 0;  // whatever else the buffer held is given up
  job = std::make_shared<Job>(Job{permutation(class_id, pass), pass});
  if (queue_.max_threads() == 0) return;  // it is made when it is needed
  std::unique_lock lock(mutex_);
  jobs_.push_back(job);
  help_in_background(lock);
}

/// Works on a job until it is done.
void Passes::finish(Job& job) {
  std::unique_lock lock(mutex_);
  while (!job.permutation.done())
    if (!run_task(job, lock)) progress_.wait(lock);
}

/// Stops a job; its buffer holds garbage afterwards.
void Passes::cancel(Job& job) {
  std::unique_lock lock(mutex_);
  job.cancelled = true;
  progress_.wait(lock, [&] { return job.next == job.finished; });
}

/// Runs one task of a job without the lock, if one is to be had.
bool Passes::run_task(Job& job, std::unique_lock<std::mutex>& lock) {
  if (job.cancelled || job.next == job.permutation.tasks()) return false;
  const std::int64_t task = job.next++;
  lock.unlock();
  job.permutation.run(task);
  lock.lock();
  if (++job.finished == job.permutation.tasks()) {
    job.permutation.next_stage();
    job.next = job.finished = 0;
    help_in_background(lock);
  }
  progress_.notify_all();
  return true;
}

/// Asks for a thread for each of ours that may work; they end when nothing is left to do.
void Passes::help_in_background(std::unique_lock<std::mutex>& lock) {
  const int wanted = queue_.max_threads() - std::exchange(workers_, queue_.max_threads());
  lock.unlock();
  for (int i = 0; i < wanted; ++i) queue_.push_background([this] { work(); });
  lock.lock();
}

/// A background task: one task of the first job that has one, then its successor queues behind whatever waits.
void Passes::work() {
  std::unique_lock lock(mutex_);
  std::erase_if(jobs_, [](const auto& job) { return job->cancelled || job->permutation.done(); });
  for (const auto& candidate : jobs_) {
    const std::shared_ptr<Job> job = candidate;
    if (run_task(*job, lock)) {
      lock.unlock();
      queue_.push_background([this] { work(); });
      return;
    }
  }
  --workers_;
}

}  // namespace l2m
