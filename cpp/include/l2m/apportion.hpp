#pragma once

#include <array>
#include <compare>
#include <cstdint>
#include <span>
#include <vector>

namespace l2m {

/// When a class is due for one row more than its whole quota.
struct DueTime {
  std::uint64_t visit = 0;  ///< extra rows it has had
  double due = 0.0;         ///< unit: steps since the beginning of training; 0 where the class never gets an extra row

  bool operator==(const DueTime&) const = default;
};

/// Whole rows of a class in one batch.
struct Quota {
  std::int64_t class_id;
  std::int64_t rows;
};

/// Classes by the time they are due: a monotone radix heap (Ahuja, Mehlhorn, Orlin, Tarjan 1990) over eighths of a step.
///
/// Entries move down from far buckets to near ones in sequential passes, a few nanoseconds each however many classes
/// wait, where a binary heap of a million entries misses the cache at every level.
class DueQueue {
 public:
  struct Entry {
    double due;
    std::int64_t class_id;
    auto operator<=>(const Entry&) const = default;
  };

  void clear();
  void push(Entry entry);
  /// Moves the `count` entries of smallest (due, class) to `taken`, in no order. There must be as many.
  void take(std::size_t count, std::vector<Entry>& taken);

 private:
  /// Brings the entries that are due first to near_, which is empty.
  void advance();

  // Digits of 8 bits: what is due within 32 steps mostly moves once.
  static constexpr int kDigitBits = 8;
  static constexpr int kLevels = 8;
  static constexpr std::size_t kDigits = 256;
  static std::size_t digit(std::uint64_t key, int level) { return (key >> (level * kDigitBits)) % kDigits; }

  std::uint64_t now_ = 0;
  std::vector<Entry> near_;  // keys <= now_
  // By the highest digit in which the key differs from now_, and its value.
  std::array<std::array<std::vector<Entry>, kDigits>, kLevels> far_;
  std::vector<Entry> moving_;
};

/// A set of class ids that is emptied in ascending order, O(1) an id.
class ClassSet {
 public:
  void resize(std::size_t num_classes);
  void insert(std::int64_t class_id);
  void drain_to(std::vector<std::int64_t>& ascending);

 private:
  std::vector<std::uint64_t> members_;  // a bit for each class
  std::vector<std::uint64_t> words_;    // a bit for each word of members_ that is not 0
};

/// Turns proportions into whole rows of each class, batch after batch.
///
/// Every class gets floor(proportion * batch_size) rows; each row left over goes to a class that has been due longest,
/// ties to the smaller class id, which is then due again 1 / (fractional part) steps later, jittered uniformly by up to
/// one such interval. So sum(quota) == batch_size always, drift stays bounded for ever, and which classes meet in a
/// batch varies. Addressed by (seed, class, visit).
///
/// Differs on purpose from the Learn2Mix reference, which floors and so shrinks batches.
class Apportioner {
 public:
  /// @param batch_size  rows of a (global) batch, in [1, 2^31).
  Apportioner(std::uint64_t seed, std::int64_t batch_size);

  /// Due times of classes that have had no extra row yet.
  void start(std::span<const double> proportions, std::uint64_t step, std::span<DueTime> due) const;

  /// Carries due times over a change of proportions before the batch of `step`: what is owed stays owed.
  void change(std::span<const double> from, std::span<const double> to, std::uint64_t step,
              std::span<DueTime> due) const;

  /// Takes proportions (normalised) and due times for the next() calls to come. O(K).
  void set(std::span<const double> proportions, std::span<const DueTime> due);

  /// The classes of the next batch and their rows, ascending by class, all rows > 0; moves the due times on.
  /// Valid until the next call. O(classes in the batch), and now and then O(K) for many batches to come.
  std::span<const Quota> next(std::span<DueTime> due);

 private:
  struct Share {
    std::int64_t whole;
    double fraction;
  };
  [[nodiscard]] Share share(double proportion) const;
  void serve(std::int64_t class_id, DueTime& due);

  const std::uint64_t seed_;
  const std::int64_t batch_size_;
  std::vector<Quota> whole_;      // classes that have whole rows in every batch
  std::vector<double> fraction_;  // [K]
  std::int64_t extra_ = 0;        // rows left over in every batch
  DueQueue queue_;                // classes with a fraction
  std::vector<DueQueue::Entry> taken_;
  ClassSet served_;
  std::vector<std::int64_t> served_ascending_;
  std::vector<Quota> quotas_;
};

}  // namespace l2m
