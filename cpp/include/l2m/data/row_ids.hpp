#pragma once

#include "l2m/data/field.hpp"

namespace l2m {

/// Ids of the rows, as std::int64_t.
class RowIdField final : public Field {
 public:
  [[nodiscard]] std::int64_t row_size() const override { return sizeof(std::int64_t); }
  void copy(BatchPlan plan, std::byte* out, Writes writes, const Field* next) const override;
};

}  // namespace l2m
