#include "exact_class_loss.hpp"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include "check.hpp"
#include "l2m/base/exact_sums.hpp"
#include "l2m/base/random.hpp"

namespace l2m::test {
namespace {

/// Integer of 128 bits in two's complement.
struct Wide {
  std::int64_t high = 0;
  std::uint64_t low = 0;

  /// Add m * 2^shift. @param shift  in [0, 63].
  void add(std::int64_t m, int shift) {
    const std::uint64_t before = low;
    low += static_cast<std::uint64_t>(m) << shift;
    high += (m >> 1 >> (63 - shift)) + (low < before ? 1 : 0);
  }

  /// Return the nearest double.
  [[nodiscard]] double rounded() const {
    if (high < 0) return -Wide{low == 0 ? -high : ~high, 0 - low}.rounded();
    if (high == 0) return static_cast<double>(low);
    const int shift = std::countl_zero(static_cast<std::uint64_t>(high));
    const std::uint64_t top = static_cast<std::uint64_t>(high) << shift | low >> 1 >> (63 - shift);
    const bool follows = low << shift != 0;  // such bits break ties
    return std::ldexp(static_cast<double>(top | (follows ? 1 : 0)), 64 - shift);
  }
};

struct Totals {
  explicit Totals(std::size_t num_classes) : sum(num_classes), count(num_classes), skipped(2) {}

  template <class Loss>
  void add(const std::vector<Loss>& losses, const std::vector<std::int32_t>& classes) {
    add_exact_class_loss(std::span<const Loss>(losses), std::span<const std::int32_t>(classes),
                         std::span<ExactSum>(sum), std::span<std::int64_t>(count), std::span<std::int64_t>(skipped));
  }

  std::vector<ExactSum> sum;
  std::vector<std::int64_t> count, skipped;
};

double sum_of(const std::vector<float>& losses) {
  Totals totals(1);
  totals.add(losses, std::vector<std::int32_t>(losses.size(), 0));
  ExactSum same;
  for (const float loss : losses)
    if (std::isfinite(loss)) same.add(loss);
  same.carry();
  CHECK(same == totals.sum[0]);
  return same.nearest();
}

/// Compare sums of floats m * 2^(offset + s) with 128-bit integers, over the whole range of a float.
void test_sums_equal_those_of_integers() {
  Sfc64 random(RandomStream(1, Purpose::kShuffle, 0));
  for (int offset = -149; offset <= 127 - 23 - 60; ++offset) {
    for (const int size : {0, 1, 2, 3, 100, 5000}) {
      std::vector<float> losses;
      Wide sum;
      for (int i = 0; i < size; ++i) {
        const auto m = static_cast<std::int32_t>(random() % (1U << 25)) - (1 << 24);
        const auto shift = static_cast<int>(random() % 61);
        losses.push_back(std::ldexp(static_cast<float>(m), offset + shift));
        sum.add(m, shift);
      }
      CHECK(sum_of(losses) == std::ldexp(sum.rounded(), offset));
    }
  }
}

void test_ends_of_the_range() {
  constexpr float kLargest = std::numeric_limits<float>::max();
  constexpr float kSmallest = std::numeric_limits<float>::denorm_min();
  CHECK(sum_of({kSmallest}) == 0x1p-149);
  CHECK(sum_of({-kSmallest}) == -0x1p-149);
  CHECK(sum_of({0.0F, -0.0F}) == 0.0);
  CHECK(sum_of({kLargest}) == static_cast<double>(kLargest));
  CHECK(sum_of({kLargest, kSmallest, -kLargest}) == 0x1p-149);
  CHECK(sum_of(std::vector<float>(1000, kLargest)) == 1000.0 * static_cast<double>(kLargest));
  CHECK(sum_of(std::vector<float>(1000, -kLargest)) == -1000.0 * static_cast<double>(kLargest));
  // Ties go to even, unless a nonzero bit follows.
  CHECK(sum_of({0x1p53F, 1.0F}) == 0x1p53);
  CHECK(sum_of({0x1p53F, 1.0F, kSmallest}) == 0x1p53 + 2);
  CHECK(sum_of({0x1p53F, 1.0F, -kSmallest}) == 0x1p53);
  CHECK(sum_of({0x1p53F, 2.0F, 1.0F}) == 0x1p53 + 4);
}

void test_the_order_does_not_matter() {
  Sfc64 random(RandomStream(2, Purpose::kShuffle, 0));
  std::vector<float> losses;
  for (int i = 0; i < 20'000; ++i)
    losses.push_back(std::bit_cast<float>(static_cast<std::uint32_t>(random())));  // includes infinities and NaN
  const double expected = sum_of(losses);
  for (int i = 0; i < 5; ++i) {
    fisher_yates(std::span<float>(losses), random);
    CHECK(sum_of(losses) == expected);
  }
}

void test_doubles_are_added_exactly() {
  Sfc64 random(RandomStream(3, Purpose::kShuffle, 0));
  for (int i = 0; i < 10'000; ++i) {
    const double x = std::ldexp(static_cast<double>(random()), static_cast<int>(random() % 100) - 100);
    Totals totals(1);
    totals.add(std::vector<double>{x}, {0});
    CHECK(totals.sum[0].nearest() == x);
    ExactSum same;
    same.add(x);
    same.carry();
    CHECK(same == totals.sum[0]);
  }
}

/// Compare doubles of all magnitudes with long divisions by two.
void test_doubles_of_all_magnitudes() {
  Sfc64 random(RandomStream(4, Purpose::kShuffle, 0));
  for (int exponent = -230; exponent < 168 - 53; ++exponent) {
    const auto m = static_cast<double>(random() >> 11);
    const double x = std::ldexp(random() % 2 == 0 ? m : -m, exponent);
    ExactSum sum;
    sum.add(x);
    sum.carry();
    const double unit = 0x1p-149;
    const double rounded = exponent >= -149 ? x : std::nearbyint(x / unit) * unit;
    CHECK(sum.nearest() == rounded);
    sum.add(-rounded);
    sum.carry();
    CHECK(sum == ExactSum{});
  }
}

void test_ties_go_to_even() {
  for (const auto& [halves, expected] : {std::pair{1, 0}, {2, 1}, {3, 2}, {4, 2}, {5, 2}, {7, 4}}) {
    const double x = halves * 0x1p-150;
    for (const double high : {0.0, 0x1p-110}) {
      ExactSum sum;
      sum.add(high + x);
      Totals totals(1);
      totals.add(std::vector<double>{high + x}, {0});
      CHECK(sum.nearest() == high + expected * 0x1p-149 && sum == totals.sum[0]);
    }
  }
}

/// Terms must add up to the sum exactly, and be few for losses of similar size.
void test_terms() {
  Sfc64 random(RandomStream(5, Purpose::kShuffle, 0));
  for (int range = 1; range <= 250; range += 7) {
    ExactSum sum;
    for (int i = 0; i < 1000; ++i) {
      const auto m = static_cast<std::int32_t>(random() % (1U << 25)) - (1 << 24);
      sum.add(std::ldexp(static_cast<float>(m), -149 + static_cast<int>(random() % static_cast<unsigned>(range))));
    }
    sum.carry();
    const std::vector<double> terms = sum.terms();
    CHECK(terms.size() <= 7 && (range > 18 || terms.size() <= 1) && terms[0] == sum.nearest());
    ExactSum same;
    for (const double term : terms) same.add(term);
    same.carry();
    CHECK(same == sum);
  }
  CHECK(ExactSum{}.terms().empty());
}

void test_sums_are_clamped() {
  ExactSum sum;
  for (int i = 0; i < 3; ++i) {
    sum.add(ExactSum::kLargest);
    sum.carry();
    CHECK(sum.nearest() == ExactSum::kLargest && sum.terms().size() == 1);
  }
  for (int i = 0; i < 3; ++i) {
    sum.add(-ExactSum::kLargest);
    sum.carry();
  }
  CHECK(sum.nearest() == -ExactSum::kLargest);
  sum.add(ExactSum(sum));
  CHECK(sum.nearest() == -ExactSum::kLargest);
}

/// As many additions as are allowed between two carries, of the numbers with the largest digits.
void test_digits_do_not_overflow() {
  ExactSum sum, step;
  step.add(-std::ldexp(9007199254740991.0, 11 - 149));  // digits of 2^32 - 1
  for (int i = 0; i < kSumDigits; ++i) sum.digit[i] = ExactSum::kMaxAdditions * step.digit[i];
  const double expected = static_cast<double>(ExactSum::kMaxAdditions) * step.nearest();
  CHECK(sum.nearest() == expected);
  sum.add(ExactSum(sum));
  CHECK(sum.nearest() == 2 * expected);
}

void test_skipped_losses_are_counted() {
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  Totals totals(3);
  totals.add(std::vector<float>{1, 2, 4, kInfinity, std::nanf(""), 8, kInfinity}, {0, 2, 2, 0, 1, -1, 3});
  totals.add(std::vector<double>{1e39, -0.5}, {0, 2});
  CHECK(totals.sum[0].nearest() == 1 && totals.sum[1] == ExactSum{} && totals.sum[2].nearest() == 5.5);
  CHECK(totals.count == std::vector<std::int64_t>{1, 0, 3});
  CHECK(totals.skipped == std::vector<std::int64_t>{2, 3});
}

}  // namespace
}  // namespace l2m::test

int main() {
  using namespace l2m::test;
  test_sums_equal_those_of_integers();
  test_ends_of_the_range();
  test_the_order_does_not_matter();
  test_doubles_are_added_exactly();
  test_doubles_of_all_magnitudes();
  test_ties_go_to_even();
  test_terms();
  test_sums_are_clamped();
  test_digits_do_not_overflow();
  test_skipped_losses_are_counted();
}
