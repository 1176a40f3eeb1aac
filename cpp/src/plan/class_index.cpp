#include "l2m/plan/class_index.hpp"

#include <algorithm>
#include <new>
#include <stdexcept>
#include <utility>

#include "l2m/base/compact.hpp"
#include "l2m/base/errors.hpp"
#include "l2m/base/memory.hpp"
#include "l2m/base/platform.hpp"
#include "l2m/base/random.hpp"
#include "l2m/run/thread_pool.hpp"

namespace l2m {
namespace {

constexpr std::size_t kLargePage = 2 << 20;
constexpr std::size_t kLine = 64;

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

RowIds::RowIds(std::int64_t size, int id_bytes) : id_bytes_(id_bytes), size_(checked_size("the ids", size, id_bytes)) {
  const std::size_t bytes = size_ * static_cast<std::size_t>(id_bytes);
  try {
    memory_ = Memory(std::max(bytes, kLine), bytes >= kLargePage ? kLargePage : kLine);
  } catch (const std::bad_alloc&) {
    throw OutOfMemory("the ids", size, static_cast<double>(bytes));
  }
  if (bytes >= kLargePage) prefer_large_pages(memory_.data(), bytes);
}

ClassIndex::ClassIndex(std::int64_t num_rows)
    : identity_(true), ascending_(true), id_bytes_(RowIds::bytes_for(num_rows)), offsets_{0, num_rows} {}

template <class Class>
ClassIndex::ClassIndex(std::span<const Class> classes, std::int64_t num_classes, std::int64_t data_rows,
                       std::optional<std::span<const std::int64_t>> rows, int num_threads, bool as_given,
                       int min_id_bytes)
    : identity_(false), ascending_(!as_given), id_bytes_(std::max(min_id_bytes, RowIds::bytes_for(data_rows))) {
  if (id_bytes_ > RowIds::kMaxBytes) throw OutOfMemory("the data", data_rows, static_cast<double>(data_rows));
  if (num_classes > PTRDIFF_MAX / 16) throw std::bad_alloc();
  if constexpr (kCompact)
    sort(AnyIntegers(classes), num_classes, data_rows, rows, num_threads);
  else
    sort(classes, num_classes, data_rows, rows, num_threads);
}

template <class Classes>
void ClassIndex::sort(const Classes& classes, std::int64_t num_classes, std::int64_t data_rows,
                      std::optional<std::span<const std::int64_t>> rows, int num_threads) {
  auto taken = rows ? checked_rows(*rows, data_rows) : std::vector<std::int64_t>{};
  if (ascending_) sort_items(std::span(taken));
  const std::int64_t num_rows = rows ? static_cast<std::int64_t>(taken.size()) : data_rows;
  const auto row_at = [&](std::int64_t i) { return rows ? taken[static_cast<std::size_t>(i)] : i; };
  const auto class_of = [&](std::int64_t row) -> std::int64_t {
    return classes.empty() ? 0 : static_cast<std::int64_t>(classes[static_cast<std::size_t>(row)]);
  };

  // Each part counts its classes, then places its rows after those of earlier parts, so the order is ascending.
  const std::int64_t rows_per_part =
      std::max<std::int64_t>({num_classes, 1 << 16, num_rows / std::max(num_threads, 1)});
  const std::int64_t parts = std::max<std::int64_t>((num_rows + rows_per_part - 1) / rows_per_part, 1);
  std::vector<std::int64_t> next(static_cast<std::size_t>(parts * num_classes), 0);
  const auto for_rows_of = [&](std::int64_t part, auto&& visit) {
    const std::int64_t end = std::min((part + 1) * rows_per_part, num_rows);
    std::int64_t* const part_next = next.data() + part * num_classes;
    for (std::int64_t i = part * rows_per_part; i < end; ++i) visit(row_at(i), part_next);
  };

  parallel_for(num_threads, parts, [&](std::int64_t part) {
    for_rows_of(part, [&](std::int64_t row, std::int64_t* count) {
      const std::int64_t k = class_of(row);
      if (k < 0 || k >= num_classes) refuse("classes must be in [0, ", num_classes, ") (got ", k, " at row ", row, ")");
      ++count[k];
    });
  });
  offsets_.resize(static_cast<std::size_t>(num_classes) + 1);
  std::int64_t total = 0;
  for (std::int64_t k = 0; k < num_classes; ++k) {
    offsets_[static_cast<std::size_t>(k)] = total;
    for (std::int64_t part = 0; part < parts; ++part) {
      std::int64_t& slot = next[static_cast<std::size_t>(part * num_classes + k)];
      total += std::exchange(slot, total);
    }
  }
  offsets_.back() = total;

  rows_ = RowIds(num_rows, id_bytes_);
  rows_.visit([&]<class Id>(std::span<Id> ids) {
    parallel_for(num_threads, parts, [&](std::int64_t part) {
      for_rows_of(part, [&](std::int64_t row, std::int64_t* position) {
        ids[static_cast<std::size_t>(position[class_of(row)]++)] = static_cast<Id>(row);
      });
    });
  });
}

bool ClassIndex::contains(std::int64_t k, std::int64_t row) const {
  if (row < 0) return false;
  if (identity_) return row < num_rows();
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
  return rows_.visit([&]<class Id>(std::span<Id> ids) {
    std::vector<std::uint64_t> sums((ids.size() + kPart - 1) / kPart, 0);
    parallel_for(num_threads, static_cast<std::int64_t>(sums.size()), [&](std::int64_t part) {
      const std::size_t begin = static_cast<std::size_t>(part) * kPart;
      std::uint64_t part_sum = 0;
      for (std::size_t i = begin; i < std::min(begin + kPart, ids.size()); ++i) part_sum += hash(2, i, ids[i]);
      sums[static_cast<std::size_t>(part)] = part_sum;
    });
    for (const std::uint64_t part_sum : sums) sum += part_sum;
    return sum;
  });
}

#define L2M_CLASS_INDEX(Class)                                                        \
  template ClassIndex::ClassIndex(std::span<const Class>, std::int64_t, std::int64_t, \
                                  std::optional<std::span<const std::int64_t>>, int, bool, int);
L2M_CLASS_INDEX(std::int8_t)
L2M_CLASS_INDEX(std::int16_t)
L2M_CLASS_INDEX(std::int32_t)
L2M_CLASS_INDEX(std::int64_t)
L2M_CLASS_INDEX(std::uint8_t)
L2M_CLASS_INDEX(std::uint16_t)
L2M_CLASS_INDEX(std::uint32_t)
#undef L2M_CLASS_INDEX

}  // namespace l2m
