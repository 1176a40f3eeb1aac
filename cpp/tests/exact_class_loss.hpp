#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <span>

#include "l2m/base/exact_sums.hpp"
#include "l2m/base/float_types.hpp"

namespace l2m {

/// Add losses to the exact sum of their class: a plain reference of the CUDA kernel, and of class_loss() for losses that
/// are multiples of 2^-149.
///
/// @param losses   [n] Float16, BFloat16, float or double, n < 2^29; losses that are non-finite as a float are skipped.
/// @param classes  [n] losses of a class outside [0, K) are skipped.
/// @param sum      [K] added to, and carried.   @param count  [K] added to.
/// @param skipped  [2] added to: losses skipped because of their class, and because they are non-finite.
template <class Loss, class Class>
void add_exact_class_loss(std::span<const Loss> losses, std::span<const Class> classes, std::span<ExactSum> sum,
                          std::span<std::int64_t> count, std::span<std::int64_t> skipped) {
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
        for (int d = 0; d < 3; ++d) sum[k].digit[x.place(d)] += x.value(d);
      }
      ++count[k];
    }
  }
  for (ExactSum& one : sum) one.carry();
}

}  // namespace l2m
