#pragma once

#include <cstdint>
#include <span>

namespace l2m {

/// Check proportions.
///
/// @throws std::invalid_argument  a proportion is negative or non-finite, an empty class has a share, or the sum is not
///                                within 1e-6 of 1.
void check_proportions(std::span<const double> proportions, std::span<const std::int64_t> class_sizes);

/// Divide proportions by their sum. @throws std::invalid_argument  see check_proportions().
void normalize(std::span<double> proportions, std::span<const std::int64_t> class_sizes);

/// Divide amounts by their sum. @param amounts  [K] >= 0, at least one > 0.
void divide_by_sum(std::span<double> amounts);

/// Return the power of 2 by which losses are multiplied before they are summed, so that the sum is finite. NaN is ignored.
double scale_for_sum(std::span<const double> losses);

/// Fill in class losses for a policy: 0 for an empty class; the mean of the others where unknown (NaN).
///
/// @param class_losses  [K] known for at least one nonempty class.
void fill_gaps(std::span<double> class_losses, std::span<const std::int64_t> class_sizes);

}  // namespace l2m
