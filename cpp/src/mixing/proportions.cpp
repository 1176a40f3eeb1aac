#include "l2m/mixing/proportions.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <stdexcept>

#include "l2m/base/errors.hpp"
#include "l2m/base/sums.hpp"

namespace l2m {

void normalize(std::span<double> proportions, std::span<const std::int64_t> class_sizes) {
  if (proportions.size() != class_sizes.size())
    refuse("proportions must have one value for each of ", class_sizes.size(), " classes (got ", proportions.size(),
           ")");
  for (std::size_t k = 0; k < proportions.size(); ++k) {
    const double p = proportions[k];
    if (!std::isfinite(p) || p < 0) refuse("proportions must be finite and >= 0 (got ", p, " for class ", k, ")");
    if (p > 0 && class_sizes[k] == 0)
      refuse("a class without rows must have proportion 0 (got ", p, " for class ", k, ")");
  }
  const double sum = compensated_sum(proportions);
  if (!(std::abs(sum - 1) <= 1e-6))
    refuse("proportions must sum to 1 within 1e-6 (got ", sum, ", ", proportions.size(), " classes)");
  for (double& p : proportions) p /= sum;
}

std::vector<double> shares(std::vector<double> amounts) {
  const double sum = compensated_sum(amounts);
  for (double& amount : amounts) amount /= sum;
  return amounts;
}

std::vector<double> without_gaps(std::span<const double> class_losses, std::span<const std::int64_t> class_sizes) {
  std::vector<double> known;
  for (std::size_t k = 0; k < class_losses.size(); ++k)
    if (class_sizes[k] > 0 && !std::isnan(class_losses[k])) known.push_back(class_losses[k]);
  double scale = 1;
  double sum = compensated_sum(known);
  if (!std::isfinite(sum)) {  // losses near the largest double
    scale = 0x1p64;
    for (double& loss : known) loss /= scale;
    sum = compensated_sum(known);
  }
  const double mean = std::min(sum / static_cast<double>(known.size()) * scale, std::numeric_limits<double>::max());
  std::vector<double> losses(class_losses.begin(), class_losses.end());
  for (std::size_t k = 0; k < losses.size(); ++k) {
    if (class_sizes[k] == 0) losses[k] = 0;
    if (std::isnan(losses[k])) losses[k] = mean;
  }
  return losses;
}

}  // namespace l2m
