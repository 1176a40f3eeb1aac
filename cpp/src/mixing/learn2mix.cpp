#include "l2m/mixing/learn2mix.hpp"

#include <algorithm>
#include <cmath>
#include <stdexcept>
#include <vector>

#include "l2m/base/errors.hpp"
#include "l2m/base/sums.hpp"

namespace l2m {
namespace {

void check_length(const char* what, std::size_t got, std::size_t num_classes) {
  if (got != num_classes)
    throw std::invalid_argument(
        message(what, " must have one value for each of ", num_classes, " classes (got ", got, ")"));
}

}  // namespace

void learn2mix(std::span<double> proportions, std::span<const double> class_losses,
               std::span<const std::int64_t> class_sizes, double mixing_rate, double min_share) {
  check_length("class_losses", class_losses.size(), proportions.size());
  check_length("class_sizes", class_sizes.size(), proportions.size());
  double total = compensated_sum(class_losses);
  double scale = 1;
  if (!std::isfinite(total)) {  // losses near the largest double: their shares are those of the halved, and so on
    scale = 0x1p-64;
    std::vector<double> scaled(class_losses.begin(), class_losses.end());
    for (double& loss : scaled) loss *= scale;
    total = compensated_sum(scaled);
  }
  if (total == 0) return;
  for (std::size_t k = 0; k < proportions.size(); ++k)
    proportions[k] += mixing_rate * (class_losses[k] * scale / total - proportions[k]);
  raise_to_min_share(proportions, class_sizes, min_share);
}

void raise_to_min_share(std::span<double> proportions, std::span<const std::int64_t> class_sizes, double min_share) {
  check_length("class_sizes", class_sizes.size(), proportions.size());
  if (min_share == 0) return;
  const auto nonempty = static_cast<double>(std::ranges::count_if(class_sizes, [](auto size) { return size > 0; }));
  for (std::size_t k = 0; k < proportions.size(); ++k)
    if (class_sizes[k] > 0) proportions[k] = min_share + (1 - nonempty * min_share) * proportions[k];
}

void normalise(std::span<double> proportions, std::span<const std::int64_t> class_sizes) {
  check_length("proportions", proportions.size(), class_sizes.size());
  for (std::size_t k = 0; k < proportions.size(); ++k) {
    const double p = proportions[k];
    if (!std::isfinite(p) || p < 0)
      throw std::invalid_argument(message("proportions must be finite and >= 0 (got ", p, " for class ", k, ")"));
    if (p > 0 && class_sizes[k] == 0)
      throw std::invalid_argument(
          message("a class without rows must have proportion 0 (got ", p, " for class ", k, ")"));
  }
  const double sum = compensated_sum(proportions);
  if (!(std::abs(sum - 1) <= 1e-6))
    throw std::invalid_argument(
        message("proportions must sum to 1 within 1e-6 (got ", sum, ", ", proportions.size(), " classes)"));
  for (double& p : proportions) p /= sum;
}

}  // namespace l2m
