#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "l2m/base/compact.hpp"
#include "l2m/base/memory.hpp"
#include "l2m/plan/packed_rows.hpp"

namespace l2m {

/// Uninitialized array of row ids of 16, 32 or 64 bits each.
class RowIds {
 public:
  /// Largest size of an id, in bytes. More than 2^32 rows do not fit in the address space of a 32-bit machine.
  static constexpr int kMaxBytes = sizeof(std::size_t) > 4 ? 8 : 4;
  /// Return the number of bytes that an id below `data_rows` needs.
  static constexpr int bytes_for(std::int64_t data_rows) {
    return data_rows <= 1 << 16 ? 2 : data_rows <= std::int64_t{1} << 32 ? 4 : 8;
  }

  RowIds() = default;
  /// @param id_bytes  2, 4 or 8.
  /// @throws OutOfMemory
  RowIds(std::int64_t size, int id_bytes);

  [[nodiscard]] std::size_t size() const { return size_; }
  [[nodiscard]] int id_bytes() const { return id_bytes_; }

  /// Return the ids. @tparam Id  of id_bytes() bytes, unless the array is empty.
  template <class Id>
  [[nodiscard]] std::span<Id> ids() const {
    return {reinterpret_cast<Id*>(memory_.data()), size_};
  }

  /// Return f(ids), where ids is a span of std::uint16_t, std::uint32_t or std::uint64_t.
  template <class F>
  decltype(auto) visit(F&& f) const {
    if (id_bytes_ == 2) return f(ids<std::uint16_t>());
    if constexpr (kMaxBytes == 8)
      if (id_bytes_ == 8) return f(ids<std::uint64_t>());
    return f(ids<std::uint32_t>());
  }

  /// Return id i; i if the array is empty.
  std::int64_t operator[](std::int64_t i) const {
    const auto at = static_cast<std::size_t>(i);
    return size_ == 0 ? i : visit([&](auto rows) { return static_cast<std::int64_t>(rows[at]); });
  }

 private:
  int id_bytes_ = 4;
  std::size_t size_ = 0;
  Memory memory_;
};

/// Rows of each class. Those of class k are at positions offset(k) to offset(k + 1) - 1, in ascending order unless `rows` is
/// used as given.
class ClassIndex {
 public:
  /// With more rows than this and few classes, ids are packed if that at least halves their memory. Builds for size never pack.
  static constexpr std::int64_t kMaxPlainRows = std::int64_t{1} << 26;

  /// Create an index with one class of all `num_rows` rows. Row i is at position i; nothing is stored.
  explicit ClassIndex(std::int64_t num_rows);

  /// Sort rows by class, with a parallel counting sort.
  ///
  /// @param classes      [data_rows] class of each row of the data, in [0, num_classes); empty: one class.
  /// @param data_rows    number of rows of the data.
  /// @param rows         ids of the rows to use, unique, in any order; nullopt: all rows.
  /// @param shuffle      the rows will be shuffled. If not, `rows` without classes is used as given, and ids are not packed.
  /// @param min_id_bytes minimum size of the stored ids: 2, 4 or 8.
  /// @throws std::invalid_argument  a class is out of range or a row repeats.
  /// @throws std::out_of_range      a row id is outside [0, data_rows).
  template <class Class>
  ClassIndex(std::span<const Class> classes, std::int64_t num_classes, std::int64_t data_rows,
             std::optional<std::span<const std::int64_t>> rows, int num_threads, bool shuffle = true,
             int min_id_bytes = 2, std::int64_t max_plain_rows = kMaxPlainRows);

  [[nodiscard]] std::int64_t num_classes() const { return static_cast<std::int64_t>(offsets_.size()) - 1; }
  [[nodiscard]] std::int64_t num_rows() const { return offsets_.back(); }
  [[nodiscard]] std::int64_t offset(std::int64_t k) const { return offsets_[static_cast<std::size_t>(k)]; }
  [[nodiscard]] std::int64_t size(std::int64_t k) const { return offset(k + 1) - offset(k); }

  void prefetch_offset(std::int64_t k) const { __builtin_prefetch(&offsets_[static_cast<std::size_t>(k)]); }

  /// Return whether a row of the data belongs to class k. O(log size), O(size) if `rows` is used as given, O(65,536) if the
  /// ids are packed.
  [[nodiscard]] bool contains(std::int64_t k, std::int64_t row) const;

  /// Return whether row i is at position i for all i; rows() is then empty.
  [[nodiscard]] bool identity() const { return identity_; }
  /// Return whether rows can only be read in ascending order, by read(); rows() is then empty.
  [[nodiscard]] bool packed() const { return !kCompact && packed_ != nullptr; }
  [[nodiscard]] const RowIds& rows() const { return rows_; }
  /// Return the size of an id in bytes, also if none is stored.
  [[nodiscard]] int id_bytes() const { return id_bytes_; }

  /// Call f(row_at), where row_at(i) is the row at position i, for ascending i from `begin` on.
  /// @tparam Id  of id_bytes() bytes.
  template <class Id, class F>
  void read(std::int64_t begin, F&& f) const {
    if constexpr (kCompact) {
      f([this](std::int64_t i) { return static_cast<Id>(rows_[i]); });
    } else if (packed()) {
      PackedRows::Reader reader(*packed_, begin);
      f([&reader](std::int64_t i) { return static_cast<Id>(reader(i)); });
    } else if (identity_) {
      f([](std::int64_t i) { return static_cast<Id>(i); });
    } else {
      f([ids = rows_.ids<Id>().data()](std::int64_t i) { return ids[i]; });
    }
  }

  /// Return a 64-bit hash of the assignment of rows to classes, the same for any number of threads.
  [[nodiscard]] std::uint64_t fingerprint(int num_threads) const;

 private:
  template <class Classes>
  void sort(const Classes& classes, std::int64_t num_classes, std::int64_t data_rows,
            std::optional<std::span<const std::int64_t>> rows, int num_threads, std::int64_t max_plain_rows);
  template <class Parts>
  void place(const Parts& parts, int num_threads);
  template <class Parts>
  bool pack(const Parts& parts, int num_threads);

  bool identity_;
  bool ascending_;
  int id_bytes_;
  std::vector<std::int64_t> offsets_;
  RowIds rows_;
  std::shared_ptr<const PackedRows> packed_;  // null: rows_
};

}  // namespace l2m
