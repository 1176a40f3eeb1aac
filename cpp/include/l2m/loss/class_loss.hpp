#pragma once

#include <cstdint>
#include <span>

#include "l2m/base/float_types.hpp"

namespace l2m {

/// Add losses to the sum and count of their class: sum[k] += loss[i], count[k] += 1 for every i with classes[i] == k.
///
/// @param losses   [n] Float16, BFloat16, float or double; non-finite losses are skipped.
/// @param classes  [n] integers of 8 to 64 bits, in [0, K).
/// @param sum      [K] added to; clamped to finite doubles.   @param count  [K] added to.
/// @return  number of skipped losses.
/// @throws std::invalid_argument  lengths differ or a class is out of range; nothing was added.
/// Determinism: the same bits for any number of threads; up to 131,071 losses are added in order.
/// Memory for more losses: 16 bytes * K for each of at most min(32, n / K) parts, and 32 bytes * K per thread.
template <class Loss, class Class>
std::int64_t class_loss(std::span<const Loss> losses, std::span<const Class> classes, std::span<double> sum,
                        std::span<std::int64_t> count, int num_threads);

}  // namespace l2m
