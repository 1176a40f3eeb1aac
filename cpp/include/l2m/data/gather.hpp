#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "l2m/plan/batch_plan.hpp"

namespace l2m {

/// One array of the data: row i is the row_size bytes at data + i * stride. Or the ids of the rows.
struct Field {
  const std::byte* data;
  std::int64_t stride;    ///< bytes from a row to the next; any sign
  std::int64_t row_size;  ///< bytes, > 0
  bool row_ids = false;   ///< a row is its own id, a std::int64_t; there is no data

  static Field of_row_ids() { return {nullptr, 0, sizeof(std::int64_t), true}; }
};

/// Where copies go: to the cache, as is usual; or straight to memory, where the processor can, the place is aligned to 16
/// bytes and rows are multiples of as many. That saves reading what is overwritten, and pays where batches are so large
/// that the cache has lost them before they are used.
enum class Writes { kToCache, kAroundCache };

/// Copies the planned rows of every field f one after the other to outs[f], which has plan.size() * row_size bytes.
///
/// The caller vouches for the row ids. Cost: that of memcpy from random addresses, whose latency is hidden by prefetching.
void gather(std::span<const Field> fields, BatchPlan plan, std::span<std::byte* const> outs,
            Writes writes = Writes::kToCache);

}  // namespace l2m
