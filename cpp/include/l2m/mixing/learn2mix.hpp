#pragma once

#include "l2m/mixing/policy.hpp"

namespace l2m {

/// Learn2Mix (arXiv 2412.16482, Algorithm 2): p <- p + mixing_rate * (L / sum L - p).
///
/// If all losses are 0, the proportions stay unchanged, where the paper divides 0 by 0.
class Learn2Mix final : public Policy {
 public:
  enum class Start { kProportional, kBalanced };

  /// @param mixing_rate  gamma in the paper, in (0, 1].
  /// @param min_share    minimum share of each nonempty class, at the start and after every step:
  ///                     p <- min_share + (1 - K_nonempty * min_share) * p.
  Learn2Mix(double mixing_rate, double min_share, Start start)
      : mixing_rate_(mixing_rate), min_share_(min_share), start_(start) {}

  [[nodiscard]] std::string describe() const override;
  /// @throws std::invalid_argument  min_share exceeds 1 / K_nonempty.
  [[nodiscard]] std::vector<double> initial(std::span<const std::int64_t> class_sizes) const override;
  void update(const Window& window, std::span<double> proportions, std::span<double> memory) const override;

 private:
  void raise_to_min_share(std::span<double> proportions, std::span<const std::int64_t> class_sizes) const;

  double mixing_rate_, min_share_;
  Start start_;
};

}  // namespace l2m
