#include "l2m/mixing/annealed.hpp"

#include <algorithm>

#include "l2m/base/errors.hpp"
#include "l2m/base/text.hpp"
#include "l2m/mixing/fixed.hpp"

namespace l2m {

std::string Annealed::describe() const { return "Annealed(start=" + to_text(start_) + ", end=" + to_text(end_) + ")"; }

std::vector<double> Annealed::initial(std::span<const std::int64_t> class_sizes) const {
  return Temperature(1 / start_).initial(class_sizes);
}

void Annealed::update(const Window& window, std::span<double> proportions, std::span<double> /*memory*/) const {
  if (window.total_steps.value_or(0) == 0) refuse("total_steps must be given for Annealed (got none)");
  const double progress =
      static_cast<double>(std::min(window.step, *window.total_steps)) / static_cast<double>(*window.total_steps);
  const double exponent = progress < 1 ? start_ + (end_ - start_) * progress : end_;
  std::ranges::copy(Temperature(1 / exponent).initial(window.class_sizes), proportions.begin());
}

}  // namespace l2m
