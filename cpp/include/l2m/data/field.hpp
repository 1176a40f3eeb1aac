#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "l2m/plan/batch_plan.hpp"

namespace l2m {

/// Kind of stores that a copy uses.
///
/// Non-temporal stores bypass the cache, which saves reading the lines that are overwritten. They pay off for batches
/// so large that they would leave the cache before they are used. They require an output aligned to 16 bytes and rows
/// of a multiple of 16 bytes; otherwise, and on processors without them, copies fall back to kCached.
enum class Writes { kCached, kNonTemporal };

/// Array of the data that contributes one item per row to a batch. Thread-safe.
class Field {
 public:
  virtual ~Field() = default;

  /// Return the number of bytes per row in a batch, > 0.
  [[nodiscard]] virtual std::int64_t row_size() const = 0;
  /// Return the cost of a row, as the number of bytes whose copy takes as long.
  [[nodiscard]] virtual std::int64_t row_cost() const { return row_size(); }
  /// Return the number of bytes and any conversion, by value, for saved states.
  [[nodiscard]] virtual std::string describe() const { return std::to_string(row_size()); }

  /// Copy the planned rows one after the other to `out`, which has plan.size() * row_size() bytes. Row ids are not
  /// checked.
  ///
  /// @param next  field to be copied next, whose first rows are prefetched meanwhile; may be null.
  virtual void copy(BatchPlan plan, std::byte* out, Writes writes, const Field* next) const = 0;

  /// Prefetch the first rows of a plan.
  virtual void request(BatchPlan /*plan*/) const {}
};

using Fields = std::vector<std::shared_ptr<const Field>>;

/// Return the descriptions of all fields.
std::string describe(const Fields& fields);

/// Copy the planned rows of every field f to outs[f].
void copy_fields(const Fields& fields, BatchPlan plan, std::span<std::byte* const> outs,
                 Writes writes = Writes::kCached);

}  // namespace l2m
