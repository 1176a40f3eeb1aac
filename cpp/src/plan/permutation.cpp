#include "l2m/plan/permutation.hpp"

#include <algorithm>
#include <bit>
#include <exception>
#include <new>
#include <span>
#include <utility>

#include "l2m/base/random.hpp"
#include "l2m/run/thread_pool.hpp"

namespace l2m {
namespace {

constexpr std::int64_t kMaxTasks = 64;  // per stage, which bounds the memory for bucket counts

std::int64_t ceil_div(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }

}  // namespace

std::int64_t Permutation::num_buckets(std::int64_t size) {
  if (size <= kUnsplitRows) return 1;
  const auto bits = static_cast<int>(std::bit_width(static_cast<std::uint64_t>((size - 1) / kBucketRows)));
  return std::int64_t{1} << std::min(bits, 16);
}

Permutation::Permutation(const ClassIndex& index, std::int64_t class_id, const RowIds& target, Slice slice,
                         std::uint64_t seed, std::uint64_t pass)
    : index_(&index),
      class_id_(class_id),
      size_(index.size(class_id)),
      target_(&target),
      slice_(std::move(slice)),
      seed_(seed),
      pass_(pass) {
  if (size_ <= kUnsplitRows) return;
  slice_buckets_ = num_buckets(size_);
  bucket_bits_ = std::countr_zero(static_cast<std::uint64_t>(slice_buckets_));
  if (kMaxSlices > 1) slice_buckets_ /= slice_.count;
  rows_per_task_ = ceil_div(ceil_div(size_, kMaxTasks), kPartRows) * kPartRows;
  next_.resize(static_cast<std::size_t>(num_tasks() * slice_buckets_));
  if (slice_.buckets.empty()) {
    slice_.buckets = Buckets(size_, num_tasks(), bucket_bits_);
    stage_ = Stage::kCount;
  } else {
    begin_scatter();
  }
}

/// Return the number of tasks that count or scatter.
std::int64_t Permutation::num_tasks() const { return ceil_div(size_, rows_per_task_); }

std::int64_t Permutation::tasks() const {
  switch (stage_) {
    case Stage::kCount:
    case Stage::kScatter:
      return num_tasks();
    case Stage::kSwap:
      return slice_buckets_;
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
    std::vector<std::int64_t>& begin = slice_.buckets.begin_;
    const std::size_t buckets = std::size_t{1} << bucket_bits_;
    std::int64_t total = 0;
    for (std::size_t bucket = 0; bucket < buckets; ++bucket)
      for (std::size_t i = bucket; i < begin.size(); i += buckets) total += std::exchange(begin[i], total);
    begin_scatter();
    return;
  }
  stage_ = static_cast<Stage>(static_cast<int>(stage_) + 1);
}

/// Enter the stage that follows when the buckets are known.
void Permutation::begin_scatter() {
  const Buckets& buckets = slice_.buckets;
  const std::int64_t begin = buckets.begin(slice_.number, slice_.count);
  // The caller leaves so much room that this never happens. If it did, rows would be written beyond the target.
  if (buckets.begin(slice_.number + 1, slice_.count) - begin > slice_.max_rows) std::terminate();
  for (std::size_t i = 0; i < next_.size(); ++i) {
    const auto task = i / static_cast<std::size_t>(slice_buckets_),
               bucket = i % static_cast<std::size_t>(slice_buckets_);
    next_[i] =
        slice_.offset - begin +
        buckets.begin_[(task << bucket_bits_) + static_cast<std::size_t>(slice_.number * slice_buckets_) + bucket];
  }
  stage_ = Stage::kScatter;
}

/// Call visit(begin, end, random) for the parts of a task, where `random` draws the buckets of rows begin to end - 1.
template <class Visit>
void Permutation::for_parts_of(std::int64_t task, Visit&& visit) const {
  const std::int64_t end = std::min((task + 1) * rows_per_task_, size_);
  for (std::int64_t part = task * rows_per_task_; part < end; part += kPartRows) {
    Sfc64 random(RandomStream(seed_, Purpose::kBucket, static_cast<std::uint64_t>(class_id_), pass_,
                              static_cast<std::uint64_t>(part / kPartRows)));
    visit(part, std::min(part + kPartRows, end), random);
  }
}

/// Call visit(position, bucket, i) for the rows of a task, where i = 0 .. 3 cycles over consecutive rows.
template <class Visit>
void Permutation::for_buckets_of(std::int64_t task, Visit&& visit) const {
  for_parts_of(task, [&](std::int64_t row, std::int64_t end, Sfc64& random) {
    for (; row < end; row += 4) {
      const std::uint64_t word = random();  // 16 bits for each of four rows
      const auto visit_one = [&](int i) {
        visit(row + i, static_cast<std::size_t>((word >> (16 * i)) & 0xFFFF) >> (16 - bucket_bits_), i);
      };
      if (end - row >= 4) {
        for (int i = 0; i < 4; ++i) visit_one(i);
      } else {
        for (int i = 0; i < end - row; ++i) visit_one(i);
      }
    }
  });
}

void Permutation::count(std::int64_t task) {
  std::int64_t* const count = slice_.buckets.begin_.data() + (static_cast<std::size_t>(task) << bucket_bits_);
  const auto count_one_by_one = [&] {
    for_buckets_of(task, [&](std::int64_t, std::size_t bucket, int) { ++count[bucket]; });
  };
  if constexpr (kCompact) return count_one_by_one();
  // Four counters per bucket: with few buckets, a single one would stall on its previous increment at nearly every row.
  // Without memory for them, one per bucket: a task that has begun must end, since others wait for it.
  std::vector<std::int64_t> counts;
  try {
    counts.resize(std::size_t{4} << bucket_bits_, 0);
  } catch (const std::bad_alloc&) {
    return count_one_by_one();
  }
  for_buckets_of(task,
                 [&](std::int64_t, std::size_t bucket, int i) { ++counts[4 * bucket + static_cast<std::size_t>(i)]; });
  for (std::size_t i = 0; i < counts.size(); ++i) count[i / 4] += counts[i];
}

/// Call visit(position, bucket of the slice) for the rows of a task that belong to the slice.
template <class Visit>
void Permutation::for_buckets_in_slice(std::int64_t task, Visit&& visit) const {
  if (kMaxSlices == 1 || slice_.count == 1) {
    for_buckets_of(task, [&](std::int64_t row, std::size_t bucket, int) { visit(row, bucket); });
    return;
  }
  // Rows of the slice are first listed without branches, some thousands at a time.
  constexpr std::int64_t kRows = 4096;
  std::uint16_t chunk[kRows], hit[kRows + 1];
  const auto slice_shift = 16 - std::countr_zero(static_cast<std::uint64_t>(slice_.count));
  const auto bucket_shift = 16 - bucket_bits_;
  const auto first_bucket = static_cast<std::size_t>(slice_.number * slice_buckets_);
  for_parts_of(task, [&](std::int64_t begin, std::int64_t end, Sfc64& random) {
    for (; begin < end; begin += kRows) {
      for (std::size_t i = 0; i < kRows; i += 4) {
        const std::uint64_t word = random();
        for (std::size_t j = 0; j < 4; ++j) chunk[i + j] = static_cast<std::uint16_t>(word >> (16 * j));
      }
      const std::int64_t rows = std::min(kRows, end - begin);
      std::size_t hits = 0;
      for (std::int64_t i = 0; i < rows; ++i) {
        hit[hits] = static_cast<std::uint16_t>(i);
        hits += (chunk[i] >> slice_shift) == slice_.number ? 1 : 0;
      }
      for (std::size_t i = 0; i < hits; ++i)
        visit(begin + hit[i], (static_cast<std::size_t>(chunk[hit[i]]) >> bucket_shift) - first_bucket);
    }
  });
}

void Permutation::scatter(std::int64_t task) {
  std::int64_t* const next = next_.data() + task * slice_buckets_;
  target_->visit([&]<class Id>(std::span<Id> target) {
    if constexpr (sizeof(Id) == 2) return;  // has fewer than kUnsplitRows rows
    const std::int64_t offset = index_->offset(class_id_);
    index_->read<Id>(offset + task * rows_per_task_, [&](auto row_at) {
      for_buckets_in_slice(task, [&](std::int64_t position, std::size_t bucket) {
        target[static_cast<std::size_t>(next[bucket]++)] = row_at(offset + position);
      });
    });
  });
}

/// Shuffle a bucket, counted from the first one of the slice.
void Permutation::swap_bucket(std::int64_t bucket) {
  const bool split = bucket_bits_ > 0;
  const std::int64_t number = slice_.number * slice_buckets_ + bucket;
  std::int64_t begin = 0, end = size_;
  if (split) {
    const std::int64_t buckets = std::int64_t{1} << bucket_bits_;
    const std::int64_t begin_of_slice = slice_.buckets.begin(slice_.number, slice_.count);
    begin = slice_.buckets.begin(number, buckets) - begin_of_slice;
    end = slice_.buckets.begin(number + 1, buckets) - begin_of_slice;
  }
  target_->visit([&]<class Id>(std::span<Id> target_ids) {
    const std::span<Id> rows =
        target_ids.subspan(static_cast<std::size_t>(slice_.offset + begin), static_cast<std::size_t>(end - begin));
    const std::int64_t offset = index_->offset(class_id_);
    if (!split)
      index_->read<Id>(offset, [&](auto row_at) {
        for (std::int64_t i = 0; i < size_; ++i) rows[static_cast<std::size_t>(i)] = row_at(offset + i);
      });
    fisher_yates(rows, Sfc64(RandomStream(seed_, Purpose::kShuffle, static_cast<std::uint64_t>(class_id_), pass_,
                                          static_cast<std::uint64_t>(number))));
  });
}

void shuffle_all(const ClassIndex& index, std::uint64_t seed, std::uint64_t pass, int num_threads,
                 const RowIds& target) {
  const auto permutation = [&](std::int64_t k) {
    return Permutation(index, k, target, {.offset = index.offset(k), .max_rows = index.size(k)}, seed, pass);
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

}  // namespace l2m
