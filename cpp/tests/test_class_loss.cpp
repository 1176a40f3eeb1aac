#include "l2m/loss/class_loss.hpp"

#include <cmath>
#include <cstdint>
#include <limits>
#include <span>
#include <stdexcept>
#include <vector>

#include "check.hpp"
#include "exact_class_loss.hpp"
#include "l2m/base/random.hpp"
#include "reference.hpp"

namespace l2m::test {
namespace {

/// Return a binary floating-point number from its fields, by the definition of IEEE 754.
double decode(std::uint32_t bits, int exponent_bits, int fraction_bits) {
  const double sign = (bits >> (exponent_bits + fraction_bits)) != 0 ? -1.0 : 1.0;
  const auto exponent = static_cast<int>((bits >> fraction_bits) & ((1U << exponent_bits) - 1));
  const double fraction = static_cast<double>(bits & ((1U << fraction_bits) - 1)) / std::exp2(fraction_bits);
  const int bias = (1 << (exponent_bits - 1)) - 1;
  if (exponent == (1 << exponent_bits) - 1)
    return fraction == 0 ? sign * std::numeric_limits<double>::infinity() : std::numeric_limits<double>::quiet_NaN();
  if (exponent == 0) return sign * fraction * std::exp2(1 - bias);
  return sign * (1 + fraction) * std::exp2(exponent - bias);
}

struct Sums {
  std::vector<ExactSum> sum;
  std::vector<std::int64_t> count;
  std::int64_t skipped = 0;

  explicit Sums(std::size_t num_classes) : sum(num_classes), count(num_classes, 0) {}
  void carry() {
    for (ExactSum& one : sum) one.carry();
  }
  bool operator==(const Sums&) const = default;
};

template <class Loss, class Class>
void add(Sums& sums, const std::vector<Loss>& losses, const std::vector<Class>& classes, int threads) {
  sums.skipped += class_loss(std::span<const Loss>(losses), std::span<const Class>(classes), std::span(sums.sum),
                             std::span(sums.count), threads);
  sums.carry();
}

template <class Class>
std::vector<Class> random_classes(std::size_t size, std::uint32_t num_classes) {
  std::vector<Class> classes;
  Sfc64 random(RandomStream(size, Purpose::kBatchOrder, num_classes));
  for (std::size_t i = 0; i < size; ++i) classes.push_back(static_cast<Class>(throw_dice<1>(num_classes, random)[0]));
  return classes;
}

template <class Loss>
std::vector<Loss> random_losses(std::size_t size) {
  std::vector<Loss> losses;
  const RandomStream random(size, Purpose::kBatchOrder, 0);
  for (std::size_t i = 0; i < size; ++i) losses.push_back(static_cast<Loss>(-std::log1p(-uniform(random, i))));
  return losses;
}

template <class Half>
void test_all_bit_patterns(int exponent_bits, int fraction_bits) {
  std::vector<Half> losses;
  std::vector<std::int32_t> classes;
  for (std::uint32_t bits = 0; bits < 65536; ++bits) {
    losses.push_back({static_cast<std::uint16_t>(bits)});
    classes.push_back(static_cast<std::int32_t>(bits));
  }
  Sums sums(65536);
  add(sums, losses, classes, 2);
  std::int64_t not_finite = 0;
  for (std::uint32_t bits = 0; bits < 65536; ++bits) {
    const double value = decode(bits, exponent_bits, fraction_bits);
    CHECK(sums.count[bits] == (std::isfinite(value) ? 1 : 0));
    CHECK(sums.sum[bits].nearest() == (std::isfinite(value) ? value : 0.0));
    if (!std::isfinite(value)) ++not_finite;
  }
  CHECK(sums.skipped == not_finite);
  CHECK(not_finite == 2 << fraction_bits);
}

/// Add losses one by one.
template <class Loss, class Class>
Sums reference_sums(const std::vector<Loss>& losses, const std::vector<Class>& classes, std::size_t num_classes) {
  Sums sums(num_classes);
  std::int64_t skipped[2] = {};
  add_exact_class_loss(std::span<const Loss>(losses), std::span<const Class>(classes), std::span(sums.sum),
                       std::span(sums.count), skipped);
  CHECK(skipped[0] == 0);
  sums.skipped = skipped[1];
  return sums;
}

template <class Loss, class Class>
void test_sums_of_types() {
  auto losses = random_losses<Loss>(3000);
  losses[1] = std::numeric_limits<Loss>::quiet_NaN();
  losses[10] = std::numeric_limits<Loss>::infinity();
  losses[2999] = -std::numeric_limits<Loss>::infinity();
  losses[20] = -7;
  losses[21] = std::numeric_limits<Loss>::denorm_min();
  const auto classes = random_classes<Class>(3000, 100);
  const Sums expected = reference_sums(losses, classes, 120);
  CHECK(expected.skipped == 3);
  for (const int threads : kThreadCounts) {
    Sums sums(120);
    add(sums, losses, classes, threads);
    CHECK(sums == expected);
  }
}

template <class Loss>
void test_sums_of_loss() {
  test_sums_of_types<Loss, std::int8_t>();
  test_sums_of_types<Loss, std::int16_t>();
  test_sums_of_types<Loss, std::int32_t>();
  test_sums_of_types<Loss, std::int64_t>();
  test_sums_of_types<Loss, std::uint8_t>();
  test_sums_of_types<Loss, std::uint16_t>();
  test_sums_of_types<Loss, std::uint32_t>();
}

void test_sums_accumulate() {
  Sums sums(3);
  for (std::size_t k = 0; k < 3; ++k) sums.sum[k].add(static_cast<float>(k) + 1.0F);
  sums.count = {10, 20, 30};
  add(sums, std::vector<float>{0.5F, 0.25F}, std::vector<std::uint8_t>{2, 0}, 1);
  add(sums, std::vector<float>{}, std::vector<std::uint8_t>{}, 1);
  CHECK(sums.sum[0].nearest() == 1.25 && sums.sum[1].nearest() == 2.0 && sums.sum[2].nearest() == 3.5);
  CHECK((sums.count == std::vector<std::int64_t>{11, 20, 31}));
  Sums none(0);
  add(none, std::vector<float>{}, std::vector<std::uint8_t>{}, 1);
  CHECK_THROWS(std::invalid_argument, add(none, std::vector<float>{1}, std::vector<std::uint8_t>{0}, 1));
}

void test_sums_of_many_losses_do_not_depend_on_threads() {
  constexpr std::size_t kLosses = 500'003;
  auto losses = random_losses<float>(kLosses);
  for (std::size_t i = 0; i < kLosses; i += 50'000) losses[i] = std::numeric_limits<float>::quiet_NaN();
  for (const std::uint32_t num_classes : {1U, 10U, 1000U, 100'000U, 400'000U}) {
    const auto classes = random_classes<std::int64_t>(kLosses, num_classes);
    const Sums expected = reference_sums(losses, classes, num_classes);
    CHECK(expected.skipped == 11);
    for (const int threads : kThreadCounts) {
      Sums sums(num_classes);
      add(sums, losses, classes, threads);
      CHECK(sums == expected);
    }
  }
}

void test_digits_are_carried_before_they_overflow() {
  std::vector<ExactSum> sum(2);
  sum[0].digit[3] = sum[1].digit[3] = std::int64_t{1} << 60;
  std::vector<std::int64_t> count{ExactSum::kMaxAdditions - 1, 0};
  const std::vector<float> losses{1, 1};
  const std::vector<std::uint8_t> classes{0, 1};
  class_loss(std::span<const float>(losses), std::span<const std::uint8_t>(classes), std::span(sum), std::span(count),
             1);
  CHECK(sum[0].digit[3] == 0 && sum[0].digit[4] >= 1 << 28 && sum[1].digit[3] == std::int64_t{1} << 60);
  CHECK(sum[0].nearest() == sum[1].nearest());
}

template <class Class>
void check_refused(std::size_t size, std::size_t position, Class wrong) {
  std::vector<Class> classes(size, 1);
  classes[position] = wrong;
  const std::vector<float> losses(size, 1.0F);
  for (const int threads : kThreadCounts) {
    Sums sums(100);
    CHECK_THROWS(std::invalid_argument, add(sums, losses, classes, threads));
    CHECK(sums == Sums(100));
  }
}

void test_a_class_out_of_range_adds_nothing() {
  check_refused<std::int8_t>(10, 9, -1);
  check_refused<std::int8_t>(10, 3, 100);
  check_refused<std::int16_t>(10, 0, -100);
  check_refused<std::int32_t>(10, 0, std::numeric_limits<std::int32_t>::min());
  check_refused<std::int64_t>(10, 5, std::int64_t{1} << 32);
  check_refused<std::uint8_t>(10, 5, 255);
  check_refused<std::uint16_t>(10, 5, 100);
  check_refused<std::uint32_t>(10, 5, ~0U);
  check_refused<std::int64_t>(300'000, 299'999, -1);
  check_refused<std::uint32_t>(300'000, 150'000, 100);

  std::vector<float> losses{std::numeric_limits<float>::quiet_NaN()};  // would be skipped if the class were valid
  Sums sums(2);
  CHECK_THROWS(std::invalid_argument, add(sums, losses, std::vector<std::int32_t>{2}, 0));
}

void test_lengths_must_agree() {
  Sums sums(2);
  CHECK_THROWS(std::invalid_argument, add(sums, std::vector<float>(3), std::vector<std::int32_t>(2), 0));
  sums.count.pop_back();
  CHECK_THROWS(std::invalid_argument, add(sums, std::vector<float>(2), std::vector<std::int32_t>(2), 0));
}

}  // namespace
}  // namespace l2m::test

int main() {
  using namespace l2m::test;
  test_all_bit_patterns<l2m::Float16>(5, 10);
  test_all_bit_patterns<l2m::BFloat16>(8, 7);
  test_sums_of_loss<float>();
  test_sums_of_loss<double>();
  test_sums_accumulate();
  test_sums_of_many_losses_do_not_depend_on_threads();
  test_digits_are_carried_before_they_overflow();
  test_a_class_out_of_range_adds_nothing();
  test_lengths_must_agree();
}
