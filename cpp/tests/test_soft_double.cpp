#include "l2m/base/soft_double.hpp"

#include <bit>
#include <cstdint>
#include <limits>

#include "check.hpp"
#include "reference.hpp"

namespace l2m::test {
namespace {

std::uint64_t bits(double x) { return std::bit_cast<std::uint64_t>(x); }

/// Sums are those of the processor; if it has no instructions for doubles, those of another library.
void check_sum(std::uint64_t a, std::uint64_t b) {
  const double sum = std::bit_cast<double>(a) + std::bit_cast<double>(b);
  const std::uint64_t soft = soft::add(a, b);
  CHECK(sum != sum ? std::bit_cast<double>(soft) != std::bit_cast<double>(soft) : soft == bits(sum));
}

void test_sums_are_rounded_to_the_nearest_double() {
  Sfc64 random = some_randomness(1);
  for (int i = 0; i < 300'000; ++i) {
    // Some significands have many zeros or ones, and exponents are close to each other, or to either end.
    const std::uint64_t a = random() >> random() % 12 * (i % 3 == 0);
    const std::uint64_t spread = i % 2 == 0 ? 0 : random() % 70;
    const std::uint64_t exponent = (a >> 52 & 0x7FF) > spread ? (a >> 52 & 0x7FF) - spread : 0;
    std::uint64_t b = (random() & ~(std::uint64_t{0x7FF} << 52)) | exponent << 52;
    if (i % 5 == 0) b &= ~std::uint64_t{0} << random() % 53;
    check_sum(a, b);
    check_sum(b, a);
    check_sum(a, a ^ soft::kSign);
    check_sum(a, a ^ (random() & 7));
  }
}

void test_edges_of_sums() {
  constexpr double kInfinity = std::numeric_limits<double>::infinity();
  constexpr double kLargest = std::numeric_limits<double>::max(), kSmallest = std::numeric_limits<double>::denorm_min();
  const double edges[] = {
      0.0,       kSmallest, std::numeric_limits<double>::min(),      1.0, 0x1p-53, 0x1.8p-53, kLargest,
      kInfinity, 0x1p970,   std::numeric_limits<double>::quiet_NaN()};
  for (const double a : edges)
    for (const double b : edges)
      for (const double c : {b, -b}) check_sum(bits(a), bits(c)), check_sum(bits(-a), bits(c));
  // An assembler routine of libgcc for ARM drops the bit that decides here.
  CHECK(soft::add(bits(1.0), 0xBDE550740B7E107EU) == 0x3FEFFFFFFFEAAF8CU);
}

void test_integers_and_floats_are_converted() {
  Sfc64 random = some_randomness(2);
  for (int i = 0; i < 100'000; ++i) {
    const std::uint64_t x = random() >> random() % 64;
    CHECK(soft::from_integer(x) == bits(static_cast<double>(x)));
    const auto y = static_cast<std::int64_t>(x);
    CHECK(soft::from_integer(y) == bits(static_cast<double>(y)) &&
          soft::from_integer(-y / 2) == bits(static_cast<double>(-y / 2)));
    const auto z = static_cast<std::uint32_t>(random() >> (i % 2 == 0 ? 0 : random() % 32));
    const auto z_float = std::bit_cast<float>(z);
    if (z_float == z_float) CHECK(soft::from_float(z) == bits(static_cast<double>(z_float)));
  }
  CHECK(soft::from_float(0x7F800000U) == bits(std::numeric_limits<double>::infinity()));
  const auto nan = std::bit_cast<double>(soft::from_float(0x7F800001U));
  CHECK(nan != nan);
}

}  // namespace
}  // namespace l2m::test

int main() {
  using namespace l2m::test;
  test_sums_are_rounded_to_the_nearest_double();
  test_edges_of_sums();
  test_integers_and_floats_are_converted();
}
