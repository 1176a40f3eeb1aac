#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>
#include <span>
#include <type_traits>
#include <vector>

#include "check.hpp"
#include "class_loss.cu"
#include "cross_entropy.cu"
#include "exact_class_loss.hpp"
#include "l2m/base/random.hpp"
#include "l2m/loss/cross_entropy.hpp"
#include "reference.hpp"

namespace l2m::test {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();
constexpr double kNan = std::numeric_limits<double>::quiet_NaN();
constexpr std::int64_t kIgnored = -7;
constexpr std::size_t kClasses = 3;
constexpr double kUntouched = -1234.0;  // exact in all float types

template <class T>
constexpr cuda::FloatType kTypeOf = std::is_same_v<T, Float16>    ? cuda::FloatType::kFloat16
                                    : std::is_same_v<T, BFloat16> ? cuda::FloatType::kBFloat16
                                    : std::is_same_v<T, float>    ? cuda::FloatType::kFloat32
                                                                  : cuda::FloatType::kFloat64;

template <class Float>
Float rounded(double x) {
  return round_to<Float>(static_cast<Wide<Float>>(x));
}

/// Values at a given offset from a 16-byte boundary, without memory beyond their end.
template <class T>
class Placed {
 public:
  Placed(const std::vector<T>& numbers, std::size_t place)
      : all_(place + numbers.size()), numbers_(all_.data() + place) {
    std::copy(numbers.begin(), numbers.end(), numbers_);
  }
  T* data() { return numbers_; }

 private:
  std::vector<T> all_;
  T* numbers_;
};

/// Inputs of a cross entropy.
template <class Logit>
struct Case {
  std::size_t columns;
  std::vector<Logit> logits;
  std::vector<std::int64_t> targets;
  std::vector<double> weight, offsets;
  double label_smoothing = 0.0;
  std::size_t place = 0;  // offset of the logits and of the gradient
  std::size_t place_of_gradient = 0;
  double of_loss = 1.5;
  std::size_t num_classes = kClasses;  // of the sums
  bool wide_mean = false;              // the mean and its gradient have the type in which they are computed

  [[nodiscard]] std::size_t rows() const { return targets.size(); }
  [[nodiscard]] std::vector<std::int16_t> classes() const {
    std::vector<std::int16_t> classes;
    for (std::size_t row = 0; row < rows(); ++row)
      classes.push_back(targets[row] == kIgnored ? std::int16_t{77} : static_cast<std::int16_t>(row % kClasses));
    return classes;
  }
};

/// Outputs of a cross entropy.
template <class Logit>
struct Result {
  explicit Result(const Case<Logit>& given)
      : log_sum_exp(given.rows(), kUntouched),
        losses(given.rows(), kUntouched),
        sum(given.num_classes),
        count(given.num_classes, 77),
        skipped(2, 77),
        gradient(given.rows() * given.columns, rounded<Logit>(kUntouched)) {
    for (ExactSum& of_class : sum) std::fill(std::begin(of_class.digit), std::end(of_class.digit), 77);
  }

  [[nodiscard]] cuda::ClassTotals totals() {
    return {static_cast<std::int64_t>(sum.size()), sum.data()->digit, count.data(), skipped.data()};
  }

  std::vector<double> log_sum_exp, losses;
  double mean = kUntouched;
  double total_weight = kUntouched;
  std::int64_t wrong_targets = 77;
  std::vector<ExactSum> sum;
  std::vector<std::int64_t> count, skipped;
  std::vector<Logit> gradient;

  [[nodiscard]] std::vector<std::uint64_t> bits() const {
    std::vector<std::uint64_t> all;
    const auto add = [&](double x) { all.push_back(std::bit_cast<std::uint64_t>(x)); };
    for (const auto* numbers : {&log_sum_exp, &losses}) std::for_each(numbers->begin(), numbers->end(), add);
    for (const ExactSum& of_class : sum) add(of_class.nearest());
    for (const Logit x : gradient) add(static_cast<double>(widen(x)));
    add(mean);
    add(total_weight);
    return all;
  }
};

template <class Logit>
Result<Logit> by_kernels(const Case<Logit>& given) {
  Result<Logit> made(given);
  Placed<Logit> logits(given.logits, given.place);
  Placed<Logit> gradient(made.gradient, given.place_of_gradient);
  const std::vector<std::int16_t> classes = given.classes();
  const cuda::Targets targets{.targets = given.targets.data(),
                              .size = static_cast<std::int64_t>(given.rows()),
                              .num_columns = static_cast<std::int64_t>(given.columns),
                              .weight = given.weight.empty() ? nullptr : given.weight.data(),
                              .ignore_index = kIgnored,
                              .label_smoothing = given.label_smoothing,
                              .offsets = given.offsets.empty() ? nullptr : given.offsets.data()};
  using Wide = decltype(widen(Logit{}));
  auto mean = rounded<Logit>(kUntouched);
  auto wide_mean = static_cast<Wide>(kUntouched);
  std::vector<double> partials(cuda::kPartials * cuda::kMaxBlocks, kUntouched);
  cuda::cross_entropy(kTypeOf<Logit>, logits.data(), targets,
                      {.log_sum_exp = made.log_sum_exp.data(),
                       .losses = made.losses.data(),
                       .mean = given.wide_mean ? static_cast<void*>(&wide_mean) : &mean,
                       .mean_type = given.wide_mean ? kTypeOf<Wide> : kTypeOf<Logit>,
                       .total_weight = &made.total_weight,
                       .invalid_targets = &made.wrong_targets,
                       .partials = partials.data()},
                      {classes.data(), sizeof(std::int16_t), true}, made.totals(), nullptr);
  for (ExactSum& of_class : made.sum) of_class.carry();
  made.mean = static_cast<double>(given.wide_mean ? wide_mean : widen(mean));

  const auto of_loss = rounded<Logit>(given.of_loss);
  const auto wide_of_loss = static_cast<Wide>(given.of_loss);
  cuda::cross_entropy_gradient(kTypeOf<Logit>, logits.data(), targets, made.log_sum_exp.data(), &made.total_weight,
                               given.wide_mean ? static_cast<const void*>(&wide_of_loss) : &of_loss,
                               given.wide_mean ? kTypeOf<Wide> : kTypeOf<Logit>, gradient.data(), nullptr);
  std::copy_n(gradient.data(), made.gradient.size(), made.gradient.begin());
  return made;
}

/// Run the kernels with one class per row, so that its sum is its loss; then map rows to the actual classes.
template <class Logit>
Result<Logit> reference_result(const Case<Logit>& given) {
  Result<Logit> made(given);
  const Targets targets{.targets = given.targets,
                        .num_columns = static_cast<std::int64_t>(given.columns),
                        .weight = given.weight,
                        .ignore_index = kIgnored,
                        .label_smoothing = given.label_smoothing,
                        .offsets = given.offsets};
  std::vector<std::int64_t> own(given.rows());
  for (std::size_t row = 0; row < own.size(); ++row) own[row] = static_cast<std::int64_t>(row);
  std::vector<ExactSum> sum(given.rows());
  std::vector<std::int64_t> count(given.rows());
  std::fill(made.losses.begin(), made.losses.end(), 0.0);
  const MeanLoss mean = cross_entropy(targets, std::span<const Logit>(given.logits), std::span<const std::int64_t>(own),
                                      std::span(made.log_sum_exp), std::span(sum), std::span(count), 1);
  for (std::size_t row = 0; row < own.size(); ++row) made.losses[row] = sum[row].nearest();
  for (std::size_t row = 0; row < own.size(); ++row)
    if (given.targets[row] != kIgnored && count[row] == 0) made.losses[row] = kNan;  // any non-finite value
  made.mean = mean.loss;
  made.total_weight = mean.total_weight;
  cross_entropy_gradient(targets, std::span<const Logit>(given.logits), std::span<const double>(made.log_sum_exp),
                         given.of_loss / mean.total_weight, std::span(made.gradient), 1);
  return made;
}

bool near(double got, double expected, double tolerance) {
  if (!std::isfinite(expected)) return std::isnan(expected) ? std::isnan(got) : got == expected;
  return std::abs(got - expected) <= tolerance * std::max(1.0, std::abs(expected));
}

/// Return the relative rounding error of the type; its double for sums.
template <class Logit>
constexpr double kRounding = std::is_same_v<Logit, Float16>    ? 0x1p-10
                             : std::is_same_v<Logit, BFloat16> ? 0x1p-7
                             : std::is_same_v<Logit, float>    ? 0x1p-22
                                                               : 0x1p-51;

template <class Logit>
Result<Logit> check_against_cpu(const Case<Logit>& given) {
  const double tolerance = std::is_same_v<Logit, double> ? 1e-13 : 2e-6;
  const Result<Logit> made = by_kernels(given);
  const Result<Logit> expected = reference_result(given);
  double heaviest = 1.0;
  for (const double weight : given.weight) heaviest = std::max(heaviest, weight);
  // Bound on the gradient; without a mean, it is 0 or NaN.
  const double largest =
      std::isnan(expected.total_weight) ? 0.0 : std::abs(given.of_loss) / expected.total_weight * heaviest;
  CHECK(near(made.mean, expected.mean, tolerance + (given.wide_mean ? 0.0 : kRounding<Logit>)));
  CHECK(near(made.total_weight, expected.total_weight, 1e-14));
  CHECK(made.wrong_targets == 0);
  for (std::size_t row = 0; row < given.rows(); ++row) {
    CHECK(near(made.log_sum_exp[row], expected.log_sum_exp[row], tolerance));
    if (std::isfinite(expected.losses[row])) {
      CHECK(near(made.losses[row], expected.losses[row], tolerance * heaviest));
    } else {
      CHECK(!std::isfinite(made.losses[row]));
    }
    for (std::size_t i = row * given.columns; i < (row + 1) * given.columns; ++i) {
      const auto got = static_cast<double>(widen(made.gradient[i]));
      const auto due = static_cast<double>(widen(expected.gradient[i]));
      if (std::isnan(due)) {
        CHECK(std::isnan(got));
      } else {  // the smallest half is 6e-8
        CHECK(std::abs(got - due) <=
              kRounding<Logit> * std::abs(due) + tolerance * largest + (std::is_same_v<Logit, Float16> ? 6e-8 : 0.0));
      }
    }
  }

  // The sums must be those of the losses that are not ignored, bit for bit.
  std::vector<double> losses;
  std::vector<std::int16_t> classes;
  for (std::size_t row = 0; row < given.rows(); ++row) {
    if (given.targets[row] == kIgnored) continue;
    losses.push_back(made.losses[row]);
    classes.push_back(given.classes()[row]);
  }
  std::vector<ExactSum> sum(given.num_classes);
  std::vector<std::int64_t> count(given.num_classes), skipped(2);
  add_exact_class_loss(std::span<const double>(losses), std::span<const std::int16_t>(classes), std::span(sum),
                       std::span(count), std::span(skipped));
  CHECK(made.sum == sum);
  CHECK(made.count == count);
  CHECK(made.skipped == skipped);
  return made;
}

template <class Logit>
Case<Logit> random_case(std::size_t rows, std::size_t columns, bool weighted, double label_smoothing) {
  Case<Logit> made{
      .columns = columns, .logits = {}, .targets = {}, .weight = {}, .offsets = {}, .label_smoothing = label_smoothing};
  const RandomStream random(rows, Purpose::kBatchOrder, columns);
  for (std::size_t i = 0; i < rows * columns; ++i)
    made.logits.push_back(rounded<Logit>(20.0 * uniform(random, i) - 10.0));
  for (std::size_t row = 0; row < rows; ++row)
    made.targets.push_back(row % 5 == 3 ? kIgnored : static_cast<std::int64_t>((row * 7 + columns - 1) % columns));
  for (std::size_t column = 0; weighted && column < columns; ++column) {
    made.weight.push_back(0.25 + static_cast<double>(column % 4));
    made.offsets.push_back(0.7 * static_cast<double>(column % 5) - 1.0);
  }
  return made;
}

/// Compare rows of all lengths for each number of threads per row, at all offsets and with all options.
template <class Logit>
void test_rows_of_all_lengths(std::size_t first_turn) {
  constexpr double kSmoothings[] = {0.0, 0.1, 1.0};
  std::size_t turn = first_turn;  // index of the options that go with a length
  for (const std::size_t columns : {1, 2, 7, 10, 33, 100, 1000, 1024, 9001}) {
    Case<Logit> made = random_case<Logit>(columns < 9000 ? 5 : 2, columns, turn % 2 == 0, kSmoothings[turn % 3]);
    made.place = turn % 5;
    made.place_of_gradient = turn % 4 < 3 ? made.place : made.place + 1;
    made.wide_mean = turn % 4 >= 2;
    check_against_cpu(made);
    ++turn;
  }
}

/// Compare more rows than one block handles.
void test_many_rows() {
  check_against_cpu(random_case<float>(300, 7, true, 0.1));
  check_against_cpu(random_case<BFloat16>(300, 33, false, 0.0));
  check_against_cpu(random_case<Float16>(30, 300, false, 0.1));
  Case<BFloat16> wide = random_case<BFloat16>(40, 10, true, 0.0);
  wide.wide_mean = true;
  wide.of_loss = 1.0 + 0x1p-20;  // which bfloat16 does not have
  const auto as_bfloat16 = [](double x) { return static_cast<double>(widen(rounded<BFloat16>(x))); };
  for (const std::size_t num_classes : {4096, 4097}) {  // cleared by the kernel, and by a launch of its own
    Case<float> many = random_case<float>(30, 7, true, 0.1);
    many.num_classes = num_classes;
    check_against_cpu(many);
  }
  const double mean = check_against_cpu(wide).mean;
  CHECK(mean != as_bfloat16(mean));
}

/// Compare more rows than all blocks handle at once: the results of a row must not depend on that.
template <int kGroup, class Logit>
void test_several_rows_of_a_thread(std::size_t rows, std::size_t columns) {
  const Case<Logit> given = random_case<Logit>(rows, columns, true, 0.1);
  const Result<Logit> expected = by_kernels(given);
  Result<Logit> made(given);
  const auto n = static_cast<std::int64_t>(rows);
  const auto size = static_cast<std::int64_t>(columns);
  const cuda::Rows partition{{given.targets.data(), n, size, given.weight.data(), kIgnored, 0.1, given.offsets.data()},
                             1.0 - 0.1,
                             0.1 / static_cast<double>(columns),
                             (n + 1) / 2};
  std::vector<double> partials(2 * cuda::kPartials);
  auto mean = rounded<Logit>(kUntouched);
  const auto of_loss = rounded<Logit>(given.of_loss);
  const cuda::Losses losses{made.log_sum_exp.data(), made.losses.data(),  &mean,          kTypeOf<Logit>,
                            &made.total_weight,      &made.wrong_targets, partials.data()};
  const std::vector<std::int16_t> classes = given.classes();
  cuda::launch({2, cuda::kThreadsPerBlock, nullptr, cuda::kSharedBytes}, cuda::make_losses<kGroup, Logit>,
               given.logits.data(), partition, losses, made.totals());
  cuda::add_by_id(made.losses.data(), {classes.data(), sizeof(std::int16_t), true, given.targets.data(), kIgnored}, n,
                  made.totals(), cuda::Mean{losses, 2, true}, nullptr);
  for (ExactSum& of_class : made.sum) of_class.carry();
  cuda::launch({2, cuda::kThreadsPerBlock, nullptr, cuda::kSharedBytes}, cuda::make_gradient<kGroup, Logit>,
               given.logits.data(), partition, made.log_sum_exp.data(), &expected.total_weight, &of_loss,
               kTypeOf<Logit>, made.gradient.data());
  made.mean = static_cast<double>(widen(mean));
  CHECK(near(made.mean, expected.mean, kRounding<Logit>));
  CHECK(near(made.total_weight, expected.total_weight, 1e-14));
  made.mean = expected.mean;
  made.total_weight = expected.total_weight;
  CHECK(made.wrong_targets == 0);
  CHECK(made.bits() == expected.bits());
}

template <class Logit>
void test_no_rows_or_only_ignored_rows(std::size_t columns) {
  for (const std::size_t rows : {0, 1, 5}) {
    Case<Logit> made = random_case<Logit>(rows, columns, true, 0.1);
    std::fill(made.targets.begin(), made.targets.end(), kIgnored);
    std::fill(made.logits.begin(), made.logits.end(), rounded<Logit>(kNan));
    const Result<Logit> result = check_against_cpu(made);
    CHECK(std::isnan(result.mean) && std::isnan(result.total_weight));  // would be 0 without smoothing
    CHECK(result.losses == std::vector<double>(rows) && result.log_sum_exp == std::vector<double>(rows));
    for (const Logit x : result.gradient) CHECK(widen(x) == 0);
  }
}

/// Infinities and NaN in some rows do not affect other rows.
template <class Logit>
void test_non_finite_logits(std::size_t columns, double label_smoothing) {
  Case<Logit> made = random_case<Logit>(14, columns, false, label_smoothing);
  const auto at = [&](std::size_t row, std::size_t column) -> Logit& { return made.logits[row * columns + column]; };
  const auto lowest = rounded<Logit>(-kInfinity);
  std::fill_n(&at(0, 0), columns, lowest);
  std::fill_n(&at(1, 0), columns, lowest);
  at(1, columns - 1) = rounded<Logit>(-300.0);
  made.targets[1] = static_cast<std::int64_t>(columns) - 1;
  std::fill_n(&at(2, 0), columns / 2, lowest);
  made.targets[2] = static_cast<std::int64_t>(columns) - 1;
  made.targets[4] = 0;
  at(4, 0) = lowest;
  at(5, columns / 2) = rounded<Logit>(kInfinity);
  made.targets[6] = 0;
  at(6, 0) = rounded<Logit>(kInfinity);
  at(7, columns / 3) = rounded<Logit>(kNan);
  std::fill_n(&at(9, 0), columns, rounded<Logit>(kNan));
  std::fill_n(&at(10, 0), columns, rounded<Logit>(30000.0));
  std::fill_n(&at(11, 0), columns, rounded<Logit>(-30000.0));
  at(12, columns - 1) = lowest;
  check_against_cpu(made);
}

/// Without smoothing, the weight of a column that is no row's target is not used.
template <class Logit>
void test_weights_without_a_target_are_not_used(std::size_t columns) {
  Case<Logit> made = random_case<Logit>(20, columns, true, 0.0);
  for (std::int64_t& target : made.targets) target = target == 2 ? 3 : target;
  made.weight[2] = 1.0;
  const Result<Logit> expected = by_kernels(made);
  CHECK(std::isfinite(expected.mean));
  for (const double weight : {kInfinity, -kInfinity, kNan}) {
    made.weight[2] = weight;
    CHECK(by_kernels(made).bits() == expected.bits());
  }
}

/// With smoothing, every weight is part of every loss, even if the row is certain.
template <class Logit>
void test_smoothing_uses_every_weight(std::size_t columns) {
  Case<Logit> made = random_case<Logit>(20, columns, true, 0.1);
  for (std::int64_t& target : made.targets) target = target == 2 ? 3 : target;
  made.logits[0] = rounded<Logit>(300.0);
  made.weight[2] = kInfinity;
  const Result<Logit> result = by_kernels(made);
  const Result<Logit> cpu = reference_result(made);
  CHECK(result.mean == kInfinity && cpu.mean == kInfinity);
  CHECK(result.count == std::vector<std::int64_t>(kClasses));
  for (std::size_t i = 0; i < result.gradient.size(); ++i) {
    if (made.targets[i / columns] == kIgnored) {
      CHECK(widen(result.gradient[i]) == 0 && widen(cpu.gradient[i]) == 0);
    } else {
      CHECK(!std::isfinite(widen(result.gradient[i])) && !std::isfinite(widen(cpu.gradient[i])));
    }
  }
  made.weight[2] = kNan;
  CHECK(std::isnan(by_kernels(made).mean));
}

/// With smoothing, each loss includes all weights, but the mean for a total weight of 0 is NaN.
template <class Logit>
void test_the_mean_is_nan_for_a_total_weight_of_0(std::size_t columns, double label_smoothing) {
  Case<Logit> made = random_case<Logit>(20, columns, true, label_smoothing);
  for (std::int64_t& target : made.targets) target = target == kIgnored ? target : 1;
  made.weight[1] = 0.0;
  const Result<Logit> result = by_kernels(made);
  CHECK(std::isnan(result.mean));
  for (std::size_t i = 0; i < result.gradient.size(); ++i) {
    const auto got = static_cast<double>(widen(result.gradient[i]));
    CHECK(made.targets[i / columns] == kIgnored ? got == 0.0 : std::isnan(got));
  }
}

/// Targets out of range give a NaN loss and gradient and are counted; nothing is read through them.
template <class Logit>
void test_targets_out_of_range(std::size_t columns) {
  Case<Logit> made = random_case<Logit>(9, columns, true, 0.1);
  const Result<Logit> without = by_kernels(made);
  const auto size = static_cast<std::int64_t>(columns);
  made.targets[2] = size;
  made.targets[5] = -1;
  made.targets[6] = std::numeric_limits<std::int64_t>::max();
  const Result<Logit> result = by_kernels(made);
  CHECK(result.wrong_targets == 3);
  CHECK(std::isnan(result.mean) && std::isfinite(result.total_weight));
  CHECK(result.skipped == std::vector<std::int64_t>({0, 3}));
  for (std::size_t row = 0; row < made.rows(); ++row) {
    const bool wrong = row == 2 || row == 5 || row == 6;
    CHECK(wrong ? std::isnan(result.losses[row]) : result.losses[row] == without.losses[row]);
    CHECK(wrong ? std::isnan(result.log_sum_exp[row]) : result.log_sum_exp[row] == without.log_sum_exp[row]);
    for (std::size_t i = row * columns; i < (row + 1) * columns; ++i)
      CHECK(std::isnan(static_cast<double>(widen(result.gradient[i]))) == wrong);
  }
}

template <class Logit>
void test_same_bits_each_time(std::size_t rows, std::size_t columns) {
  const Case<Logit> made = random_case<Logit>(rows, columns, true, 0.1);
  CHECK(by_kernels(made).bits() == by_kernels(made).bits());
}

/// Losses are added to existing sums, and a class out of range is skipped, unless its row is ignored.
void test_classes() {
  const std::vector<double> losses{1.0, 2.0, kNan, 4.0, 8.0, kNan};
  const std::vector<std::int8_t> classes{0, 1, 5, -1, 1, 0};
  const std::vector<std::int64_t> targets{3, 3, kIgnored, 3, kIgnored, 3};
  for (const std::size_t num_classes : {2, 5000}) {  // in shared memory, and in global memory
    std::vector<ExactSum> sum(num_classes);
    std::vector<std::int64_t> count(num_classes), skipped(2);
    sum[1].add(0.5F);
    cuda::add_class_loss(cuda::FloatType::kFloat64, losses.data(), {classes.data(), 1, true, targets.data(), kIgnored},
                         6, {static_cast<std::int64_t>(num_classes), sum.data()->digit, count.data(), skipped.data()},
                         nullptr);
    CHECK(sum[0].nearest() == 1.0 && sum[1].nearest() == 2.5 && count[0] == 1 && count[1] == 1);
    CHECK(skipped == std::vector<std::int64_t>({1, 1}));
  }
}

}  // namespace
}  // namespace l2m::test

int main() {
  using namespace l2m;
  using namespace l2m::test;
  test_rows_of_all_lengths<float>(0);
  test_rows_of_all_lengths<double>(1);
  test_rows_of_all_lengths<Float16>(2);
  test_rows_of_all_lengths<BFloat16>(3);
  test_many_rows();
  test_several_rows_of_a_thread<8, float>(150, 7);
  test_several_rows_of_a_thread<32, BFloat16>(35, 300);
  test_several_rows_of_a_thread<256, float>(6, 4500);
  test_no_rows_or_only_ignored_rows<float>(10);
  test_no_rows_or_only_ignored_rows<BFloat16>(300);
  for (const double label_smoothing : {0.0, 0.1}) {
    test_non_finite_logits<float>(10, label_smoothing);
    test_non_finite_logits<BFloat16>(300, label_smoothing);
  }
  test_non_finite_logits<double>(2500, 0.1);
  test_weights_without_a_target_are_not_used<float>(10);
  test_weights_without_a_target_are_not_used<BFloat16>(300);
  test_smoothing_uses_every_weight<float>(10);
  test_smoothing_uses_every_weight<BFloat16>(300);
  for (const double label_smoothing : {0.0, 0.1, 1.0}) {
    test_the_mean_is_nan_for_a_total_weight_of_0<float>(10, label_smoothing);
    test_the_mean_is_nan_for_a_total_weight_of_0<BFloat16>(300, label_smoothing);
  }
  test_targets_out_of_range<float>(10);
  test_targets_out_of_range<BFloat16>(1000);
  test_same_bits_each_time<float>(100, 10);
  test_same_bits_each_time<Float16>(20, 500);
  test_same_bits_each_time<float>(2, 5000);
  test_classes();
}
