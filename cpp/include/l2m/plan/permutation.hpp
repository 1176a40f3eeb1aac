#pragma once

#include <cstdint>
#include <vector>

#include "l2m/base/compact.hpp"
#include "l2m/plan/class_index.hpp"

namespace l2m {

/// Permutation of the rows of one class, or a slice of it, computed in stages of independent tasks.
///
/// Uniform over all permutations, and a function of (seed, class, pass) only. Up to kUnsplitRows rows it is a
/// Fisher-Yates shuffle. Larger classes use Rao-Sandelius: each row goes to a random bucket, then each bucket is
/// shuffled, so that threads share the work and the swaps stay in the cache. Scratch memory: at most 2 * 64 * 8 bytes
/// per bucket.
class Permutation {
 public:
  // About 1 ms of work. With fewer rows, splitting into buckets costs more than the smaller range of swaps saves.
  static constexpr std::int64_t kUnsplitRows = 1 << 19;
  static constexpr std::int64_t kBucketRows = 1 << 17;           // maximum of the mean, up to 2^33 rows
  static constexpr std::int64_t kPartRows = 1 << 16;             // rows whose buckets come from one random stream
  static constexpr std::int64_t kMaxSlices = kCompact ? 1 : 16;  // builds for size compute whole permutations only

  /// Return the number of buckets into which `size` rows are split, a power of two; 1: they are not split.
  static std::int64_t num_buckets(std::int64_t size);

  /// Positions in a pass at which its buckets begin, the same for all slices of the pass.
  class Buckets {
   public:
    Buckets() = default;
    Buckets(std::int64_t size, std::int64_t tasks, int bits)
        : size_(size), bits_(bits), begin_(static_cast<std::size_t>(tasks) << bits) {}

    [[nodiscard]] bool empty() const { return begin_.empty(); }
    /// Divide the buckets into `count` equal groups, and return where group `number` begins; where the pass ends if there is
    /// no such group.
    [[nodiscard]] std::int64_t begin(std::int64_t number, std::int64_t count) const {
      return number == count ? size_ : begin_[static_cast<std::size_t>((number << bits_) / count)];
    }

   private:
    friend class Permutation;
    std::int64_t size_ = 0;
    int bits_ = 0;
    std::vector<std::int64_t> begin_;  // [tasks, buckets] number of rows; then position of the first one
  };

  /// Part of a permutation: an equal share of its buckets.
  struct Slice {
    std::int64_t number = 0;
    std::int64_t count = 1;     ///< slices of the permutation: a power of two, at most num_buckets(size)
    std::int64_t offset = 0;    ///< first of the rows in the target
    std::int64_t max_rows = 0;  ///< room for rows in the target
    Buckets buckets = {};       ///< what buckets() of another slice of the pass returned, if any
  };

  /// @param target  output, with the ids of the index in size. Both outlive this object.
  Permutation(const ClassIndex& index, std::int64_t class_id, const RowIds& target, Slice slice, std::uint64_t seed,
              std::uint64_t pass);

  [[nodiscard]] bool done() const { return stage_ == Stage::kDone; }
  /// Return the number of tasks of the current stage. They may run on any thread, in any order.
  [[nodiscard]] std::int64_t tasks() const;
  void run(std::int64_t task);
  /// Enter the next stage. Call once, after all tasks of this stage have run.
  void next_stage();

  /// Return the buckets of the pass once the permutation is done; empty if it is not split.
  [[nodiscard]] const Buckets& buckets() const { return slice_.buckets; }

 private:
  enum class Stage { kCount, kScatter, kSwap, kDone };
  [[nodiscard]] std::int64_t num_tasks() const;
  void count(std::int64_t task);
  void begin_scatter();
  void scatter(std::int64_t task);
  void swap_bucket(std::int64_t bucket);
  template <class Visit>
  void for_parts_of(std::int64_t task, Visit&& visit) const;
  template <class Visit>
  void for_buckets_of(std::int64_t task, Visit&& visit) const;
  template <class Visit>
  void for_buckets_in_slice(std::int64_t task, Visit&& visit) const;

  const ClassIndex* index_;
  std::int64_t class_id_;
  std::int64_t size_;
  const RowIds* target_;
  Slice slice_;
  std::uint64_t seed_, pass_;
  int bucket_bits_ = 0;
  std::int64_t slice_buckets_ = 1;  // buckets of the slice
  std::int64_t rows_per_task_ = 0;
  Stage stage_ = Stage::kSwap;
  std::vector<std::int64_t> next_;  // [tasks, buckets of the slice] place of the next row in the target
};

/// Write the permutations of one pass of every class of `index` to `target`, which has the layout of the index.
void shuffle_all(const ClassIndex& index, std::uint64_t seed, std::uint64_t pass, int num_threads,
                 const RowIds& target);

}  // namespace l2m
