#include "l2m/gather.hpp"

#include <algorithm>
#include <cstring>

namespace l2m {
namespace {

constexpr std::int64_t kLine = 64;  // bytes the processor fetches at a time, nearly everywhere

// Rows requested ahead of the copy. 16 short rows cover the latency of memory; of long rows the first lines are
// enough, the processor's own prefetcher finds the rest.
constexpr std::size_t kShortRowsAhead = 16;
constexpr std::size_t kLongRowsAhead = 2;
constexpr std::int64_t kLongRow = 512;

inline void prefetch_lines(const std::byte* row, std::int64_t size) {
  for (std::int64_t at = 0; at < size; at += kLine) __builtin_prefetch(row + at, 0, 3);
  if (size > 1) __builtin_prefetch(row + size - 1, 0, 3);  // the row may straddle one line more
}

/// Copies rows of `size` bytes; a size known to the compiler becomes a few moves.
template <class Size>
void copy_rows(const Field& field, std::span<const std::int64_t> rows, std::byte* out, Size size) {
  const auto address = [&](std::size_t i) { return field.data + rows[i] * field.stride; };
  const bool is_long = size > kLongRow;
  const std::size_t ahead = is_long ? kLongRowsAhead : kShortRowsAhead;
  const std::int64_t prefetched = is_long ? kLongRow : std::int64_t{size};
  for (std::size_t i = 0; i < std::min(ahead, rows.size()); ++i) prefetch_lines(address(i), prefetched);
  for (std::size_t i = 0; i < rows.size(); ++i) {
    if (i + ahead < rows.size()) prefetch_lines(address(i + ahead), prefetched);
    std::memcpy(out, address(i), static_cast<std::size_t>(size));
    out += size;
  }
}

}  // namespace

void gather(const Field& field, std::span<const std::int64_t> rows, std::byte* out) {
  const auto copy = [&]<std::int64_t kSize>() {
    copy_rows(field, rows, out, std::integral_constant<std::int64_t, kSize>{});
  };
  switch (field.row_size) {
    case 1:
      return copy.operator()<1>();
    case 2:
      return copy.operator()<2>();
    case 4:
      return copy.operator()<4>();
    case 8:
      return copy.operator()<8>();
    case 16:
      return copy.operator()<16>();
    case 32:
      return copy.operator()<32>();
    case 64:
      return copy.operator()<64>();
    default:
      return copy_rows(field, rows, out, field.row_size);
  }
}

}  // namespace l2m
