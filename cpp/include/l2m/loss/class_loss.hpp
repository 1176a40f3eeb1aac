#pragma once

#include <cstdint>
#include <span>

#include "l2m/base/float_types.hpp"

namespace l2m {

/// Sums losses per class: sum[k] += loss[i], count[k] += 1 for every i with classes[i] == k.
///
/// @param losses   [n] Float16, BFloat16, float or double; those that are not finite are skipped.
/// @param classes  [n] any integer type of 8 to 64 bits, in [0, K).
/// @param sum      [K] accumulated.   @param count  [K] accumulated.
/// A sum beyond the largest double stays there.
/// @return  how many losses were skipped.
/// @throws std::invalid_argument  lengths differ or a class is out of range; nothing was added.
/// Determinism: the same bits for any number of threads; up to 131,071 losses are added strictly in their order.
/// Memory for more: 16 bytes * K * parts, at most 32 parts and at most as many as n / K, and for each thread 32 bytes * K.
template <class Loss, class Class>
std::int64_t class_loss(std::span<const Loss> losses, std::span<const Class> classes, std::span<double> sum,
                        std::span<std::int64_t> count, int num_threads);

}  // namespace l2m
