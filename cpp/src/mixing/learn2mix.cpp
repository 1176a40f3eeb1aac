#include "l2m/mixing/learn2mix.hpp"

#include <algorithm>
#include <cmath>
#include <stdexcept>

#include "l2m/base/errors.hpp"
#include "l2m/base/sums.hpp"
#include "l2m/base/text.hpp"
#include "l2m/mixing/fixed.hpp"
#include "l2m/mixing/proportions.hpp"

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

void Learn2Mix::update(const Window& window, std::span<double> proportions, std::span<double> /*memory*/) const {
  const double scale = scale_for_sum(window.class_losses);  // does not change the shares
  CompensatedSum total;
  for (const double loss : window.class_losses) total.add(loss * scale);
  if (total.value() == 0) return;
  for (std::size_t k = 0; k < proportions.size(); ++k)
    proportions[k] += mixing_rate_ * (window.class_losses[k] * scale / total.value() - proportions[k]);
  raise_to_min_share(proportions, window.class_sizes);
}

void Learn2Mix::raise_to_min_share(std::span<double> proportions, std::span<const std::int64_t> class_sizes) const {
  if (min_share_ == 0) return;
  const auto classes = static_cast<double>(nonempty(class_sizes));
  for (std::size_t k = 0; k < proportions.size(); ++k)
    if (class_sizes[k] > 0) proportions[k] = min_share_ + (1 - classes * min_share_) * proportions[k];
}

}  // namespace l2m
