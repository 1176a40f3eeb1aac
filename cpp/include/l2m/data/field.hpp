#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "l2m/plan/batch_plan.hpp"

namespace l2m {

/// Where copies go: to the cache, as is usual; or straight to memory, where the processor can, the place is aligned to 16
/// bytes and rows are multiples of as many. That saves reading what is overwritten, and pays where batches are so large
/// that the cache has lost them before they are used.
enum class Writes { kToCache, kAroundCache };

/// One array of the data: what it puts into a batch for each planned row. Any thread may call, several at once.
class Field {
 public:
  virtual ~Field() = default;

  /// Bytes of a row in a batch, > 0.
  [[nodiscard]] virtual std::int64_t row_size() const = 0;
  /// Bytes whose copy takes as long as a row of this field.
  [[nodiscard]] virtual std::int64_t row_cost() const { return row_size(); }

  /// Writes the planned rows one after the other to `out`, which has plan.size() * row_size() bytes. The caller vouches for the
  /// row ids.
  ///
  /// @param next  the field that is copied then, of which the first rows are requested meanwhile; null: there is none.
  virtual void copy(BatchPlan plan, std::byte* out, Writes writes, const Field* next) const = 0;

  /// Requests the first rows of a plan from memory.
  virtual void request(BatchPlan /*plan*/) const {}
};

using Fields = std::vector<std::shared_ptr<const Field>>;

/// Copies the planned rows of every field f to outs[f].
void copy_fields(const Fields& fields, BatchPlan plan, std::span<std::byte* const> outs,
                 Writes writes = Writes::kToCache);

}  // namespace l2m
