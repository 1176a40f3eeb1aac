#include "l2m/loss/exact_class_loss.hpp"

#include <cmath>
#include <vector>

#include "l2m/base/exact_sums.hpp"

namespace l2m {
template <class Loss, class Class>
void add_exact_class_loss(std::span<const Loss> losses, std::span<const Class> classes, std::span<double> sum,
                          std::span<std::int64_t> count, std::span<std::int64_t> skipped) {
  std::vector<std::int64_t> digits(sum.size() * kSumDigits);
  for (std::size_t i = 0; i < losses.size(); ++i) {
    const auto class_id = static_cast<std::uint64_t>(classes[i]);
    const Pieces loss = pieces_of(widen(losses[i]));
    if (class_id >= count.size()) {
      ++skipped[0];
    } else if (!std::isfinite(loss.piece[0])) {
      ++skipped[1];
    } else {
      const auto k = static_cast<std::size_t>(class_id);
      for (int p = 0; p < loss.count; ++p) {
        const HalfDigits x = half_digits(loss.piece[p]);
        for (int d = 0; d < 3; ++d) digits[k * kSumDigits + static_cast<std::size_t>(x.place(d))] += x.value(d);
      }
      ++count[k];
    }
  }
  for (std::size_t k = 0; k < sum.size(); ++k) sum[k] += nearest_double(&digits[k * kSumDigits]);
}

#define L2M_EXACT(Loss, Class)                                                                         \
  template void add_exact_class_loss(std::span<const Loss>, std::span<const Class>, std::span<double>, \
                                     std::span<std::int64_t>, std::span<std::int64_t>);
#define L2M_EXACT_OF(Class)  \
  L2M_EXACT(Float16, Class)  \
  L2M_EXACT(BFloat16, Class) \
  L2M_EXACT(float, Class)    \
  L2M_EXACT(double, Class)
L2M_EXACT_OF(std::int8_t)
L2M_EXACT_OF(std::int16_t)
L2M_EXACT_OF(std::int32_t)
L2M_EXACT_OF(std::int64_t)
L2M_EXACT_OF(std::uint8_t)
L2M_EXACT_OF(std::uint16_t)
L2M_EXACT_OF(std::uint32_t)
#undef L2M_EXACT_OF
#undef L2M_EXACT

}  // namespace l2m
