#include "l2m/mixing/group_dro.hpp"

#include <algorithm>

#include "l2m/base/math.hpp"
#include "l2m/base/text.hpp"
#include "l2m/mixing/fixed.hpp"
#include "l2m/mixing/proportions.hpp"

namespace l2m {

std::string GroupDro::describe() const { return "GroupDRO(step_size=" + to_text(step_size_) + ")"; }

std::vector<double> GroupDro::initial(std::span<const std::int64_t> class_sizes) const {
  return Balanced().initial(class_sizes);
}

void GroupDro::update(const Window& window, std::span<double> proportions, std::span<double> /*memory*/) const {
  // Subtracting the largest loss keeps exp() from overflowing and does not change the shares. A share of 0 stays 0.
  double largest = 0;
  for (std::size_t k = 0; k < proportions.size(); ++k)
    if (proportions[k] > 0) largest = std::max(largest, window.class_losses[k]);
  for (std::size_t k = 0; k < proportions.size(); ++k)
    if (proportions[k] > 0) proportions[k] *= exp(step_size_ * (window.class_losses[k] - largest));
  divide_by_sum(proportions);
}

}  // namespace l2m
