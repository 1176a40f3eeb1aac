#include "class_loss.cuh"

namespace l2m::cuda {

void add_class_loss(FloatType type, const void* losses, ClassIds classes, std::int64_t n, const ClassTotals& totals,
                    Stream stream) {
  if (n == 0) return;
  with_floats(type, losses, [&](auto typed) { add_by_id(typed, classes, n, totals, Nothing(), stream); });
}

}  // namespace l2m::cuda
