#pragma once

#include "l2m/mixing/policy.hpp"

namespace l2m {

/// Exponentiated gradient ascent on the class proportions (Sagawa et al. 2020, arXiv 1911.08731, Algorithm 1).
///
/// p <- p * exp(step_size * L), normalized, starting uniform. The paper weights losses by p; here p is a share of rows.
class GroupDro final : public Policy {
 public:
  /// @param step_size  > 0 and finite.
  explicit GroupDro(double step_size) : step_size_(step_size) {}
  [[nodiscard]] std::string describe() const override;
  [[nodiscard]] std::vector<double> initial(std::span<const std::int64_t> class_sizes) const override;
  void update(const Window& window, std::span<double> proportions, std::span<double> memory) const override;

 private:
  double step_size_;
};

}  // namespace l2m
