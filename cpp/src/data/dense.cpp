#include "l2m/data/dense.hpp"

#include <algorithm>
#include <cstring>
#include <stdexcept>
#include <type_traits>

#if defined(__SSE2__)
#include <emmintrin.h>
#endif

#include "l2m/base/compact.hpp"
#include "l2m/base/errors.hpp"

namespace l2m {
namespace {

constexpr std::int64_t kLine = 64;  // size of a cache line on nearly all processors

// The begin of a row is prefetched this far ahead of its copy; the processor itself prefetches the rest. Other distances
// are at most a few percent faster (rows of 44 to 12,288 bytes, Intel Xeon; of 64, 784 and 3072 bytes, AMD EPYC; 2026-11).
constexpr std::int64_t kAheadBytes = 8192;
constexpr std::int64_t kMaxRowsAhead = 64;
constexpr std::int64_t kPrefetchedBytes = 512;

// Size of a non-temporal store, and alignment that it requires, in bytes.
constexpr std::int64_t kWord = 16;
#if defined(__SSE2__)
constexpr bool kHasNonTemporalStores = true;
#else
constexpr bool kHasNonTemporalStores = false;
#endif

constexpr std::int64_t kMaxRowSize = std::int64_t{1} << 56;  // leaves room for converted rows and their cost

std::size_t rows_ahead(std::int64_t row_size) {
  return static_cast<std::size_t>(std::clamp<std::int64_t>(kAheadBytes / row_size, 2, kMaxRowsAhead));
}

bool may_straddle(const std::byte* data, std::int64_t stride, std::int64_t row_size) {
  const auto place = reinterpret_cast<std::uintptr_t>(data) | static_cast<std::uintptr_t>(stride);
  const auto alignment = static_cast<std::int64_t>(std::min<std::uintptr_t>(place & (~place + 1), kLine));
  const std::int64_t lines = (row_size + kLine - 1) / kLine;
  return kLine - std::max<std::int64_t>(alignment, 1) + row_size > lines * kLine;
}

/// Copy a row. memcpy() has loops for the vectors of each processor.
template <Writes kWrites>
inline void copy_row(std::byte* to, const std::byte* from, std::int64_t size) {
#if defined(__SSE2__)
  if constexpr (kWrites == Writes::kNonTemporal) {
    for (std::int64_t at = 0; at < size; at += kWord)
      _mm_stream_si128(reinterpret_cast<__m128i*>(to + at),
                       _mm_loadu_si128(reinterpret_cast<const __m128i*>(from + at)));
    return;
  }
#endif
  std::memcpy(to, from, static_cast<std::size_t>(size));
}

/// Order non-temporal stores before all later stores.
void fence_non_temporal_stores() {
#if defined(__SSE2__)
  _mm_sfence();
#endif
}

/// Prefetch the begin of a row.
template <bool kMayStraddle>
inline void prefetch_row(const std::byte* row, std::int64_t size) {
  const std::int64_t most = std::min(size, kPrefetchedBytes);
  for (std::int64_t at = 0; at < most; at += kLine) __builtin_prefetch(row + at);
  if (kMayStraddle) __builtin_prefetch(row + most - 1);
}

/// Copy rows of `size` bytes, which takes a few moves if the compiler knows the size. The first rows are prefetched
/// already. While the last rows are copied, the first rows of the field `next` are prefetched.
template <bool kMayStraddle, Writes kWrites, class Size>
void copy_rows(const Dense& field, BatchPlan plan, std::byte* out, Size size, const Field* next) {
  const std::size_t inside = plan.size() - std::min(rows_ahead(size), plan.size());
  const PlannedRow* const coming = plan.data() + rows_ahead(size);
  for (std::size_t i = 0; i < inside; ++i, out += size) {
    prefetch_row<kMayStraddle>(field.row(coming[i]), size);
    copy_row<kWrites>(out, field.row(plan[i]), size);
  }
  if (next != nullptr) next->request(plan);
  for (std::size_t i = inside; i < plan.size(); ++i, out += size) copy_row<kWrites>(out, field.row(plan[i]), size);
}

}  // namespace

Dense::Dense(const std::byte* data, std::int64_t stride, std::int64_t row_size)
    : data_(data), stride_(stride), row_size_(row_size), may_straddle_(may_straddle(data, stride, row_size)) {
  if (data == nullptr || row_size <= 0 || row_size > kMaxRowSize)
    throw std::invalid_argument(message("a field must have an address and rows of 1 to ", kMaxRowSize, " bytes (got ",
                                        data == nullptr ? "no address" : "an address", " and ", row_size, ")"));
}

void Dense::request(BatchPlan plan) const {
  for (const PlannedRow& planned : plan.first(std::min(rows_ahead(row_size_), plan.size())))
    prefetch_row<false>(row(planned), row_size_);
}

void Dense::copy(BatchPlan plan, std::byte* out, Writes writes, const Field* next) const {
  if constexpr (kCompact) {
    for (const PlannedRow& planned : plan) {
      std::memcpy(out, row(planned), static_cast<std::size_t>(row_size_));
      out += row_size_;
    }
    return;
  }
  const auto place = reinterpret_cast<std::uintptr_t>(out) | static_cast<std::uintptr_t>(row_size_);
  const bool non_temporal = kHasNonTemporalStores && writes == Writes::kNonTemporal && place % kWord == 0;
  const auto copy_sized = [&](auto size) {
    if (non_temporal) {
      copy_rows<true, Writes::kNonTemporal>(*this, plan, out, size, next);
      fence_non_temporal_stores();
    } else if (may_straddle_) {
      copy_rows<true, Writes::kCached>(*this, plan, out, size, next);
    } else {
      copy_rows<false, Writes::kCached>(*this, plan, out, size, next);
    }
  };
  switch (row_size_) {
    case 1:
      return copy_sized(std::integral_constant<std::int64_t, 1>{});
    case 2:
      return copy_sized(std::integral_constant<std::int64_t, 2>{});
    case 4:
      return copy_sized(std::integral_constant<std::int64_t, 4>{});
    case 8:
      return copy_sized(std::integral_constant<std::int64_t, 8>{});
    case 16:
      return copy_sized(std::integral_constant<std::int64_t, 16>{});
    case 32:
      return copy_sized(std::integral_constant<std::int64_t, 32>{});
    case 64:
      return copy_sized(std::integral_constant<std::int64_t, 64>{});
    default:
      return copy_sized(row_size_);
  }
}

}  // namespace l2m
