#include <cmath>
#include <cstdint>
#include <limits>
#include <span>
#include <type_traits>
#include <vector>

#include "check.hpp"
#include "class_loss.cu"
#include "exact_class_loss.hpp"
#include "l2m/base/random.hpp"

namespace l2m::test {
namespace {

constexpr double kNan = std::numeric_limits<double>::quiet_NaN();

template <class T>
constexpr cuda::FloatType kTypeOf = std::is_same_v<T, Float16>    ? cuda::FloatType::kFloat16
                                    : std::is_same_v<T, BFloat16> ? cuda::FloatType::kBFloat16
                                    : std::is_same_v<T, float>    ? cuda::FloatType::kFloat32
                                                                  : cuda::FloatType::kFloat64;

/// Accumulators of the kernels next to those of the CPU reference.
struct Totals {
  explicit Totals(std::size_t num_classes) : sum(num_classes), count(num_classes), skipped(2) {}

  template <class Loss, class Class>
  void add(const std::vector<Loss>& losses, const std::vector<Class>& classes) {
    cuda::add_class_loss(kTypeOf<Loss>, losses.data(), {classes.data(), sizeof(Class), std::is_signed_v<Class>},
                         static_cast<std::int64_t>(losses.size()),
                         {static_cast<std::int64_t>(sum.size()), sum.data()->digit, count.data(), skipped.data()},
                         nullptr);
    for (ExactSum& one : sum) one.carry();
  }

  template <class Loss, class Class>
  void add_reference(const std::vector<Loss>& losses, const std::vector<Class>& classes) {
    add_exact_class_loss(std::span<const Loss>(losses), std::span<const Class>(classes), std::span<ExactSum>(sum),
                         std::span<std::int64_t>(count), std::span<std::int64_t>(skipped));
  }

  std::vector<ExactSum> sum;
  std::vector<std::int64_t> count, skipped;
};

/// Compare losses of all magnitudes and signs, some non-finite, some with an invalid class.
template <class Loss, class Class>
void test_against_the_cpu_reference(std::size_t n, std::size_t num_classes) {
  Sfc64 random(RandomStream(n, Purpose::kShuffle, num_classes));
  Totals totals(num_classes);
  Totals expected(num_classes);
  for (int call = 0; call < 2; ++call) {
    std::vector<Loss> losses;
    std::vector<Class> classes;
    for (std::size_t i = 0; i < n; ++i) {
      double x = std::ldexp(static_cast<double>(random()), -64 + static_cast<int>(random() % 100) - 60);
      if (random() % 2 == 0) x = -x;
      if (random() % 50 == 0) x = kNan;
      if (random() % 50 == 0) x = 1e300;
      losses.push_back(round_to<Loss>(static_cast<decltype(widen(Loss{}))>(x)));
      classes.push_back(static_cast<Class>(random() % (num_classes + 2) - 1));
    }
    totals.add(losses, classes);
    expected.add_reference(losses, classes);
  }
  CHECK(totals.sum == expected.sum);
  CHECK(totals.count == expected.count);
  CHECK(totals.skipped == expected.skipped);
}

/// Fill the digits of one class up to their limit, in several visits of each block, which uses global memory once.
void test_many_large_losses_of_one_class() {
  const std::vector<float> losses(100'000, 65535.998F);
  const std::vector<std::uint8_t> classes(losses.size(), 1);
  Totals totals(2);
  Totals expected(2);
  cuda_on_cpu::wide_atomics = 0;
  totals.add(losses, classes);
  constexpr int kBlocks = kMultiprocessors * 2;
  constexpr int kWordsOfClass = 3;  // two of the sum, and the count
  CHECK(cuda_on_cpu::wide_atomics <= kBlocks * kWordsOfClass);
  expected.add_reference(losses, classes);
  CHECK(totals.sum == expected.sum);
  CHECK(totals.count == expected.count);
}

/// Losses of all magnitudes must be added in shared memory: a block takes few operations on global memory for them.
template <class Loss>
void test_losses_of_one_magnitude_avoid_global_memory() {
  constexpr std::size_t kLosses = 5000;
  constexpr std::size_t kClasses = 3;
  Sfc64 random(RandomStream(7, Purpose::kShuffle, 0));
  for (int exponent = -145; exponent <= 120; exponent += 5) {
    std::vector<Loss> losses;
    std::vector<std::uint8_t> classes;
    for (std::size_t i = 0; i < kLosses; ++i) {
      const auto digits = static_cast<Loss>(1.0 + std::ldexp(static_cast<double>(random()), -64));
      losses.push_back(std::ldexp(random() % 2 == 0 ? digits : -digits, exponent));
      classes.push_back(static_cast<std::uint8_t>(random() % kClasses));
    }
    losses[0] = static_cast<Loss>(exponent > 0 ? 1e-37 : 1e37);  // one outlier does not move the range
    losses[1] = std::numeric_limits<Loss>::infinity();
    Totals totals(kClasses);
    Totals expected(kClasses);
    cuda_on_cpu::wide_atomics = 0;
    totals.add(losses, classes);
    CHECK(cuda_on_cpu::wide_atomics < 100);
    expected.add_reference(losses, classes);
    CHECK(totals.sum == expected.sum);
    CHECK(totals.count == expected.count);
    CHECK(totals.skipped == expected.skipped);
  }
}

void test_skipped_losses_take_one_operation_per_block() {
  const std::vector<float> losses(2000, std::nanf(""));
  for (const std::size_t num_classes : {2, 5000}) {  // in shared and in global memory
    Totals totals(num_classes);
    cuda_on_cpu::wide_atomics = 0;
    totals.add(losses, std::vector<std::int64_t>(losses.size(), 1));
    CHECK(totals.skipped == std::vector<std::int64_t>{0, 2000});
    CHECK(cuda_on_cpu::wide_atomics < 2000 / 100);
  }
}

void test_a_failed_launch_adds_nothing() {
  for (const std::size_t num_classes : {3, 5000}) {
    Totals totals(num_classes);
    cuda_on_cpu::launches_before_failure = 0;
    CHECK_THROWS(std::runtime_error, totals.add(std::vector<float>{1, 2}, std::vector<std::int64_t>{0, 2}));
    cuda_on_cpu::launches_before_failure = 1 << 30;
    CHECK(totals.sum[0] == ExactSum{} && totals.count[2] == 0);
  }
}

}  // namespace
}  // namespace l2m::test

int main() {
  using namespace l2m;
  using namespace l2m::test;
  for (const std::size_t n : {0, 1, 31, 513, 5000}) test_against_the_cpu_reference<float, std::int64_t>(n, 7);
  for (const std::size_t num_classes : {7, 700})  // blocks visit several parts, and may keep sums between visits
    test_against_the_cpu_reference<float, std::int64_t>(70'000, num_classes);
  test_against_the_cpu_reference<double, std::int8_t>(70'000, 3);
  cuda_on_cpu::shared_bytes = kMaxSharedBytes;
  test_against_the_cpu_reference<float, std::int64_t>(70'000, 1001);
  test_against_the_cpu_reference<float, std::int16_t>(3000, 8301);
  cuda_on_cpu::shared_bytes = 64 << 10;
  test_against_the_cpu_reference<float, std::int8_t>(3000, 1);
  test_against_the_cpu_reference<Float16, std::int16_t>(3000, 100);
  test_against_the_cpu_reference<BFloat16, std::uint8_t>(3000, 100);
  test_against_the_cpu_reference<float, std::int32_t>(3000, 2340);
  test_against_the_cpu_reference<double, std::int32_t>(3000, 1820);
  test_against_the_cpu_reference<double, std::int32_t>(3000, 1821);
  test_against_the_cpu_reference<float, std::uint16_t>(3000, 2341);  // exceeds shared memory
  test_against_the_cpu_reference<double, std::uint32_t>(3000, 5000);
  test_against_the_cpu_reference<float, std::int64_t>(3000, 1'000'000);
  test_many_large_losses_of_one_class();
  test_losses_of_one_magnitude_avoid_global_memory<float>();
  test_losses_of_one_magnitude_avoid_global_memory<double>();
  test_skipped_losses_take_one_operation_per_block();
  test_a_failed_launch_adds_nothing();
}
