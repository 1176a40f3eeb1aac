#pragma once

#include <cstdint>
#include <span>

#include "l2m/base/float_types.hpp"

namespace l2m {

/// What the CUDA kernel does, on the CPU and in one thread: adds to each class's sum the double nearest to the sum of its
/// losses, whatever their order.
///
/// @param losses   [n] Float16, BFloat16, float or double, n < 2^29; those that are not finite (as a float) are skipped.
/// @param classes  [n] those out of [0, K) are skipped.
/// @param sum      [K] added to.   @param count  [K] added to.
/// @param unusual  [2] added to: losses skipped for their class, and for not being finite.
template <class Loss, class Class>
void add_exact_class_loss(std::span<const Loss> losses, std::span<const Class> classes, std::span<double> sum,
                          std::span<std::int64_t> count, std::span<std::int64_t> unusual);

}  // namespace l2m
