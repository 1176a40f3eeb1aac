#include "l2m/data/row_ids.hpp"

#include <cstring>

namespace l2m {

void RowIdField::copy(BatchPlan plan, std::byte* out, Writes /*writes*/, const Field* next) const {
  if (next != nullptr) next->request(plan);
  for (const PlannedRow& planned : plan) {
    std::memcpy(out, &planned.row, sizeof(planned.row));
    out += sizeof(planned.row);
  }
}

}  // namespace l2m
