#pragma once

#include <cstdint>
#include <span>

#include "l2m/base/exact_sums.hpp"
#include "l2m/base/float_types.hpp"

namespace l2m {

/// Add losses to the sum and count of their class: sum[k] += loss[i], count[k] += 1 for every i with classes[i] == k.
///
/// @param losses   [n] Float16, BFloat16, float or double; those that are non-finite as a float are skipped. A double
///                 counts as the nearest multiple of 2^-149.
/// @param classes  [n] integers of 8 to 64 bits, in [0, K).
/// @param sum      [K] added to, carried as ExactSum demands.   @param count  [K] added to.
/// @return  number of skipped losses.
/// @throws std::invalid_argument  lengths differ or a class is out of range; nothing was added.
/// Determinism: sums are exact, so the bits depend neither on the order nor on the number of threads.
/// Memory for more than 131,071 losses: 80 bytes * K for each of at most min(32, n / (8 K)) parts.
template <class Loss, class Class>
std::int64_t class_loss(std::span<const Loss> losses, std::span<const Class> classes, std::span<ExactSum> sum,
                        std::span<std::int64_t> count, int num_threads);

}  // namespace l2m
