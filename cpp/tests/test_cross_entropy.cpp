#include "l2m/loss/cross_entropy.hpp"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>
#include <span>
#include <stdexcept>
#include <utility>
#include <vector>

#include "check.hpp"
#include "l2m/base/random.hpp"
#include "reference.hpp"

namespace l2m::test {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

/// Inputs and outputs of a cross entropy.
template <class Logit>
struct Case {
  std::int64_t num_columns;
  std::vector<Logit> logits;
  std::vector<std::int64_t> targets;
  std::vector<std::int64_t> classes;
  std::vector<double> weight, offsets;
  double label_smoothing = 0.0;
  std::vector<double> log_sum_exp = std::vector<double>(targets.size());
  std::vector<ExactSum> sum = std::vector<ExactSum>(3);
  std::vector<std::int64_t> count = std::vector<std::int64_t>(3);
  std::vector<Logit> gradient = std::vector<Logit>(logits.size());

  [[nodiscard]] Targets given() const {
    return {.targets = targets,
            .num_columns = num_columns,
            .weight = weight,
            .ignore_index = -1,
            .label_smoothing = label_smoothing,
            .offsets = offsets};
  }
  MeanLoss forward(int threads) {
    return cross_entropy(given(), std::span<const Logit>(logits), std::span<const std::int64_t>(classes),
                         std::span(log_sum_exp), std::span(sum), std::span(count), threads);
  }
  void backward(double scale, int threads) {
    cross_entropy_gradient(given(), std::span<const Logit>(logits), std::span<const double>(log_sum_exp), scale,
                           std::span(gradient), threads);
  }
  [[nodiscard]] std::vector<std::uint64_t> bits(const MeanLoss& mean) const {
    std::vector<std::uint64_t> all{std::bit_cast<std::uint64_t>(mean.loss),
                                   std::bit_cast<std::uint64_t>(mean.total_weight)};
    for (const double x : log_sum_exp) all.push_back(std::bit_cast<std::uint64_t>(x));
    for (const ExactSum& x : sum) all.push_back(std::bit_cast<std::uint64_t>(x.nearest()));
    for (const std::int64_t x : count) all.push_back(static_cast<std::uint64_t>(x));
    for (const Logit x : gradient) all.push_back(std::bit_cast<std::uint64_t>(static_cast<double>(widen(x))));
    return all;
  }
};

template <class Logit>
Case<Logit> random_case(std::size_t n, std::size_t columns, bool weighted, double label_smoothing) {
  Case<Logit> made{.num_columns = static_cast<std::int64_t>(columns),
                   .logits = {},
                   .targets = {},
                   .classes = {},
                   .weight = {},
                   .offsets = {},
                   .label_smoothing = label_smoothing};
  const RandomStream random(n, Purpose::kBatchOrder, columns);
  for (std::size_t i = 0; i < n * columns; ++i)
    made.logits.push_back(round_to<Logit>(static_cast<Wide<Logit>>(20.0 * uniform(random, i) - 10.0)));
  for (std::size_t i = 0; i < n; ++i) {
    made.targets.push_back(i % 5 == 3 ? -1 : static_cast<std::int64_t>(i * 7 % columns));
    made.classes.push_back(i % 5 == 3 ? 77 : static_cast<std::int64_t>(i % 3));
  }
  for (std::size_t j = 0; weighted && j < columns; ++j) {
    made.weight.push_back(0.5 + static_cast<double>(j % 4));
    made.offsets.push_back(0.7 * static_cast<double>(j % 5) - 1.0);
  }
  made.log_sum_exp.resize(n);
  made.gradient.resize(n * columns);
  return made;
}

bool near(double got, double expected, double tolerance) {
  return std::abs(got - expected) <= tolerance * std::max(1.0, std::abs(expected));
}

/// Compare with the definition, using the target distribution and the log-softmax of each row.
template <class Logit>
void test_against_definition(std::size_t n, std::size_t columns, bool weighted, double s, double rounding) {
  Case<Logit> made = random_case<Logit>(n, columns, weighted, s);
  constexpr double kScale = 0.125;
  const MeanLoss mean = made.forward(2);
  made.backward(kScale, 2);

  double total = 0.0;
  double total_weight = 0.0;
  std::vector<double> sum(3, 0.0);
  std::vector<std::int64_t> count(3, 0);
  const double tolerance = sizeof(Logit) == 8 ? 1e-13 : 2e-6;
  for (std::size_t row = 0; row < n; ++row) {
    const auto gradient_at = [&](std::size_t j) {
      return static_cast<double>(widen(made.gradient[row * columns + j]));
    };
    if (made.targets[row] == -1) {
      for (std::size_t j = 0; j < columns; ++j) CHECK(gradient_at(j) == 0.0);
      CHECK(made.log_sum_exp[row] == 0.0);
      continue;
    }
    std::vector<double> x;
    for (std::size_t j = 0; j < columns; ++j)
      x.push_back(static_cast<double>(widen(made.logits[row * columns + j])) + (weighted ? made.offsets[j] : 0.0));
    double sum_exp = 0.0;
    for (const double v : x) sum_exp += std::exp(v);
    std::vector<double> share(columns);  // of each column in the loss
    double loss = 0.0;
    double shares = 0.0;
    for (std::size_t j = 0; j < columns; ++j) {
      const double weight = weighted ? made.weight[j] : 1.0;
      const bool is_target = static_cast<std::size_t>(made.targets[row]) == j;
      share[j] = weight * ((is_target ? 1.0 - s : 0.0) + s / static_cast<double>(columns));
      loss += share[j] * (std::log(sum_exp) - x[j]);
      shares += share[j];
      if (is_target) total_weight += weight;
    }
    total += loss;
    sum[static_cast<std::size_t>(made.classes[row])] += loss;
    ++count[static_cast<std::size_t>(made.classes[row])];
    CHECK(near(made.log_sum_exp[row], std::log(sum_exp), tolerance));
    for (std::size_t j = 0; j < columns; ++j)
      CHECK(near(gradient_at(j), kScale * (shares * std::exp(x[j]) / sum_exp - share[j]), rounding));
  }
  CHECK(near(mean.total_weight, total_weight, 1e-15));
  CHECK(near(mean.loss, total / total_weight, tolerance));
  for (std::size_t k = 0; k < 3; ++k) CHECK(near(made.sum[k].nearest(), sum[k], tolerance));
  CHECK(made.count == count);

  const auto bits = made.bits(mean);
  for (const int threads : kThreadCounts) {
    Case<Logit> again = random_case<Logit>(n, columns, weighted, s);
    const MeanLoss same = again.forward(threads);
    again.backward(kScale, threads);
    CHECK(again.bits(same) == bits);
  }
}

template <class Logit>
void test_logits_of(double rounding) {
  for (const bool weighted : {false, true})
    for (const double s : {0.0, 0.1, 1.0})
      for (const auto& [n, columns] : {std::pair{40, 1}, {40, 7}, {40, 8}, {5, 9000}, {900, 100}})
        test_against_definition<Logit>(static_cast<std::size_t>(n), static_cast<std::size_t>(columns), weighted, s,
                                       rounding);
}

/// Widening and rounding a half-precision number gives it back; numbers in between round to the nearest, ties to even.
template <class Half>
void test_rounding(std::uint32_t infinity) {
  for (std::uint32_t bits = 0; bits < infinity; ++bits) {
    const float low = widen(Half{static_cast<std::uint16_t>(bits)});
    const float high = widen(Half{static_cast<std::uint16_t>(bits + 1)});
    CHECK(round_to<Half>(low).bits == bits);
    CHECK(round_to<Half>(-low).bits == (bits | 0x8000U));
    if (bits + 1 == infinity) continue;
    const float middle = low + (high - low) / 2;
    CHECK(round_to<Half>(middle).bits == bits + (bits & 1U));
    if (middle > low) CHECK(round_to<Half>(std::nextafter(middle, 0.0F)).bits == bits);
    CHECK(round_to<Half>(std::nextafter(middle, high)).bits == bits + (middle < high ? 1 : 0));
  }
  CHECK(round_to<Half>(std::numeric_limits<float>::infinity()).bits == infinity);
  CHECK(round_to<Half>(std::numeric_limits<float>::max()).bits == infinity);
  CHECK(std::isnan(widen(round_to<Half>(std::numeric_limits<float>::quiet_NaN()))));
}

void test_non_finite_logits() {
  Case<float> made{.num_columns = 2,
                   .logits = {1, -static_cast<float>(kInfinity), static_cast<float>(kInfinity), 0, NAN, 0, 0, 0},
                   .targets = {0, 0, 0, 1},
                   .classes = {0, 0, 1, 2},
                   .weight = {},
                   .offsets = {}};
  CHECK(std::isnan(made.forward(0).loss));
  CHECK(made.sum[0] == ExactSum{} && made.sum[1] == ExactSum{} && made.sum[2].nearest() == std::log(2.0));
  CHECK(made.count == std::vector<std::int64_t>({1, 0, 1}));
  made.backward(1.0, 0);
  CHECK(made.gradient[0] == 0.0F && made.gradient[1] == 0.0F);
  for (std::size_t i = 2; i < 6; ++i) CHECK(std::isnan(made.gradient[i]));
  CHECK(near(static_cast<double>(made.gradient[6]), 0.5, 1e-6));
}

/// Without smoothing, the weight of a column that is no row's target is not used.
void test_weights_without_a_target_are_not_used(double weight) {
  auto made = random_case<float>(40, 7, true, 0.0);
  for (std::int64_t& target : made.targets) target = target == 2 ? 3 : target;
  auto expected = made;
  made.weight[2] = weight;
  expected.weight[2] = 1.0;
  const MeanLoss mean = made.forward(1);
  const MeanLoss expected_mean = expected.forward(1);
  made.backward(1.0 / mean.total_weight, 1);
  expected.backward(1.0 / expected_mean.total_weight, 1);
  CHECK(std::isfinite(mean.loss));
  CHECK(made.bits(mean) == expected.bits(expected_mean));
}

/// With smoothing, every weight is part of every loss, even if the row is certain.
void test_smoothing_uses_every_weight() {
  Case<float> made{.num_columns = 3,
                   .logits = {1, 2, 3, 90, 0, 0, 0, 1, 0},
                   .targets = {0, 1, -1},
                   .classes = {0, 1, 2},
                   .weight = {1.0, 1.0, kInfinity},
                   .offsets = {},
                   .label_smoothing = 0.1};
  const MeanLoss mean = made.forward(1);
  CHECK(mean.loss == kInfinity && mean.total_weight == 2.0);
  CHECK(made.count == std::vector<std::int64_t>(3, 0));
  made.backward(1.0, 1);
  CHECK(made.gradient[0] == static_cast<float>(kInfinity) && std::isnan(made.gradient[2]));
  for (std::size_t i = 6; i < 9; ++i) CHECK(made.gradient[i] == 0.0F);

  made.weight[2] = std::numeric_limits<double>::quiet_NaN();
  CHECK(std::isnan(made.forward(1).loss));
}

/// With smoothing, each loss includes all weights, but the mean for a total weight of 0 is NaN.
void test_the_mean_is_nan_for_a_total_weight_of_0() {
  for (const double label_smoothing : {0.0, 0.1, 1.0}) {
    auto made = random_case<float>(20, 4, true, label_smoothing);
    for (std::int64_t& target : made.targets) target = target < 0 ? target : 1;
    made.weight[1] = 0.0;
    const MeanLoss mean = made.forward(1);
    CHECK(std::isnan(mean.loss));
    made.backward(1.0 / mean.total_weight, 1);
    for (std::size_t i = 0; i < made.gradient.size(); ++i)
      CHECK(made.targets[i / 4] < 0 ? made.gradient[i] == 0.0F : std::isnan(made.gradient[i]));
  }
}

void test_no_rows() {
  Case<double> made{.num_columns = 4, .logits = {}, .targets = {}, .classes = {}, .weight = {}, .offsets = {}};
  const MeanLoss mean = made.forward(2);
  CHECK(std::isnan(mean.loss) && mean.total_weight == 0.0);
  made.backward(1.0, 2);
  CHECK(made.count == std::vector<std::int64_t>(3, 0));
}

/// Products of rows and columns that overflow to the number of logits, 0.
void test_logits_of_another_size_are_refused() {
  for (const auto& [rows, columns] :
       {std::pair{std::size_t{65'536}, std::int64_t{65'536}}, {std::size_t{4}, std::int64_t{1} << 62}}) {
    Case<float> made{.num_columns = columns,
                     .logits = {},
                     .targets = std::vector<std::int64_t>(rows),
                     .classes = std::vector<std::int64_t>(rows),
                     .weight = {},
                     .offsets = {}};
    CHECK_THROWS(std::invalid_argument, made.forward(1));
    CHECK_THROWS(std::invalid_argument, made.backward(1.0, 1));
  }
}

template <class Change>
void test_is_refused(const Change& change, bool gradient_too = true) {
  auto made = random_case<float>(20, 4, true, 0.1);
  change(made);
  CHECK_THROWS(std::invalid_argument, made.forward(2));
  CHECK(made.count == std::vector<std::int64_t>(3, 0));
  if (gradient_too) CHECK_THROWS(std::invalid_argument, made.backward(1.0, 2));
}

void test_offsets_are_checked() {
  for (const std::vector<double>& wrong :
       {std::vector<double>(3), std::vector<double>{0, 0, 0, kInfinity}, std::vector<double>{0, 0, -1e39, 0},
        std::vector<double>{0, std::nan(""), 0, 0}}) {
    Case<float> made = random_case<float>(5, 4, false, 0.0);
    made.offsets = wrong;
    CHECK_THROWS(std::invalid_argument, made.forward(1));
    CHECK_THROWS(std::invalid_argument, made.backward(1.0, 1));
    CHECK(made.sum[0] == ExactSum{});
  }
}

}  // namespace
}  // namespace l2m::test

int main() {
  using namespace l2m::test;
  test_logits_of<double>(1e-14);
  test_logits_of<float>(1e-6);
  test_logits_of<l2m::Float16>(5e-4);
  test_logits_of<l2m::BFloat16>(4e-3);
  test_rounding<l2m::Float16>(0x7C00);
  test_rounding<l2m::BFloat16>(0x7F80);
  test_non_finite_logits();
  for (const double weight : {kInfinity, -kInfinity, std::numeric_limits<double>::quiet_NaN()})
    test_weights_without_a_target_are_not_used(weight);
  test_smoothing_uses_every_weight();
  test_the_mean_is_nan_for_a_total_weight_of_0();
  test_no_rows();
  test_offsets_are_checked();
  test_logits_of_another_size_are_refused();
  test_is_refused([](auto& made) { made.targets[7] = 4; });
  test_is_refused([](auto& made) { made.targets[7] = -2; });
  test_is_refused([](auto& made) { made.num_columns = 0; });
  test_is_refused([](auto& made) { made.logits.pop_back(); });
  test_is_refused([](auto& made) { made.weight.pop_back(); });
  test_is_refused([](auto& made) { made.log_sum_exp.pop_back(); });
  test_is_refused([](auto& made) { made.classes.pop_back(); }, false);
  test_is_refused([](auto& made) { made.classes[4] = 3; }, false);
  return 0;
}
