#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <memory>
#include <mutex>
#include <span>
#include <unordered_map>
#include <vector>

#include "l2m/plan/class_index.hpp"

namespace l2m {

/// One permutation of the rows of one class, made in stages of independent tasks.
///
/// Uniform over all permutations and a function of (seed, class, pass) alone. Up to kUnsplitRows rows: Fisher-Yates.
/// Beyond: Rao-Sandelius - every row goes to a random bucket, then Fisher-Yates inside each bucket - so that threads
/// share the work and the swaps stay in the cache. Memory beyond the target: at most 64 * 8 bytes a bucket.
class Permutation {
 public:
  // About 1 ms of work: making buckets of fewer rows costs more than swaps gain by a smaller range.
  static constexpr std::int64_t kUnsplitRows = 1 << 19;
  static constexpr std::int64_t kBucketRows = 1 << 17;  // on average, at most, unless there are 2^33 rows
  static constexpr std::int64_t kPartRows = 1 << 16;    // their buckets are drawn from one stream

  /// @param source  rows of the class, ascending; empty: row i is i.
  /// @param target  where the permutation is written; both outlive this object.
  Permutation(const RowIds& source, const RowIds& target, std::int64_t offset, std::int64_t size, std::uint64_t seed,
              std::uint64_t class_id, std::uint64_t pass);

  [[nodiscard]] bool done() const { return stage_ == Stage::kDone; }
  /// Tasks of this stage, each of which may run on any thread at any time before the next stage.
  [[nodiscard]] std::int64_t tasks() const;
  void run(std::int64_t task);
  /// To be called once, when all tasks of this stage have run.
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
  std::int64_t rows_a_task_ = 0;
  Stage stage_ = Stage::kSwap;
  std::vector<std::int64_t> next_;    // [tasks, buckets] rows of the task in the bucket, then where its next one goes
  std::vector<std::int64_t> bucket_;  // [buckets + 1] where each bucket begins
};

/// Writes the permutations of one pass of every class of `index` to `target`, laid out as in the index.
void shuffle_all(const ClassIndex& index, std::uint64_t seed, std::uint64_t pass, int num_threads,
                 const RowIds& target);

/// The row order of the current and of the next pass of every class.
///
/// The next pass of a class is made in the background while the current one is used, so that no batch waits for a
/// whole permutation; classes of few rows are shuffled when they are needed. Two buffers, row ids wide each; none
/// without shuffling. One thread at a time may use it, but for work().
class Passes {
 public:
  /// @param in_background  whether other threads call work(), so that passes are made ahead.
  Passes(std::shared_ptr<const ClassIndex> index, std::uint64_t seed, bool shuffle, bool in_background);

  /// Calls f(row_at), where row_at(i) is row i of a pass of a class, and starts on the pass after it.
  template <class F>
  void visit(std::int64_t class_id, std::uint64_t pass, F&& f) {
    if (!shuffle_ && index_->identity()) {
      f([](std::int64_t i) { return i; });
      return;
    }
    if (shuffle_ && made_[buffer(class_id, pass)] != pass + 1) make_current(class_id, pass);
    (shuffle_ ? order_[pass % 2] : index_->rows()).visit([&](auto ids) {
      f([rows = ids.data() + index_->offset(class_id)](std::int64_t i) { return static_cast<std::int64_t>(rows[i]); });
    });
  }

  /// Brings what visit() will touch into the cache: first where a class is, and when that is there, where its rows are.
  void prefetch_class(std::int64_t class_id) const;
  void prefetch_rows(std::int64_t class_id, std::uint64_t pass, std::int64_t position) const;

  /// Starts on a pass of a class unless it is there, under way, or of too few rows to be worth a task.
  void prepare(std::int64_t class_id, std::uint64_t pass);

  /// Runs one task of the passes that are being made, if one is to be had. Any thread may call.
  bool work();
  /// Whether work() would probably find a task.
  [[nodiscard]] bool has_work() const { return open_jobs_.load(std::memory_order_relaxed) > 0; }

 private:
  struct Job {
    Permutation permutation;
    std::uint64_t pass;
    std::int64_t next = 0;      // tasks of the stage handed out
    std::int64_t finished = 0;  // tasks of the stage that have run
    bool cancelled = false;
  };

  [[nodiscard]] static std::size_t buffer(std::int64_t class_id, std::uint64_t pass) {
    return static_cast<std::size_t>(class_id) * 2 + pass % 2;
  }
  [[nodiscard]] Permutation permutation(std::int64_t class_id, std::uint64_t pass) const;
  void make_current(std::int64_t class_id, std::uint64_t pass);
  void finish(Job& job);
  void cancel(Job& job);
  bool run_task(Job& job, std::unique_lock<std::mutex>& lock);

  const std::shared_ptr<const ClassIndex> index_;
  const std::uint64_t seed_;
  const bool shuffle_;
  const bool in_background_;
  RowIds order_[2];                                                // pass p of every class is in order_[p % 2]
  std::vector<std::uint64_t> made_;                                // [2 K] pass + 1 that a buffer holds, 0: none
  std::unordered_map<std::size_t, std::shared_ptr<Job>> pending_;  // by buffer: begun and not yet known to be done

  std::mutex mutex_;  // guards all below and the counters of every job
  std::condition_variable progress_;
  std::deque<std::shared_ptr<Job>> jobs_;  // not done, nor given up
  std::atomic<int> open_jobs_{0};          // of those, how many have a task to hand out; written with the mutex held
};

}  // namespace l2m
