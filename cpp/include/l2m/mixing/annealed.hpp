#pragma once

#include "l2m/mixing/policy.hpp"

namespace l2m {

/// Schedule between balanced and proportional sampling: p ~ n^a, where a moves from `start` to `end` in proportion to
/// the steps done. Needs Window::total_steps.
class Annealed final : public Policy {
 public:
  /// @param start, end  in [0, 1]; 0 equals Balanced, 1 equals Proportional.
  Annealed(double start, double end) : start_(start), end_(end) {}
  [[nodiscard]] Kind kind() const override { return Kind::kSchedule; }
  [[nodiscard]] bool needs_total_steps() const override { return true; }
  [[nodiscard]] std::string describe() const override;
  [[nodiscard]] std::vector<double> initial(std::span<const std::int64_t> class_sizes) const override;
  void update(const Window& window, std::span<double> proportions, std::span<double> memory) const override;

 private:
  double start_, end_;
};

}  // namespace l2m
