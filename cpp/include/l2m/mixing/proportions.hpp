#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace l2m {

/// Divides proportions by their sum.
///
/// @throws std::invalid_argument  one is negative or not finite, a class without rows has a share, or the sum is not within 1e-6 of 1.
void normalize(std::span<double> proportions, std::span<const std::int64_t> class_sizes);

/// Amounts over their sum. @param amounts  [K] >= 0, at least one above 0.
std::vector<double> shares(std::vector<double> amounts);

/// Class losses as a policy gets them: 0 for a class without rows; where none was recorded yet (NaN), the mean of the others.
///
/// @param class_losses  [K] of which at least one of a class with rows is known.
std::vector<double> without_gaps(std::span<const double> class_losses, std::span<const std::int64_t> class_sizes);

}  // namespace l2m
