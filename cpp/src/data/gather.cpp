#include "l2m/data/gather.hpp"

#include <algorithm>
#include <cstring>
#include <type_traits>

#if defined(__SSE2__)
#include <emmintrin.h>
#endif

namespace l2m {
namespace {

constexpr std::int64_t kLine = 64;  // bytes the processor fetches at a time, nearly everywhere

// Rows are requested this far ahead of their copy, which covers the latency of memory with as many requests as are
// useful; within a few percent of the best distance for rows of 64, 784 and 3072 bytes (AMD EPYC, 2026-11).
constexpr std::int64_t kAheadBytes = 8192;
constexpr std::int64_t kMostRowsAhead = 64;

// Bytes that are written around the cache at a time, to a multiple of as many.
constexpr std::int64_t kWord = 16;
#if defined(__SSE2__)
constexpr bool kCanWriteAroundCache = true;
#else
constexpr bool kCanWriteAroundCache = false;
#endif

std::size_t rows_ahead(std::int64_t row_size) {
  return static_cast<std::size_t>(std::clamp<std::int64_t>(kAheadBytes / row_size, 2, kMostRowsAhead));
}

const std::byte* row_of(const Field& field, const PlannedRow& planned) {
  return field.data + planned.row * field.stride;
}

/// Whether rows may lie in one line more than their size needs.
bool may_straddle(const Field& field) {
  const auto place = reinterpret_cast<std::uintptr_t>(field.data) | static_cast<std::uintptr_t>(field.stride);
  const auto alignment = static_cast<std::int64_t>(std::min<std::uintptr_t>(place & (~place + 1), kLine));
  const std::int64_t lines = (field.row_size + kLine - 1) / kLine;
  return kLine - std::max<std::int64_t>(alignment, 1) + field.row_size > lines * kLine;
}

/// Copies whole words.
template <Writes kWrites>
inline void copy_words(std::byte* to, const std::byte* from, std::int64_t size) {
#if defined(__SSE2__)
  if constexpr (kWrites == Writes::kAroundCache) {
    for (std::int64_t at = 0; at < size; at += kWord)
      _mm_stream_si128(reinterpret_cast<__m128i*>(to + at),
                       _mm_loadu_si128(reinterpret_cast<const __m128i*>(from + at)));
    return;
  }
#endif
  std::memcpy(to, from, static_cast<std::size_t>(size));
}

/// Makes sure that what was written around the cache is seen before whatever is written after.
void end_writes_around_cache() {
#if defined(__SSE2__)
  _mm_sfence();
#endif
}

/// Copies a row line by line, requesting a line of the coming row with each, so that the requests spread evenly.
template <bool kMayStraddle, Writes kWrites>
inline void copy_row(std::byte* to, const std::byte* from, const std::byte* coming, std::int64_t size) {
  std::int64_t at = 0;
  for (; at + kLine <= size; at += kLine) {
    __builtin_prefetch(coming + at);
    copy_words<kWrites>(to + at, from + at, kLine);
  }
  if (kMayStraddle) __builtin_prefetch(coming + size - 1);
  if (at == size) return;
  __builtin_prefetch(coming + at);
  if (kWrites == Writes::kAroundCache) {
    copy_words<kWrites>(to + at, from + at, size - at);
  } else if (size > kLine) {
    std::memcpy(to + size - kLine, from + size - kLine, kLine);
  } else {
    std::memcpy(to, from, static_cast<std::size_t>(size));
  }
}

/// Requests the first rows of a field.
void request(const Field& field, BatchPlan plan) {
  if (field.row_ids) return;
  for (const PlannedRow& planned : plan.first(std::min(rows_ahead(field.row_size), plan.size())))
    for (std::int64_t at = 0; at < std::min(field.row_size, kAheadBytes); at += kLine)
      __builtin_prefetch(row_of(field, planned) + at);
}

/// Copies rows of `size` bytes, of a size known to the compiler in a few moves; the first of them have been requested.
/// While the last ones are copied, the first rows of `next`, the field to be copied then, are requested.
template <bool kMayStraddle, Writes kWrites, class Size>
void copy_rows(const Field& field, BatchPlan plan, std::byte* out, Size size, const Field* next) {
  const std::size_t inside = plan.size() - std::min(rows_ahead(size), plan.size());
  const PlannedRow* const coming = plan.data() + rows_ahead(size);
  for (std::size_t i = 0; i < inside; ++i, out += size)
    copy_row<kMayStraddle, kWrites>(out, row_of(field, plan[i]), row_of(field, coming[i]), size);
  if (next != nullptr) request(*next, plan);
  for (std::size_t i = inside; i < plan.size(); ++i, out += size)
    copy_words<kWrites>(out, row_of(field, plan[i]), size);
}

void write_ids(BatchPlan plan, std::byte* out, const Field* next) {
  if (next != nullptr) request(*next, plan);
  for (const PlannedRow& planned : plan) {
    std::memcpy(out, &planned.row, sizeof(planned.row));
    out += sizeof(planned.row);
  }
}

void copy_field(const Field& field, BatchPlan plan, std::byte* out, Writes writes, const Field* next) {
  if (field.row_ids) return write_ids(plan, out, next);
  const auto place = reinterpret_cast<std::uintptr_t>(out) | static_cast<std::uintptr_t>(field.row_size);
  const bool around = kCanWriteAroundCache && writes == Writes::kAroundCache && place % kWord == 0;
  const auto copy = [&](auto size) {
    if (around) {
      copy_rows<true, Writes::kAroundCache>(field, plan, out, size, next);
      end_writes_around_cache();
    } else if (may_straddle(field)) {
      copy_rows<true, Writes::kToCache>(field, plan, out, size, next);
    } else {
      copy_rows<false, Writes::kToCache>(field, plan, out, size, next);
    }
  };
  switch (field.row_size) {
    case 1:
      return copy(std::integral_constant<std::int64_t, 1>{});
    case 2:
      return copy(std::integral_constant<std::int64_t, 2>{});
    case 4:
      return copy(std::integral_constant<std::int64_t, 4>{});
    case 8:
      return copy(std::integral_constant<std::int64_t, 8>{});
    case 16:
      return copy(std::integral_constant<std::int64_t, 16>{});
    case 32:
      return copy(std::integral_constant<std::int64_t, 32>{});
    case 64:
      return copy(std::integral_constant<std::int64_t, 64>{});
    default:
      return copy(field.row_size);
  }
}

}  // namespace

void gather(std::span<const Field> fields, BatchPlan plan, std::span<std::byte* const> outs, Writes writes) {
  if (!fields.empty()) request(fields[0], plan);
  for (std::size_t f = 0; f < fields.size(); ++f)
    copy_field(fields[f], plan, outs[f], writes, f + 1 < fields.size() ? &fields[f + 1] : nullptr);
}

}  // namespace l2m
