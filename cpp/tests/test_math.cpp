#include "l2m/base/math.hpp"

#include <cmath>
#include <limits>

#include "check.hpp"
#include "l2m/base/random.hpp"
#include "reference.hpp"

namespace l2m::test {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

double uniform_in(double low, double high, std::uint64_t i) {
  return low + (high - low) * uniform(RandomStream(7, Purpose::kBatchOrder, 0), i);
}

/// Return whether `got` is within a relative error of the long double, or half the smallest double.
bool near(double got, long double expected, int bits) {
  return std::abs(got - expected) <= std::ldexp(std::abs(expected), -bits) + std::ldexp(1.0L, -1075);
}

void test_errors_are_within_their_bounds() {
  // Where long double is double, there is nothing more precise to compare with.
  if (std::numeric_limits<long double>::digits <= std::numeric_limits<double>::digits) return;
  for (std::uint64_t i = 0; i < 200'000; ++i) {
    const double x = std::exp(uniform_in(-700, 700, 3 * i));
    CHECK(near(log(x), std::log(static_cast<long double>(x)), 51));
    const double near_1 = 1 + std::ldexp(uniform_in(-0.5, 1, 3 * i), -static_cast<int>(i % 50));
    CHECK(near(log(near_1), std::log(static_cast<long double>(near_1)), 51));
    const double y = uniform_in(-745, 709, 3 * i + 1);
    CHECK(near(exp(y), std::exp(static_cast<long double>(y)), 50));
    const double small = std::ldexp(y, -static_cast<int>(i % 60));
    CHECK(near(exp(small), std::exp(static_cast<long double>(small)), 50));
    CHECK(near(expm1(small), std::expm1(static_cast<long double>(small)), 49));
    const double base = uniform_in(0, 1, 3 * i + 2);
    const double power = std::exp(uniform_in(-20, 6, 3 * i));
    CHECK(near(pow(base, power), std::pow(static_cast<long double>(base), power), 42));
  }
}

void test_edges() {
  CHECK(log(1) == 0 && exp(0) == 1 && expm1(0) == 0);
  CHECK(exp(-746) == 0 && exp(-kInfinity) == 0 && exp(710) == kInfinity && expm1(-kInfinity) == -1);
  CHECK(pow(1, kInfinity) == 1 && pow(0.5, kInfinity) == 0 && pow(0, 0.5) == 0 && pow(1, 1e-300) == 1);
  CHECK(std::abs(log(std::numeric_limits<double>::denorm_min()) + 744.4400719213812) < 1e-12);
  CHECK(std::abs(log(std::numeric_limits<double>::max()) - 709.782712893384) < 1e-12);
}

}  // namespace
}  // namespace l2m::test

int main() {
  l2m::test::test_errors_are_within_their_bounds();
  l2m::test::test_edges();
}
