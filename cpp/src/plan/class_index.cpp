#include "l2m/plan/class_index.hpp"

#include <algorithm>
#include <new>
#include <numeric>
#include <stdexcept>
#include <utility>

#include "l2m/base/compact.hpp"
#include "l2m/base/errors.hpp"
#include "l2m/base/memory.hpp"
#include "l2m/base/random.hpp"
#include "l2m/run/thread_pool.hpp"

namespace l2m {
namespace {

constexpr std::int64_t kMinRowsPerPart = 1 << 16;
// With more, the gaps between the rows of most classes would be long, and the segments short: each takes 16 bytes.
constexpr std::int64_t kMaxPackedClasses = 512;

/// Rows that are sorted by class, in parts that threads process side by side.
template <class Classes>
struct Parts {
  const Classes& classes;  // empty: one class
  std::int64_t num_classes;
  const std::vector<std::int64_t>* taken;  // rows to sort, ascending or as given; null: all rows
  std::int64_t num_rows;
  std::int64_t rows_per_part = kMinRowsPerPart;

  [[nodiscard]] std::int64_t count() const {
    return std::max<std::int64_t>((num_rows + rows_per_part - 1) / rows_per_part, 1);
  }
  [[nodiscard]] std::int64_t row_at(std::int64_t i) const {
    return taken == nullptr ? i : (*taken)[static_cast<std::size_t>(i)];
  }
  [[nodiscard]] std::int64_t first_row(std::int64_t part) const { return row_at(part * rows_per_part); }

  /// Call visit(row, class) for the rows of a part.
  template <class Visit>
  void for_rows(std::int64_t part, Visit&& visit) const {
    const std::int64_t end = std::min((part + 1) * rows_per_part, num_rows);
    for (std::int64_t i = part * rows_per_part; i < end; ++i) {
      const std::int64_t row = row_at(i);
      visit(row, classes.empty() ? 0 : static_cast<std::int64_t>(classes[static_cast<std::size_t>(row)]));
    }
  }
  /// Call visit(row, class) for the rows of a part. @throws std::invalid_argument  a class is out of range.
  template <class Visit>
  void for_checked_rows(std::int64_t part, Visit&& visit) const {
    for_rows(part, [&](std::int64_t row, std::int64_t k) {
      if (k < 0 || k >= num_classes) refuse("classes must be in [0, ", num_classes, ") (got ", k, " at row ", row, ")");
      visit(row, k);
    });
  }
};

/// Return the ids of `rows` after checking them.
std::vector<std::int64_t> checked_rows(std::span<const std::int64_t> rows, std::int64_t data_rows) {
  std::vector<bool> taken(checked_size("the data", data_rows, 1));
  for (const std::int64_t row : rows) {
    if (row < 0 || row >= data_rows)
      throw_error<std::out_of_range>("rows must be ids in [0, ", data_rows, ") (got ", row, ")");
    if (taken[static_cast<std::size_t>(row)]) refuse("rows must be unique (got ", row, " twice)");
    taken[static_cast<std::size_t>(row)] = true;
  }
  return {rows.begin(), rows.end()};
}

}  // namespace

RowIds::RowIds(std::int64_t size, int id_bytes)
    : id_bytes_(id_bytes), size_(static_cast<std::size_t>(size)), memory_(memory_for("the ids", size, id_bytes)) {}

ClassIndex::ClassIndex(std::int64_t num_rows)
    : identity_(true), ascending_(true), id_bytes_(RowIds::bytes_for(num_rows)), offsets_{0, num_rows} {}

template <class Class>
ClassIndex::ClassIndex(std::span<const Class> classes, std::int64_t num_classes, std::int64_t data_rows,
                       std::optional<std::span<const std::int64_t>> rows, int num_threads, bool shuffle,
                       int min_id_bytes, std::int64_t max_plain_rows)
    : identity_(false),
      ascending_(shuffle || !classes.empty()),
      id_bytes_(std::max(min_id_bytes, RowIds::bytes_for(data_rows))) {
  if (id_bytes_ > RowIds::kMaxBytes) throw OutOfMemory("the data", data_rows, static_cast<double>(data_rows));
  if (num_classes > PTRDIFF_MAX / 16) throw std::bad_alloc();
  if constexpr (kCompact)
    sort(AnyIntegers(classes), num_classes, data_rows, rows, num_threads, kMaxPlainRows);
  else
    sort(classes, num_classes, data_rows, rows, num_threads, shuffle ? max_plain_rows : data_rows);
}

/// Sort the rows by class. @param max_plain_rows  ids of more rows may be packed.
template <class Classes>
void ClassIndex::sort(const Classes& classes, std::int64_t num_classes, std::int64_t data_rows,
                      std::optional<std::span<const std::int64_t>> rows, int num_threads, std::int64_t max_plain_rows) {
  auto taken = rows ? checked_rows(*rows, data_rows) : std::vector<std::int64_t>{};
  if (ascending_) sort_items(std::span(taken));
  Parts<Classes> parts{classes, num_classes, rows ? &taken : nullptr, rows ? std::ssize(taken) : data_rows};
  if constexpr (!kCompact)
    if (parts.num_rows > max_plain_rows && num_classes <= kMaxPackedClasses && pack(parts, num_threads)) return;
  parts.rows_per_part = std::max({kMinRowsPerPart, num_classes, parts.num_rows / std::max(num_threads, 1)});
  place(parts, num_threads);
}

/// Store the ids by class. Each part counts its classes, then places its rows after those of earlier parts.
template <class SomeParts>
void ClassIndex::place(const SomeParts& parts, int num_threads) {
  const std::int64_t num_classes = parts.num_classes, num_parts = parts.count();
  std::vector<std::int64_t> next(static_cast<std::size_t>(num_parts * num_classes), 0);
  parallel_for(num_threads, num_parts, [&](std::int64_t part) {
    std::int64_t* const count = next.data() + part * num_classes;
    parts.for_checked_rows(part, [&](std::int64_t /*row*/, std::int64_t k) { ++count[k]; });
  });
  offsets_.resize(static_cast<std::size_t>(num_classes) + 1);
  std::int64_t total = 0;
  for (std::int64_t k = 0; k < num_classes; ++k) {
    offsets_[static_cast<std::size_t>(k)] = total;
    for (std::int64_t part = 0; part < num_parts; ++part) {
      std::int64_t& slot = next[static_cast<std::size_t>(part * num_classes + k)];
      total += std::exchange(slot, total);
    }
  }
  offsets_.back() = total;

  rows_ = RowIds(total, id_bytes_);
  rows_.visit([&]<class Id>(std::span<Id> ids) {
    parallel_for(num_threads, num_parts, [&](std::int64_t part) {
      std::int64_t* const position = next.data() + part * num_classes;
      parts.for_rows(part, [&](std::int64_t row, std::int64_t k) {
        ids[static_cast<std::size_t>(position[k]++)] = static_cast<Id>(row);
      });
    });
  });
}

/// Pack the ids by class if that halves their memory. Return whether it does.
template <class SomeParts>
bool ClassIndex::pack(const SomeParts& parts, int num_threads) {
  const auto num_classes = static_cast<std::size_t>(parts.num_classes);
  const auto num_parts = static_cast<std::size_t>(parts.count());
  std::vector<std::int64_t> first_rows(num_parts), rows(num_classes * num_parts), bytes(num_classes * num_parts);
  parallel_for(num_threads, parts.count(), [&](std::int64_t part) {
    const auto p = static_cast<std::size_t>(part);
    first_rows[p] = parts.first_row(part);
    struct Segment {
      std::int64_t last, rows, bytes;
    };
    std::vector<Segment> segments(num_classes, {first_rows[p] - 1, 0, 0});
    parts.for_checked_rows(part, [&](std::int64_t row, std::int64_t k) {
      Segment& segment = segments[static_cast<std::size_t>(k)];
      ++segment.rows;
      segment.bytes += PackedRows::bytes_of(row - std::exchange(segment.last, row));
    });
    for (std::size_t k = 0; k < num_classes; ++k) {
      rows[k * num_parts + p] = segments[k].rows;
      bytes[k * num_parts + p] = segments[k].bytes;
    }
  });
  if (std::accumulate(bytes.begin(), bytes.end(), std::int64_t{0}) > parts.num_rows * id_bytes_ / 2) return false;

  offsets_.assign(1, 0);
  for (auto of_class = rows.begin(); of_class != rows.end(); of_class += parts.count())
    offsets_.push_back(std::accumulate(of_class, of_class + parts.count(), offsets_.back()));
  rows_ = RowIds(0, id_bytes_);
  const auto packed = std::make_shared<PackedRows>(std::move(first_rows), std::move(rows), std::move(bytes));
  parallel_for(num_threads, parts.count(), [&](std::int64_t part) {
    struct Segment {
      std::int64_t last;
      std::uint8_t* next;
    };
    std::vector<Segment> segments;
    for (std::int64_t k = 0; k < parts.num_classes; ++k)
      segments.push_back({parts.first_row(part) - 1, packed->gaps(k, part)});
    parts.for_rows(part, [&](std::int64_t row, std::int64_t k) {
      Segment& segment = segments[static_cast<std::size_t>(k)];
      segment.next = PackedRows::write(row - std::exchange(segment.last, row), segment.next);
    });
  });
  packed_ = packed;
  return true;
}

bool ClassIndex::contains(std::int64_t k, std::int64_t row) const {
  if (row < 0) return false;
  if (identity_) return row < num_rows();
  if (packed()) return packed_->contains(k, row);
  return rows_.visit([&](auto ids) {
    const auto of_class = ids.subspan(static_cast<std::size_t>(offset(k)), static_cast<std::size_t>(size(k)));
    const auto id = static_cast<std::uint64_t>(row);
    return ascending_ ? std::ranges::binary_search(of_class, id) : std::ranges::find(of_class, id) != of_class.end();
  });
}

std::uint64_t ClassIndex::fingerprint(int num_threads) const {
  // Philox as a hash. Each word is hashed with its position, so that the hashes of parts can be added in any order.
  const auto hash = [](std::uint64_t kind, std::uint64_t position, std::uint64_t value) {
    return RandomStream(kind, Purpose::kShuffle, value).word(position * 4);
  };
  std::uint64_t sum = hash(0, 0, identity_ ? 1 : 0);
  for (std::size_t k = 0; k < offsets_.size(); ++k) sum += hash(1, k, static_cast<std::uint64_t>(offsets_[k]));
  if (identity_) return sum;
  constexpr std::size_t kPart = 1 << 16;
  return rows_.visit([&]<class Id>(std::span<Id> /*ids*/) {
    const auto size = static_cast<std::size_t>(num_rows());
    std::vector<std::uint64_t> sums((size + kPart - 1) / kPart, 0);
    parallel_for(num_threads, static_cast<std::int64_t>(sums.size()), [&](std::int64_t part) {
      const std::size_t begin = static_cast<std::size_t>(part) * kPart;
      read<Id>(static_cast<std::int64_t>(begin), [&](auto row_at) {
        std::uint64_t part_sum = 0;
        for (std::size_t i = begin; i < std::min(begin + kPart, size); ++i)
          part_sum += hash(2, i, row_at(static_cast<std::int64_t>(i)));
        sums[static_cast<std::size_t>(part)] = part_sum;
      });
    });
    for (const std::uint64_t part_sum : sums) sum += part_sum;
    return sum;
  });
}

#define L2M_CLASS_INDEX(Class)                                                        \
  template ClassIndex::ClassIndex(std::span<const Class>, std::int64_t, std::int64_t, \
                                  std::optional<std::span<const std::int64_t>>, int, bool, int, std::int64_t);
L2M_CLASS_INDEX(std::int8_t)
L2M_CLASS_INDEX(std::int16_t)
L2M_CLASS_INDEX(std::int32_t)
L2M_CLASS_INDEX(std::int64_t)
L2M_CLASS_INDEX(std::uint8_t)
L2M_CLASS_INDEX(std::uint16_t)
L2M_CLASS_INDEX(std::uint32_t)
#undef L2M_CLASS_INDEX

}  // namespace l2m
