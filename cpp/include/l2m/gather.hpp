#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace l2m {

/// One array of the data: row i is the row_size bytes at data + i * stride.
struct Field {
  const std::byte* data;
  std::int64_t stride;    ///< bytes from a row to the next; any sign
  std::int64_t row_size;  ///< bytes, > 0
};

/// Copies the given rows of a field one after the other to `out`, which has rows.size() * row_size bytes.
///
/// The caller vouches for the row ids. Cost: that of memcpy from random addresses, whose latency is hidden by prefetching.
void gather(const Field& field, std::span<const std::int64_t> rows, std::byte* out);

}  // namespace l2m
