#pragma once

#include <cstdint>
#include <span>

#include "l2m/base/float_types.hpp"

namespace l2m {

/// Add to the sum of each class the double nearest to the exact sum of its losses, independent of their order.
///
/// Single-threaded CPU reference of the CUDA kernel.
/// @param losses   [n] Float16, BFloat16, float or double, n < 2^29; losses that are non-finite as a float are skipped.
/// @param classes  [n] losses of a class outside [0, K) are skipped.
/// @param sum      [K] added to.   @param count  [K] added to.
/// @param skipped  [2] added to: losses skipped because of their class, and because they are non-finite.
template <class Loss, class Class>
void add_exact_class_loss(std::span<const Loss> losses, std::span<const Class> classes, std::span<double> sum,
                          std::span<std::int64_t> count, std::span<std::int64_t> skipped);

}  // namespace l2m
