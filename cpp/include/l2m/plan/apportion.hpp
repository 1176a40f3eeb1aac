#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace l2m {

/// Times at which each class is due for one row beyond floor(proportion * batch_size).
struct DueTimes {
  std::vector<std::uint64_t> visits;   ///< [K] extra rows served so far
  std::vector<std::uint16_t> offsets;  ///< [K] next due time within its interval; unit: 2^-16 intervals
  /// [K] Next due time, in steps since the beginning of training. For a class whose quota is a whole number: the
  /// fraction of a row that it still has to earn.
  std::vector<double> due;

  bool operator==(const DueTimes&) const = default;
};

/// Whole rows of each class in consecutive batches.
struct Quotas {
  /// `whole` rows in every batch, and one more in each of the batches batch[begin] .. batch[end - 1].
  struct Class {
    std::int64_t class_id;
    std::int64_t whole;
    std::size_t begin, end;
  };
  std::int64_t num_batches = 0;
  std::vector<Class> classes;  ///< ascending; only classes that have rows
  // One entry per extra row, sorted by class, then by time. Entries between the ranges of two classes have no meaning.
  std::vector<std::int32_t> batch;
  std::vector<double> due;            ///< time at which the class was due; due[end] is its next due time
  std::vector<std::uint16_t> offset;  ///< the same for offsets

  void clear();
};

/// Converter of proportions to whole rows of each class, batch after batch.
///
/// Every class gets floor(proportion * batch_size) rows. Each remaining row goes to the class with the earliest
/// due time; ties go to the smaller class id. A class is due once in every interval of 1 / (fractional part) steps. Its
/// offset within the interval starts uniform and moves by up to half an interval from one visit to the next, reflected
/// at both ends. So the offset stays uniform, due times are at most 1.5 intervals apart, and the classes that share a
/// batch vary. sum(quota) == batch_size always, and drift stays bounded. Randomness is addressed by (seed, class,
/// visit).
///
/// The Learn2Mix reference implementation rounds down instead, which shrinks batches.
class Apportioner {
 public:
  /// @param batch_size  rows of a (global) batch, in [1, 2^31).
  Apportioner(std::uint64_t seed, std::int64_t batch_size);

  /// Initialize the due times of classes that have had no extra row yet.
  void start(std::span<const double> proportions, std::uint64_t step, DueTimes& due) const;

  /// Convert due times to new proportions before the batch of `step`. A class keeps the fraction of a row it has
  /// earned, even if it gets no extra rows for a while.
  void change(std::span<const double> from, std::span<const double> to, std::uint64_t step, DueTimes& due) const;

  /// Set the (normalized) proportions for subsequent next() calls. O(K).
  void set(std::span<const double> proportions);

  /// Compute the quotas of the batches from `step` on and advance the due times.
  ///
  /// Returns between one and `max_batches` batches, usually almost `max_batches`. The quotas of a batch do not depend
  /// on how many are computed together. O(K + extra rows), without allocation after some calls.
  void next(std::uint64_t step, std::int64_t max_batches, DueTimes& due, Quotas& quotas);

  /// Return how many batches with as many extra rows each can be computed together without an overflow: at most
  /// `max_batches`, and at most 0 if they have to be computed one by one.
  static std::int64_t max_batches_at_once(std::int64_t extra_rows, std::int64_t max_batches);

 private:
  struct Share {
    std::int64_t whole;
    double fraction;
  };
  [[nodiscard]] Share share(double proportion) const;
  std::size_t visits(std::size_t k, double interval, std::int32_t max_times, double horizon, const DueTimes& due,
                     double* times, std::uint16_t* offsets) const;
  bool find_candidates(std::uint64_t step, std::int32_t max_batches, const DueTimes& due, Quotas& quotas);
  std::int32_t serve_candidates(std::int32_t max_batches, Quotas& quotas);
  void next_single(DueTimes& due, Quotas& quotas);

  const std::uint64_t seed_;
  const std::int64_t batch_size_;
  std::int64_t extra_ = 0;  // extra rows per batch
  // For each class with a share, ascending:
  std::vector<std::int64_t> class_ids_;
  std::vector<std::int64_t> whole_;
  std::vector<double> fraction_;

  // Scratch of next(). Candidates are due times, listed in Quotas::due; a bucket holds those of about the same time.
  std::vector<std::int32_t> bucket_;       // of each candidate
  std::vector<std::uint32_t> bucket_end_;  // in order_
  std::vector<std::uint32_t> order_;       // candidates by bucket, and by class within a bucket
  std::vector<std::uint32_t> deferred_;
  std::vector<std::pair<double, std::size_t>> waiting_;  // scratch of next_single()
};

}  // namespace l2m
