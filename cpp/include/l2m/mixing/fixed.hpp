#pragma once

#include <utility>

#include "l2m/mixing/policy.hpp"

namespace l2m {

/// Base of policies that keep their initial proportions.
class FixedPolicy : public Policy {
 public:
  [[nodiscard]] Kind kind() const final { return Kind::kFixed; }
};

/// Policy of classical training: each class keeps its share of the data.
class Proportional final : public FixedPolicy {
 public:
  [[nodiscard]] std::string describe() const override { return "Proportional()"; }
  [[nodiscard]] std::vector<double> initial(std::span<const std::int64_t> class_sizes) const override;
};

/// Policy with equal proportions for all nonempty classes.
class Balanced final : public FixedPolicy {
 public:
  [[nodiscard]] std::string describe() const override { return "Balanced()"; }
  [[nodiscard]] std::vector<double> initial(std::span<const std::int64_t> class_sizes) const override;
};

/// Policy with given proportions.
class Static final : public FixedPolicy {
 public:
  explicit Static(std::vector<double> p) : p_(std::move(p)) {}
  [[nodiscard]] std::string describe() const override;
  [[nodiscard]] std::vector<double> initial(std::span<const std::int64_t> /*class_sizes*/) const override { return p_; }

 private:
  std::vector<double> p_;
};

/// Temperature sampling: p ~ n^(1/t). @param t  > 0; infinity equals Balanced.
class Temperature final : public FixedPolicy {
 public:
  explicit Temperature(double t) : t_(t) {}
  [[nodiscard]] std::string describe() const override;
  [[nodiscard]] std::vector<double> initial(std::span<const std::int64_t> class_sizes) const override;

 private:
  double t_;
};

/// Class-balanced weights of Cui et al. 2019 (arXiv 1901.05555, eq. 2) as a sampler: p ~ n (1 - beta) / (1 - beta^n).
/// @param beta  in [0, 1); 0 equals Proportional.
class EffectiveNumber final : public FixedPolicy {
 public:
  explicit EffectiveNumber(double beta) : beta_(beta) {}
  [[nodiscard]] std::string describe() const override;
  [[nodiscard]] std::vector<double> initial(std::span<const std::int64_t> class_sizes) const override;

 private:
  double beta_;
};

}  // namespace l2m
