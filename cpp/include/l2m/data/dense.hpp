#pragma once

#include "l2m/data/field.hpp"

namespace l2m {

/// Rows of one size in memory: row i is the row_size bytes at data + i * stride.
///
/// Cost: that of memcpy from random addresses, whose latency is hidden by prefetching.
class Dense final : public Field {
 public:
  /// @param data      outlives the field.
  /// @param stride    bytes from a row to the next; any sign.
  /// @param row_size  bytes, > 0.
  /// @throws std::invalid_argument  there is no address or no row.
  Dense(const std::byte* data, std::int64_t stride, std::int64_t row_size);

  [[nodiscard]] std::int64_t row_size() const override { return row_size_; }
  void copy(BatchPlan plan, std::byte* out, Writes writes, const Field* next) const override;
  void request(BatchPlan plan) const override;

  [[nodiscard]] const std::byte* row(const PlannedRow& planned) const { return data_ + planned.row * stride_; }

 private:
  const std::byte* data_;
  std::int64_t stride_;
  std::int64_t row_size_;
  bool may_straddle_;  // rows may lie in one line of the cache more than their size needs
};

}  // namespace l2m
