#include "l2m/base/math.hpp"

#include <cfloat>
#include <cmath>
#include <limits>

// Elsewhere, sums and products would be rounded twice. On 32-bit x86, compile with -msse2 -mfpmath=sse.
static_assert(FLT_EVAL_METHOD == 0 || FLT_EVAL_METHOD == 16,
              "expressions must be evaluated in the precision of their type");

namespace l2m {
namespace {

// log(2) in two parts. The first ends in 32 zero bits, so that its products with exponents are exact.
constexpr double kLog2High = 0x1.62e42fee00000p-1;
constexpr double kLog2Low = 0x1.a39ef35793c76p-33;
constexpr double kHalfRoot = 0x1.6a09e667f3bcdp-1;  // sqrt(1/2)

/// Return exp(x) - 1 for |x| <= log(2) / 2, by its Taylor series.
double expm1_near_0(double x) {
  double sum = 0;
  for (int n = 15; n >= 2; --n) sum = (sum + 1) * (x / n);
  return x + x * sum;
}

}  // namespace

double log(double x) {
  int exponent = 0;
  double mantissa = std::frexp(x, &exponent);  // in [1/2, 1)
  if (mantissa < kHalfRoot) {
    mantissa *= 2;
    --exponent;
  }
  // log(m) = 2 atanh(f) with f = (m - 1) / (m + 1): a series of odd powers.
  const double f = (mantissa - 1) / (mantissa + 1);
  const double square = f * f;
  double sum = 0;
  for (int n = 23; n >= 3; n -= 2) sum = (sum + 1.0 / n) * square;
  return exponent * kLog2High + (2 * f + (2 * f * sum + exponent * kLog2Low));
}

double exp(double x) {
  if (x > 709.7) return std::numeric_limits<double>::infinity();
  if (!(x >= -745.2)) return 0;
  const double multiple = std::floor(x * 0x1.71547652b82fep+0 + 0.5);  // multiple of log(2)
  const double rest = (x - multiple * kLog2High) - multiple * kLog2Low;
  return std::ldexp(1 + expm1_near_0(rest), static_cast<int>(multiple));
}

double expm1(double x) { return std::abs(x) <= 0.34 ? expm1_near_0(x) : exp(x) - 1; }

double pow(double x, double y) {
  if (x == 1) return 1;
  if (x == 0 || y == std::numeric_limits<double>::infinity()) return 0;
  return exp(y * log(x));
}

}  // namespace l2m
