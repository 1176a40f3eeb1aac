#include "l2m/mixing/learn2mix.hpp"

#include <cmath>
#include <cstdint>
#include <limits>
#include <numeric>
#include <stdexcept>
#include <vector>

#include "check.hpp"
#include "l2m/base/random.hpp"
#include "l2m/base/sums.hpp"
#include "l2m/mixing/fixed.hpp"
#include "l2m/mixing/group_dro.hpp"
#include "l2m/mixing/proportions.hpp"

namespace l2m::test {
namespace {

using Values = std::vector<double>;
using Sizes = std::vector<std::int64_t>;

bool nearly_equal(const Values& a, const Values& b) {
  for (std::size_t k = 0; k < a.size(); ++k)
    if (!(std::abs(a[k] - b[k]) <= 1e-15)) return false;
  return a.size() == b.size();
}

Values random_values(std::size_t size, std::uint64_t number) {
  const RandomStream random(number, Purpose::kBatchOrder, size);
  Values values;
  for (std::size_t k = 0; k < size; ++k) values.push_back(static_cast<double>(random.word(k) >> 11) * 0x1p-53);
  return values;
}

/// Return values divided by their sum, both in long double.
Values shares_of(const Values& values) {
  long double sum = 0;
  for (const double value : values) sum += value;
  Values shares;
  for (const double value : values) shares.push_back(static_cast<double>(value / sum));
  return shares;
}

void learn2mix(Values& p, const Values& losses, const Sizes& sizes, double rate, double min_share) {
  Window window;
  const Values before = p;
  window.proportions = before;
  window.class_losses = losses;
  window.class_sizes = sizes;
  Learn2Mix(rate, min_share, Learn2Mix::Start::kProportional).update(window, p, {});
}

void test_known_step() {
  Values p{0.5, 0.3, 0.2};
  learn2mix(p, Values{1.0, 1.0, 2.0}, Sizes{5, 3, 2}, 0.1, 0.0);
  CHECK(nearly_equal(p, {0.475, 0.295, 0.23}));
  learn2mix(p, Values{0.0, 0.0, 9.0}, Sizes{5, 3, 2}, 1.0, 0.0);
  CHECK(nearly_equal(p, {0.0, 0.0, 1.0}));
  p = {0.5, 0.3, 0.2};
  learn2mix(p, Values{1.0, 1.0, 2.0}, Sizes{5, 3, 2}, 0.1, 0.1);  // 0.1 + (1 - 3 * 0.1) * p
  CHECK(nearly_equal(p, {0.4325, 0.3065, 0.261}));
}

void test_steps_follow_the_formula() {
  for (const std::size_t num_classes : {1U, 2U, 10U, 1000U}) {
    for (std::uint64_t number = 0; number < 20; ++number) {
      Sizes sizes(num_classes, 3);
      Values losses = random_values(num_classes, 2 * number);
      Values p = random_values(num_classes, 2 * number + 1);
      for (std::size_t k = 1; k < num_classes; k += 3) {
        sizes[k] = 0;
        p[k] = losses[k] = 0.0;
      }
      p = shares_of(p);
      const Values shares = shares_of(losses);
      const double rate = number % 2 == 0 ? 0.05 : 1.0;
      auto nonempty = static_cast<double>(num_classes);
      for (const std::int64_t size : sizes) nonempty -= size == 0 ? 1 : 0;
      const double min_share = number % 3 == 0 ? 0.0 : 0.5 / nonempty;
      Values expected;
      for (std::size_t k = 0; k < num_classes; ++k) {
        const double moved = (1 - rate) * p[k] + rate * shares[k];
        expected.push_back(sizes[k] == 0 ? 0.0 : min_share + (1 - nonempty * min_share) * moved);
      }
      learn2mix(p, losses, sizes, rate, min_share);
      CHECK(nearly_equal(p, expected));
      for (std::size_t k = 0; k < num_classes; ++k) CHECK(sizes[k] == 0 ? p[k] == 0 : p[k] >= min_share * (1 - 1e-12));
      CHECK(std::abs(std::accumulate(p.begin(), p.end(), 0.0) - 1) < 1e-12);
    }
  }
}

void test_proportions_stay_without_losses() {
  Values p{0.7, 0.2, 0.1};
  learn2mix(p, Values{0, 0, 0}, Sizes{1, 1, 1}, 0.5, 0.2);
  CHECK((p == Values{0.7, 0.2, 0.1}));
}

void test_starts() {
  const Sizes sizes{8, 1, 0, 7};
  CHECK(nearly_equal(Proportional().initial(sizes), {0.5, 0.0625, 0.0, 0.4375}));
  CHECK(nearly_equal(Balanced().initial(sizes), {1.0 / 3, 1.0 / 3, 0.0, 1.0 / 3}));
  CHECK((Static({0.5, 0.25, 0.0, 0.25}).initial(sizes) == Values{0.5, 0.25, 0.0, 0.25}));
  CHECK(nearly_equal(Temperature(1).initial(sizes), Proportional().initial(sizes)));
  CHECK(nearly_equal(Temperature(2).initial(sizes), shares_of({std::sqrt(8.0), 1.0, 0.0, std::sqrt(7.0)})));
  CHECK(nearly_equal(Temperature(std::numeric_limits<double>::infinity()).initial(sizes), Balanced().initial(sizes)));
  CHECK((EffectiveNumber(0).initial(sizes) == Proportional().initial(sizes)));
  const auto effective = [](double n) { return n == 0 ? 0 : n * (1 - 0.9) / (1 - std::pow(0.9, n)); };
  CHECK(nearly_equal(EffectiveNumber(0.9).initial(sizes), shares_of({effective(8), effective(1), 0, effective(7)})));
  CHECK(nearly_equal(GroupDro(0.5).initial(sizes), Balanced().initial(sizes)));
  const auto start = [&](double min_share, Learn2Mix::Start from) {
    return Learn2Mix(0.1, min_share, from).initial(sizes);
  };
  CHECK((start(0, Learn2Mix::Start::kProportional) == Proportional().initial(sizes)));
  CHECK(nearly_equal(start(0.1, Learn2Mix::Start::kProportional), {0.45, 0.14375, 0.0, 0.40625}));
  CHECK(nearly_equal(start(1.0 / 3, Learn2Mix::Start::kProportional), Balanced().initial(sizes)));
  CHECK_THROWS(std::invalid_argument, start(0.34, Learn2Mix::Start::kBalanced));
}

void test_exponentiated_steps() {
  const Values p{0.5, 0.25, 0.25, 0.0}, losses{1.0, 2.0, 1e308, 5.0};
  const Sizes sizes{1, 1, 1, 1};
  Window window;
  window.proportions = p;
  window.class_losses = losses;
  window.class_sizes = sizes;
  Values updated = p;
  GroupDro(0.5).update(window, updated, {});
  CHECK(nearly_equal(updated, {0.0, 0.0, 1.0, 0.0}));
  const Values small{1.0, 2.0, 0.0, 5.0};
  window.class_losses = small;
  updated = p;
  GroupDro(0.5).update(window, updated, {});
  CHECK(nearly_equal(updated, shares_of({0.5 * std::exp(0.5), 0.25 * std::exp(1.0), 0.25, 0.0})));
}

void test_unknown_losses_become_the_mean_of_the_others() {
  const double nan = std::numeric_limits<double>::quiet_NaN(), huge = std::numeric_limits<double>::max();
  const auto filled = [](Values losses, const Sizes& sizes) {
    fill_gaps(losses, sizes);
    return losses;
  };
  CHECK((filled({1, nan, 4, 9}, {1, 1, 1, 0}) == Values{1, 2.5, 4, 0}));
  CHECK((filled({huge, nan, huge}, {1, 1, 1}) == Values{huge, huge, huge}));
  CHECK((filled({0, nan, 0}, {1, 1, 1}) == Values{0, 0, 0}));
}

void test_normalizing() {
  for (const std::size_t num_classes : {1U, 3U, 1000U, 1'000'000U}) {
    Values p = random_values(num_classes, 7);
    const double sum = compensated_sum(p);
    for (double& value : p) value /= sum * (1 + 5e-7);
    const Values before = p;
    normalize(p, Sizes(num_classes, 1));
    CHECK(nearly_equal(p, shares_of(before)));
    CHECK(std::abs(compensated_sum(p) - 1) < 1e-12);
  }
  Values exact{0.25, 0.0, 0.75};
  normalize(exact, Sizes{1, 0, 1});
  CHECK((exact == Values{0.25, 0.0, 0.75}));
}

void test_invalid_proportions_are_refused() {
  const auto refused = [](const Values& proportions, const Sizes& sizes) {
    Values p = proportions;
    CHECK_THROWS(std::invalid_argument, normalize(p, sizes));
  };
  refused({0.5, 0.5}, {1, 1, 1});
  refused({0.5, 0.6, -0.1}, {1, 1, 1});
  refused({0.5, 0.5, std::numeric_limits<double>::quiet_NaN()}, {1, 1, 1});
  refused({0.5, 0.5, std::numeric_limits<double>::infinity()}, {1, 1, 1});
  refused({0.5, 0.25, 0.25}, {1, 0, 1});
  refused({0.5, 0.25, 0.25 - 2e-6}, {1, 1, 1});
  refused({0.5, 0.25, 0.25 + 2e-6}, {1, 1, 1});
  refused({0.0, 0.0, 0.0}, {1, 1, 1});
  refused({}, {});
}

void test_compensated_sums_keep_small_terms() {
  CHECK(compensated_sum(Values{}) == 0);
  CHECK(compensated_sum(Values{1.0, 1e100, 1.0, -1e100}) == 2.0);
  Values many(1'000'000, 1e-16);
  many.front() = 1.0;
  CHECK(std::abs(compensated_sum(many) - (1.0 + 999'999e-16)) < 1e-15);
}

}  // namespace
}  // namespace l2m::test

int main() {
  using namespace l2m::test;
  test_known_step();
  test_steps_follow_the_formula();
  test_proportions_stay_without_losses();
  test_starts();
  test_exponentiated_steps();
  test_unknown_losses_become_the_mean_of_the_others();
  test_normalizing();
  test_invalid_proportions_are_refused();
  test_compensated_sums_keep_small_terms();
}
