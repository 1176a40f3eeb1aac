#pragma once

#include "l2m/data/field.hpp"

namespace l2m {

/// Rows of equal size in memory: row i is the row_size bytes at data + i * stride.
///
/// A copy costs as much as memcpy from random addresses, with the latency hidden by prefetching.
class Dense final : public Field {
 public:
  /// @param data      must outlive the field.
  /// @param stride    bytes between consecutive rows, of any sign.
  /// @param row_size  bytes, in [1, 2^56].
  /// @throws std::invalid_argument  data is null or row_size is out of range.
  Dense(const std::byte* data, std::int64_t stride, std::int64_t row_size);

  [[nodiscard]] std::int64_t row_size() const override { return row_size_; }
  void copy(BatchPlan plan, std::byte* out, Writes writes, const Field* next) const override;
  void request(BatchPlan plan) const override;

  [[nodiscard]] const std::byte* row(const PlannedRow& planned) const { return data_ + planned.row * stride_; }

 private:
  const std::byte* data_;
  std::int64_t stride_;
  std::int64_t row_size_;
  bool may_straddle_;  // rows may touch one cache line more than their size requires
};

}  // namespace l2m
