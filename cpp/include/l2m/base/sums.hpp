#pragma once

#include <cmath>
#include <span>

namespace l2m {

/// Neumaier's compensated sum (1974), left to right. Accurate to the last bits even for a million proportions.
class CompensatedSum {
 public:
  void add(double x) {
    const double next = sum_ + x;
    compensation_ += std::abs(sum_) >= std::abs(x) ? (sum_ - next) + x : (x - next) + sum_;
    sum_ = next;
  }
  [[nodiscard]] double value() const { return sum_ + compensation_; }

 private:
  double sum_ = 0.0;
  double compensation_ = 0.0;
};

inline double compensated_sum(std::span<const double> values) {
  CompensatedSum sum;
  for (const double x : values) sum.add(x);
  return sum.value();
}

}  // namespace l2m
