#pragma once

#include <cstdint>
#include <span>

namespace l2m {

/// Moves proportions towards the loss shares: p <- p + mixing_rate * (L / sum L - p).
///
/// Learn2Mix (arXiv 2412.16482), Algorithm 2. All losses 0: the proportions stay, where the paper divides 0 by 0.
///
/// @param proportions   [K] in/out, sum 1.
/// @param class_losses  [K] finite, >= 0; 0 for classes without rows.
/// @param class_sizes   [K] rows of each class.
/// @param mixing_rate   gamma in the paper, in (0, 1].
/// @param min_share     least share of a class that has rows: p <- min_share + (1 - K_nonempty * min_share) * p.
/// @throws std::invalid_argument  lengths differ.
void learn2mix(std::span<double> proportions, std::span<const double> class_losses,
               std::span<const std::int64_t> class_sizes, double mixing_rate, double min_share);

/// Raises the share of every class that has rows to at least min_share: p <- min_share + (1 - K_nonempty * min_share) * p.
void raise_to_min_share(std::span<double> proportions, std::span<const std::int64_t> class_sizes, double min_share);

/// Divides proportions by their sum.
///
/// @throws std::invalid_argument  one is negative or not finite, a class without rows has a share, the sum is not within 1e-6 of 1.
void normalise(std::span<double> proportions, std::span<const std::int64_t> class_sizes);

}  // namespace l2m
