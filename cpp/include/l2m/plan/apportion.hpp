#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace l2m {

/// When each class is due for one row more than its whole quota.
struct DueTimes {
  std::vector<std::uint64_t> visits;   ///< [K] extra rows it has had
  std::vector<std::uint16_t> offsets;  ///< [K] where in its interval the next one is due; unit: 2^-16 of the interval
  /// [K] When the next one is due; unit: steps since the beginning of training. Of a class whose quotas are whole: how much
  /// of a row it must still become entitled to until then.
  std::vector<double> due;

  bool operator==(const DueTimes&) const = default;
};

/// Whole rows of each class in consecutive batches.
struct Quotas {
  /// In every batch `whole` rows, and in the batches batch[begin] .. batch[end - 1] one more.
  struct Class {
    std::int64_t class_id;
    std::int64_t whole;
    std::size_t begin, end;
  };
  std::int64_t num_batches = 0;
  std::vector<Class> classes;  ///< ascending; those that have rows
  // Of extra rows, class after class and ascending in each; between the classes there may be others, which say nothing.
  std::vector<std::int32_t> batch;
  std::vector<double> due;            ///< when the class was due for it; due[end] is when it is due again
  std::vector<std::uint16_t> offset;  ///< likewise

  void clear();
};

/// Turns proportions into whole rows of each class, batch after batch.
///
/// Every class gets floor(proportion * batch_size) rows; each row left over goes to a class that has been due longest,
/// ties to the smaller class id. A class is due once in every interval of 1 / (fractional part) steps, at an offset that
/// starts uniform and then moves by up to half an interval from one visit to the next, reflected at both ends: so it stays
/// uniform, no two due times are more than 1.5 intervals apart, and which classes meet in a batch varies.
/// sum(quota) == batch_size always, and drift stays bounded forever. Addressed by (seed, class, visit).
///
/// Differs on purpose from the Learn2Mix reference, which floors and so shrinks batches.
class Apportioner {
 public:
  /// @param batch_size  rows of a (global) batch, in [1, 2^31).
  Apportioner(std::uint64_t seed, std::int64_t batch_size);

  /// Due times of classes that have had no extra row yet.
  void start(std::span<const double> proportions, std::uint64_t step, DueTimes& due) const;

  /// Carries due times over a change of proportions before the batch of `step`: what is owed stays owed, also where a class
  /// gets no extra rows for a while.
  void change(std::span<const double> from, std::span<const double> to, std::uint64_t step, DueTimes& due) const;

  /// Takes proportions (normalised) for the next() calls to come. O(K).
  void set(std::span<const double> proportions);

  /// The quotas of the batches from `step` on, and moves the due times on: of at least one and at most `most_batches`
  /// batches, most often of nearly as many. How many they are changes nothing about each of them.
  ///
  /// O(K + rows left over in the batches), without allocation once it has run for some time.
  void next(std::uint64_t step, std::int64_t most_batches, DueTimes& due, Quotas& quotas);

 private:
  struct Share {
    std::int64_t whole;
    double fraction;
  };
  [[nodiscard]] Share share(double proportion) const;
  bool find_candidates(std::uint64_t step, std::int32_t most_batches, const DueTimes& due, Quotas& quotas);
  std::int32_t serve_candidates(std::int32_t most_batches, Quotas& quotas);
  void next_one(DueTimes& due, Quotas& quotas);

  const std::uint64_t seed_;
  const std::int64_t batch_size_;
  std::int64_t extra_ = 0;  // rows left over in every batch
  // Of the classes with a share, ascending:
  std::vector<std::int64_t> class_ids_;
  std::vector<std::int64_t> whole_;
  std::vector<double> fraction_;

  // Of next(): times at which classes are due are candidates, listed in Quotas::due; those of about one time are a bucket.
  std::vector<std::uint32_t> bucket_end_;  // in order_
  std::vector<std::uint32_t> order_;       // candidates, bucket after bucket, and in a bucket by class
  std::vector<std::uint32_t> deferred_;
  std::vector<std::pair<double, std::size_t>> waiting_;  // of next_one()
};

}  // namespace l2m
