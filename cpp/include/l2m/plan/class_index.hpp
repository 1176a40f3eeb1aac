#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <optional>
#include <span>
#include <vector>

namespace l2m {

/// Uninitialized array of row ids: 32 bits each if the number of rows allows, else 64 bits.
class RowIds {
 public:
  RowIds() = default;
  RowIds(std::int64_t size, bool wide);

  [[nodiscard]] bool wide() const { return wide_; }

  /// Return f(ids), where ids is a span of std::uint32_t or std::uint64_t.
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

/// Rows of each class: rows[offsets[k]] .. rows[offsets[k + 1] - 1] belong to class k, ascending unless as_given.
class ClassIndex {
 public:
  /// Create an index with one class of all `num_rows` rows. Row i is at position i; nothing is stored.
  explicit ClassIndex(std::int64_t num_rows);

  /// Sort rows by class, with a parallel counting sort.
  ///
  /// @param classes      [data_rows] class of each row of the data, in [0, num_classes); empty: one class.
  /// @param data_rows    number of rows of the data.
  /// @param rows         ids of the rows to use, unique, in any order; nullopt: all rows.
  /// @param wide         use 64-bit row ids even if 32 bits suffice.
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

  /// Return whether a row of the data belongs to class k. O(log size), or O(size) if as_given.
  [[nodiscard]] bool contains(std::int64_t k, std::int64_t row) const;

  /// Return whether row i is at position i for all i; rows() is then empty.
  [[nodiscard]] bool identity() const { return identity_; }
  [[nodiscard]] const RowIds& rows() const { return rows_; }
  [[nodiscard]] bool wide() const { return wide_; }

  /// Return a 64-bit hash of the assignment of rows to classes, the same for any number of threads.
  [[nodiscard]] std::uint64_t fingerprint(int num_threads) const;

 private:
  bool identity_;
  bool ascending_;
  bool wide_;
  std::vector<std::int64_t> offsets_;
  RowIds rows_;
};

}  // namespace l2m
