#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <list>
#include <map>
#include <memory>
#include <vector>

#include "l2m/base/compact.hpp"
#include "l2m/base/threads.hpp"
#include "l2m/plan/class_index.hpp"
#include "l2m/plan/permutation.hpp"

namespace l2m {

/// Row order of the current pass of every class.
///
/// A pass is computed as a whole or, with many rows, in slices that follow each other; either is a unit. The next unit of
/// a class is computed in the background while the current one is used, so that no batch waits for a whole permutation.
/// Small classes are shuffled on demand, and all of them if there is no background. Memory: one buffer of row ids, two
/// with a background; none without shuffling. A buffer has room for all rows, or for a slice of each sliced class.
/// Not thread-safe, except work(), has_work() and in_progress().
class Passes {
 public:
  /// @param in_background  other threads call work(), so that units are computed ahead.
  /// @param max_slices     slices of a class with as many buckets: a power of two, at most Permutation::kMaxSlices; 0: as
  ///                       many as the number of rows requires.
  /// @throws std::invalid_argument  the ids are packed, but not shuffled.
  Passes(std::shared_ptr<const ClassIndex> index, std::uint64_t seed, bool shuffle, bool in_background,
         std::int64_t max_slices = 0);

  /// Call f(row_at, end), where row_at(i) is row i of a pass of a class for i in [position, end), and start on the unit
  /// after it. `position` must be below the size of the class; `end` is greater than `position`.
  template <class F>
  void visit(std::int64_t class_id, std::uint64_t pass, std::int64_t position, F&& f) {
    if (!shuffle_ && index_->identity() && !kCompact) {
      f([](std::int64_t i) { return i; }, index_->size(class_id));
      return;
    }
    // Row i of the pass is rows[first + i].
    const RowIds* rows = &index_->rows();
    std::int64_t first = index_->offset(class_id);
    std::int64_t end = index_->size(class_id);
    if (is_sliced(class_id)) {
      const Sliced& slice = slice_at(class_id, pass, position);
      rows = &order(slice.unit);
      first = offset(class_id) - slice.begin;
      end = slice.end;
    } else if (shuffle_) {
      if (made_[buffer(class_id, pass)] != pass + 1) make_current(class_id, pass);
      rows = &order(pass);
      first = offset(class_id);
    }
    if constexpr (kCompact) {
      f([=](std::int64_t i) { return (*rows)[first + i]; }, end);
      return;
    }
    rows->visit([&](auto ids) {
      f([ids = ids.data(), first](std::int64_t i) { return static_cast<std::int64_t>(ids[first + i]); }, end);
    });
  }

  /// Prefetch what visit() reads into the cache: first the offset of a class; once that has arrived, its rows.
  void prefetch_class(std::int64_t class_id) const;
  void prefetch_rows(std::int64_t class_id, std::uint64_t pass, std::int64_t position) const;

  /// Start on the unit at a position of a pass in the background, unless it is complete, in progress, or too small to be
  /// worth a task.
  void prepare(std::int64_t class_id, std::uint64_t pass, std::int64_t position = 0);

  /// Free the memory until it is needed again, unless there is a background.
  void release();

  /// Run one task of the units in progress, if any is available. Thread-safe.
  bool work();
  /// Return whether a unit is being computed, with or without tasks to hand out at the moment. Thread-safe.
  [[nodiscard]] bool in_progress();
  /// Return whether work() would probably find a task.
  [[nodiscard]] bool has_work() const { return kHasThreads && open_jobs_.load(std::memory_order_relaxed) > 0; }

 private:
  /// The current slice of a class, and the buckets of the passes whose slices are in the buffers.
  struct Sliced {
    std::uint64_t unit = 0;
    std::int64_t begin = 0, end = 0;  // rows of the pass
    Permutation::Buckets buckets[2];
  };
  struct Job {
    Permutation permutation;
    std::uint64_t unit;
    std::int64_t next = 0;      // tasks of the stage that were handed out
    std::int64_t finished = 0;  // tasks of the stage that have completed
    bool canceled = false;
  };

  [[nodiscard]] bool is_sliced(std::int64_t class_id) const {
    return Permutation::kMaxSlices > 1 && shuffle_ && max_slices_ > 1 &&
           index_->size(class_id) > Permutation::kUnsplitRows;
  }
  /// Return the number of slices of a class that is sliced.
  [[nodiscard]] std::int64_t num_slices(std::int64_t class_id) const {
    return std::min(max_slices_, Permutation::num_buckets(index_->size(class_id)));
  }
  [[nodiscard]] unsigned num_buffers() const { return kHasThreads && in_background_ ? 2 : 1; }
  [[nodiscard]] const RowIds& order(std::uint64_t unit) const { return order_[unit & (num_buffers() - 1)]; }
  [[nodiscard]] std::size_t buffer(std::int64_t class_id, std::uint64_t unit) const {
    return static_cast<std::size_t>(class_id) * num_buffers() + static_cast<std::size_t>(unit & (num_buffers() - 1));
  }
  [[nodiscard]] std::int64_t offset(std::int64_t class_id) const {
    return offsets_.empty() ? index_->offset(class_id) : offsets_[static_cast<std::size_t>(class_id)];
  }
  [[nodiscard]] bool in_background(std::int64_t class_id) const;
  [[nodiscard]] std::int64_t rows_in_buffer() const;
  [[nodiscard]] std::int64_t max_rows(std::int64_t class_id) const;
  [[nodiscard]] Permutation permutation(std::int64_t class_id, std::uint64_t unit) const;
  [[nodiscard]] const Permutation::Buckets* buckets_of(std::int64_t class_id, std::uint64_t pass) const;
  [[nodiscard]] std::uint64_t unit_at(std::int64_t class_id, std::uint64_t pass, std::int64_t position) const;
  const Sliced& slice_at(std::int64_t class_id, std::uint64_t pass, std::int64_t position);
  void make_current(std::int64_t class_id, std::uint64_t unit);
  void prepare_unit(std::int64_t class_id, std::uint64_t unit);
  void finish(Job& job);
  void cancel(Job& job);
  bool run_task(Job& job, Lock& lock);

  const std::shared_ptr<const ClassIndex> index_;
  const std::uint64_t seed_;
  const bool shuffle_;
  const bool in_background_;
  const std::int64_t max_slices_;      // unit = pass * slices of the class + slice
  std::vector<std::int64_t> offsets_;  // [K + 1] of the classes in a buffer; empty: as in the index
  std::map<std::int64_t, Sliced> sliced_;
  RowIds order_[2];                  // order(u) holds unit u of a class, unless a later one took its place
  std::vector<std::uint64_t> made_;  // [K, buffers] unit + 1 in each buffer; 0: none
  std::map<std::size_t, std::shared_ptr<Job>> pending_;  // by buffer: jobs that may still be running

  Mutex mutex_;  // guards the members below and the counters of every job
  Condition progress_;
  std::list<std::shared_ptr<Job>> jobs_;  // neither done nor canceled
  Atomic<int> open_jobs_{0};              // those with tasks to hand out; written with the mutex held
};

}  // namespace l2m
