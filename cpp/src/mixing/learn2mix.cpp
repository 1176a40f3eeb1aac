#include "l2m/mixing/learn2mix.hpp"

#include <algorithm>
#include <cmath>
#include <stdexcept>

#include "l2m/base/errors.hpp"
#include "l2m/base/sums.hpp"
#include "l2m/base/text.hpp"
#include "l2m/mixing/fixed.hpp"

namespace l2m {
namespace {

std::int64_t nonempty(std::span<const std::int64_t> class_sizes) {
  return std::ranges::count_if(class_sizes, [](auto size) { return size > 0; });
}

}  // namespace

std::string Learn2Mix::describe() const {
  return "Learn2Mix(mixing_rate=" + to_text(mixing_rate_) + ", min_share=" + to_text(min_share_) +
         ", start=" + (start_ == Start::kBalanced ? "balanced)" : "proportional)");
}

std::vector<double> Learn2Mix::initial(std::span<const std::int64_t> class_sizes) const {
  if (min_share_ * static_cast<double>(nonempty(class_sizes)) > 1)
    refuse("min_share must be at most 1 / ", nonempty(class_sizes), ", the number of classes that have rows (got ",
           min_share_, ")");
  std::vector<double> proportions =
      start_ == Start::kProportional ? Proportional().initial(class_sizes) : Balanced().initial(class_sizes);
  raise_to_min_share(proportions, class_sizes);
  return proportions;
}

Policy::Update Learn2Mix::update(const Window& window) const {
  std::vector<double> proportions(window.proportions.begin(), window.proportions.end());
  std::vector<double> losses(window.class_losses.begin(), window.class_losses.end());
  double total = compensated_sum(losses);
  if (!std::isfinite(total)) {  // scaling does not change the shares
    for (double& loss : losses) loss *= 0x1p-64;
    total = compensated_sum(losses);
  }
  if (total == 0) return {std::move(proportions), {}};
  for (std::size_t k = 0; k < proportions.size(); ++k)
    proportions[k] += mixing_rate_ * (losses[k] / total - proportions[k]);
  raise_to_min_share(proportions, window.class_sizes);
  return {std::move(proportions), {}};
}

void Learn2Mix::raise_to_min_share(std::span<double> proportions, std::span<const std::int64_t> class_sizes) const {
  if (min_share_ == 0) return;
  const auto classes = static_cast<double>(nonempty(class_sizes));
  for (std::size_t k = 0; k < proportions.size(); ++k)
    if (class_sizes[k] > 0) proportions[k] = min_share_ + (1 - classes * min_share_) * proportions[k];
}

}  // namespace l2m
