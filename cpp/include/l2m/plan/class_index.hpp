#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <optional>
#include <span>
#include <vector>

namespace l2m {

/// An array of row ids: 32 bits each where the number of rows allows, 64 bits beyond. Not initialised.
class RowIds {
 public:
  RowIds() = default;
  RowIds(std::int64_t size, bool wide);

  [[nodiscard]] bool wide() const { return wide_; }

  /// Calls f with the ids as a span of std::uint32_t or std::uint64_t and returns what it returns.
  template <class F>
  decltype(auto) visit(F&& f) const {
    if (wide_) return f(std::span(reinterpret_cast<std::uint64_t*>(bytes_.get()), size_));
    return f(std::span(reinterpret_cast<std::uint32_t*>(bytes_.get()), size_));
  }

 private:
  struct Free {
    void operator()(std::byte* bytes) const { std::free(bytes); }
  };

  bool wide_ = false;
  std::size_t size_ = 0;
  std::unique_ptr<std::byte[], Free> bytes_;
};

/// The rows of each class, ascending unless they are kept as given: rows[offsets[k]] .. rows[offsets[k + 1]] are those of
/// class k.
class ClassIndex {
 public:
  /// One class of all `num_rows` rows: row i is at position i, and nothing is stored.
  explicit ClassIndex(std::int64_t num_rows);

  /// Parallel counting sort of rows by class.
  ///
  /// @param classes      [data rows] class of each row of the data, in [0, num_classes); empty: all rows in one class.
  /// @param data_rows    rows of the data.
  /// @param rows         ids of the rows to take, without repeats, in any order; nothing: all rows.
  /// @param wide         64-bit row ids also where 32 bits would do.
  /// @param as_given     keep the order of `rows`; only without classes.
  /// @throws std::invalid_argument  a class is out of range or a row repeats.
  /// @throws std::out_of_range      a row id is outside [0, data_rows).
  template <class Class>
  ClassIndex(std::span<const Class> classes, std::int64_t num_classes, std::int64_t data_rows,
             std::optional<std::span<const std::int64_t>> rows, int num_threads, bool wide = false,
             bool as_given = false);

  [[nodiscard]] std::int64_t num_classes() const { return static_cast<std::int64_t>(offsets_.size()) - 1; }
  [[nodiscard]] std::int64_t num_rows() const { return offsets_.back(); }
  [[nodiscard]] std::int64_t offset(std::int64_t k) const { return offsets_[static_cast<std::size_t>(k)]; }
  [[nodiscard]] std::int64_t size(std::int64_t k) const { return offset(k + 1) - offset(k); }

  void prefetch_offset(std::int64_t k) const { __builtin_prefetch(&offsets_[static_cast<std::size_t>(k)]); }

  /// Whether a row of the data is one of class k. O(log size), or O(size) where rows are as given.
  [[nodiscard]] bool contains(std::int64_t k, std::int64_t row) const;

  /// Whether position i simply is row i; then rows() is empty.
  [[nodiscard]] bool identity() const { return identity_; }
  [[nodiscard]] const RowIds& rows() const { return rows_; }
  [[nodiscard]] bool wide() const { return wide_; }

  /// 64 bits that tell one assignment of rows to classes from another; the same for any number of threads.
  [[nodiscard]] std::uint64_t fingerprint(int num_threads) const;

 private:
  bool identity_;
  bool ascending_;
  bool wide_;
  std::vector<std::int64_t> offsets_;
  RowIds rows_;
};

}  // namespace l2m
