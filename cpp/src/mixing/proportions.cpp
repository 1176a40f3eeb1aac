#include "l2m/mixing/proportions.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <stdexcept>

#include "l2m/base/errors.hpp"
#include "l2m/base/sums.hpp"

namespace l2m {

void check_proportions(std::span<const double> proportions, std::span<const std::int64_t> class_sizes) {
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
}

void normalize(std::span<double> proportions, std::span<const std::int64_t> class_sizes) {
  check_proportions(proportions, class_sizes);
  divide_by_sum(proportions);
}

void divide_by_sum(std::span<double> amounts) {
  const double sum = compensated_sum(amounts);
  for (double& amount : amounts) amount /= sum;
}

double scale_for_sum(std::span<const double> losses) {
  const auto is_huge = [](double loss) { return loss > 0x1p900; };
  return std::ranges::any_of(losses, is_huge) ? 0x1p-64 : 1;
}

void fill_gaps(std::span<double> class_losses, std::span<const std::int64_t> class_sizes) {
  for (std::size_t k = 0; k < class_losses.size(); ++k)
    if (class_sizes[k] == 0) class_losses[k] = 0;
  const double scale = scale_for_sum(class_losses);
  CompensatedSum sum;
  std::size_t known = 0;
  for (std::size_t k = 0; k < class_losses.size(); ++k) {
    if (class_sizes[k] == 0 || std::isnan(class_losses[k])) continue;
    sum.add(class_losses[k] * scale);
    ++known;
  }
  if (known == class_losses.size()) return;
  const double mean = std::min(sum.value() / static_cast<double>(known) / scale, std::numeric_limits<double>::max());
  for (double& loss : class_losses)
    if (std::isnan(loss)) loss = mean;
}

}  // namespace l2m
