#pragma once

#include <cstdint>
#include <list>
#include <map>
#include <memory>
#include <span>
#include <vector>

#include "l2m/base/compact.hpp"
#include "l2m/base/threads.hpp"
#include "l2m/plan/class_index.hpp"

namespace l2m {

/// Permutation of the rows of one class, computed in stages of independent tasks.
///
/// Uniform over all permutations, and a function of (seed, class, pass) only. Up to kUnsplitRows rows it is a
/// Fisher-Yates shuffle. Larger classes use Rao-Sandelius: each row goes to a random bucket, then each bucket is
/// shuffled, so that threads share the work and the swaps stay in the cache. Scratch memory: at most 64 * 8 bytes per
/// bucket.
class Permutation {
 public:
  // About 1 ms of work. With fewer rows, splitting into buckets costs more than the smaller range of swaps saves.
  static constexpr std::int64_t kUnsplitRows = 1 << 19;
  static constexpr std::int64_t kBucketRows = 1 << 17;  // maximum of the mean, up to 2^33 rows
  static constexpr std::int64_t kPartRows = 1 << 16;    // rows whose buckets come from one random stream

  /// @param source  rows of the class, ascending; empty: row i is i.
  /// @param target  output for the permutation. Both outlive this object.
  Permutation(const RowIds& source, const RowIds& target, std::int64_t offset, std::int64_t size, std::uint64_t seed,
              std::uint64_t class_id, std::uint64_t pass);

  [[nodiscard]] bool done() const { return stage_ == Stage::kDone; }
  /// Return the number of tasks of the current stage. They may run on any thread, in any order.
  [[nodiscard]] std::int64_t tasks() const;
  void run(std::int64_t task);
  /// Enter the next stage. Call once, after all tasks of this stage have run.
  void next_stage();

 private:
  enum class Stage { kCount, kScatter, kSwap, kDone };
  void count(std::int64_t task);
  void scatter(std::int64_t task);
  void swap_bucket(std::int64_t bucket);
  template <class Visit>
  void for_buckets_of(std::int64_t task, Visit&& visit) const;

  const RowIds* source_;
  const RowIds* target_;
  std::int64_t offset_, size_;
  std::uint64_t seed_, class_id_, pass_;
  int bucket_bits_ = 0;
  std::int64_t rows_per_task_ = 0;
  Stage stage_ = Stage::kSwap;
  std::vector<std::int64_t> next_;    // [tasks, buckets] number of rows, then position of the next one
  std::vector<std::int64_t> bucket_;  // [buckets + 1] begin of each bucket
};

/// Write the permutations of one pass of every class of `index` to `target`, which has the layout of the index.
void shuffle_all(const ClassIndex& index, std::uint64_t seed, std::uint64_t pass, int num_threads,
                 const RowIds& target);

/// Row order of the current and the next pass of every class.
///
/// The next pass of a class is computed in the background while the current one is used, so that no batch waits for a
/// whole permutation. Small classes are shuffled on demand, and all of them if there is no background. Memory: one buffer
/// of row ids, two with a background; none without shuffling. Not thread-safe, except work().
class Passes {
 public:
  /// @param in_background  other threads call work(), so that passes are computed ahead.
  Passes(std::shared_ptr<const ClassIndex> index, std::uint64_t seed, bool shuffle, bool in_background);

  /// Call f(row_at), where row_at(i) is row i of a pass of a class, and start on the pass after it.
  template <class F>
  void visit(std::int64_t class_id, std::uint64_t pass, F&& f) {
    if (!shuffle_ && index_->identity() && !kCompact) {
      f([](std::int64_t i) { return i; });
      return;
    }
    if (shuffle_ && made_[buffer(class_id, pass)] != pass + 1) make_current(class_id, pass);
    const RowIds& ids_of_classes = shuffle_ ? order(pass) : index_->rows();
    if constexpr (kCompact) {
      f([&, offset = index_->offset(class_id)](std::int64_t i) { return ids_of_classes[offset + i]; });
      return;
    }
    ids_of_classes.visit([&](auto ids) {
      f([rows = ids.data() + index_->offset(class_id)](std::int64_t i) { return static_cast<std::int64_t>(rows[i]); });
    });
  }

  /// Prefetch what visit() reads into the cache: first the offset of a class; once that has arrived, its rows.
  void prefetch_class(std::int64_t class_id) const;
  void prefetch_rows(std::int64_t class_id, std::uint64_t pass, std::int64_t position) const;

  /// Start on a pass of a class in the background, unless it is complete, in progress, or too small to be worth a task.
  void prepare(std::int64_t class_id, std::uint64_t pass);

  /// Free the memory until it is needed again, unless there is a background.
  void release();

  /// Run one task of the passes in progress, if any is available. Thread-safe.
  bool work();
  /// Return whether a pass is being computed, with or without tasks to hand out at the moment. Thread-safe.
  [[nodiscard]] bool in_progress();
  /// Return whether work() would probably find a task.
  [[nodiscard]] bool has_work() const { return kHasThreads && open_jobs_.load(std::memory_order_relaxed) > 0; }

 private:
  struct Job {
    Permutation permutation;
    std::uint64_t pass;
    std::int64_t next = 0;      // tasks of the stage that were handed out
    std::int64_t finished = 0;  // tasks of the stage that have completed
    bool canceled = false;
  };

  [[nodiscard]] unsigned num_buffers() const { return kHasThreads && in_background_ ? 2 : 1; }
  [[nodiscard]] const RowIds& order(std::uint64_t pass) const { return order_[pass & (num_buffers() - 1)]; }
  [[nodiscard]] std::size_t buffer(std::int64_t class_id, std::uint64_t pass) const {
    return static_cast<std::size_t>(class_id) * num_buffers() + static_cast<std::size_t>(pass & (num_buffers() - 1));
  }
  [[nodiscard]] bool in_background(std::int64_t class_id) const;
  [[nodiscard]] Permutation permutation(std::int64_t class_id, std::uint64_t pass) const;
  void make_current(std::int64_t class_id, std::uint64_t pass);
  void finish(Job& job);
  void cancel(Job& job);
  bool run_task(Job& job, Lock& lock);

  const std::shared_ptr<const ClassIndex> index_;
  const std::uint64_t seed_;
  const bool shuffle_;
  const bool in_background_;
  RowIds order_[2];                  // order(p) holds pass p of a class, unless a later one took its place
  std::vector<std::uint64_t> made_;  // [K, buffers] pass + 1 in each buffer; 0: none
  std::map<std::size_t, std::shared_ptr<Job>> pending_;  // by buffer: jobs that may still be running

  Mutex mutex_;  // guards the members below and the counters of every job
  Condition progress_;
  std::list<std::shared_ptr<Job>> jobs_;  // neither done nor canceled
  Atomic<int> open_jobs_{0};              // those with tasks to hand out; written with the mutex held
};

}  // namespace l2m
