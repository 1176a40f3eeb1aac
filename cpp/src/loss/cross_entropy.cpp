#include "l2m/loss/cross_entropy.hpp"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <numeric>
#include <vector>

#include "l2m/base/errors.hpp"
#include "l2m/loss/class_loss.hpp"
#include "l2m/run/thread_pool.hpp"

namespace l2m {
namespace {

constexpr double kNan = std::numeric_limits<double>::quiet_NaN();
constexpr std::int64_t kBlockLogits = 1 << 15;  // 40 to 100 us of work
constexpr std::size_t kLanes = 8;               // of vectorized loops; fixed, so that sums always have the same bits
constexpr std::size_t kChunk = 4096;            // values summed before they are added to a double

/// Return e^x for x <= 0 (plus rounding errors), accurate to one unit in the last place; 0 below the normal floats.
float exponential(float x) {
  constexpr float kRound = 0x1.8p23F;  // a float this large has no fraction: the addition rounds to an integer
  const float shifted = x * 0x1.715476p0F + kRound;
  const float n = shifted - kRound;
  const float r = (x - n * 0x1.63p-1F) - n * -0x1.bd0106p-13F;  // x - n log 2, whose first part is exact
  float p = 1.9875691500e-4F;                                   // Cephes' polynomial on [-log(2) / 2, log(2) / 2]
  p = p * r + 1.3981999507e-3F;
  p = p * r + 8.3334519073e-3F;
  p = p * r + 4.1665795894e-2F;
  p = p * r + 1.6666665459e-1F;
  p = p * r + 5.0000001201e-1F;
  p = (p * r) * r + r + 1.0F;
  const float power = std::bit_cast<float>((std::bit_cast<std::uint32_t>(shifted) + 127) << 23);
  const std::uint32_t keep = x < -87.0F ? 0U : ~0U;
  return std::bit_cast<float>(std::bit_cast<std::uint32_t>(p * power) & keep);
}
double exponential(double x) { return std::exp(x); }

/// Return the sum of values, whose number is a multiple of kLanes.
template <class R>
double sum_of(std::span<const R> x) {
  double total = 0.0;
  for (std::size_t begin = 0; begin < x.size(); begin += kChunk) {
    const std::size_t end = std::min(begin + kChunk, x.size());
    R lanes[kLanes] = {};
    for (std::size_t j = begin; j < end; j += kLanes)
      for (std::size_t lane = 0; lane < kLanes; ++lane) lanes[lane] += x[j + lane];
    for (const R lane : lanes) total += static_cast<double>(lane);
  }
  return total;
}

/// Return the largest value, ignoring NaN. The number of values is a positive multiple of kLanes.
template <class R>
R largest_of(std::span<const R> x) {
  R lanes[kLanes];
  std::fill_n(lanes, kLanes, -std::numeric_limits<R>::infinity());
  for (std::size_t j = 0; j < x.size(); j += kLanes)
    for (std::size_t lane = 0; lane < kLanes; ++lane)
      lanes[lane] = x[j + lane] > lanes[lane] ? x[j + lane] : lanes[lane];
  return *std::max_element(lanes, lanes + kLanes);
}

/// Targets together with the constants that all rows share.
struct Prepared {
  explicit Prepared(const Targets& given) : targets(given.targets), ignore_index(given.ignore_index) {
    num_columns = static_cast<std::size_t>(given.num_columns);
    weight.assign(given.weight.begin(), given.weight.end());
    if (weight.empty()) weight.assign(num_columns, 1.0);
    offsets = given.offsets;
    of_target = 1.0 - given.label_smoothing;
    of_column = given.label_smoothing / static_cast<double>(num_columns);
    // Without smoothing, the weight of a class without rows is not used, even if it is non-finite.
    if (smooths()) sum_of_weights = std::accumulate(weight.begin(), weight.end(), 0.0);
  }

  [[nodiscard]] bool smooths() const { return of_column > 0.0; }

  [[nodiscard]] bool ignored(std::size_t row) const { return targets[row] == ignore_index; }
  [[nodiscard]] std::size_t target(std::size_t row) const { return static_cast<std::size_t>(targets[row]); }

  std::span<const std::int64_t> targets;
  std::int64_t ignore_index;
  std::size_t num_columns;
  std::vector<double> weight;
  std::span<const double> offsets;
  double of_target;
  double of_column;
  double sum_of_weights = 0.0;
};

/// Return the sum of -weight * lp over all columns, where `smoothed` is the sum of weight * (x - max(x)).
///
/// Since -lp >= 0, a non-finite sum of weights determines the result; `smoothed` may then be NaN where torch's sum is
/// not.
double of_all_columns(double sum_of_weights, double log_sum, double smoothed) {
  if (!std::isfinite(sum_of_weights)) return sum_of_weights * (1.0 + log_sum);
  return sum_of_weights * log_sum - smoothed;
}

template <class... Other>
void check(const Targets& given, std::size_t num_logits, const Other&... per_row) {
  const std::size_t n = given.targets.size();
  const auto columns = static_cast<std::uint64_t>(given.num_columns);
  if (given.num_columns < 1 || num_logits % columns != 0 || num_logits / columns != n)  // the product may overflow
    refuse("logits must have ", n, " rows of at least one column (got ", given.num_columns, " columns and ", num_logits,
           " logits)");
  if (((per_row.size() != n) || ...))
    refuse("classes and log_sum_exp must have one value for each of the ", n, " rows");
  if (!given.weight.empty() && static_cast<std::int64_t>(given.weight.size()) != given.num_columns)
    refuse("weight must have one value for each of the ", given.num_columns, " columns (got ", given.weight.size(),
           ")");
  if (!given.offsets.empty() && static_cast<std::int64_t>(given.offsets.size()) != given.num_columns)
    refuse("offsets must have one value for each of the ", given.num_columns, " columns (got ", given.offsets.size(),
           ")");
  for (std::size_t column = 0; column < given.offsets.size(); ++column)
    if (!(std::abs(given.offsets[column]) <= std::numeric_limits<float>::max()))
      refuse("offsets must be finite as a float (got ", given.offsets[column], " for column ", column, ")");
  for (std::size_t row = 0; row < n; ++row) {
    const std::int64_t target = given.targets[row];
    if ((target < 0 || target >= given.num_columns) && target != given.ignore_index)
      refuse("targets must be in [0, ", given.num_columns, ") or ignore_index ", given.ignore_index, " (got ", target,
             " at position ", row, ")");
  }
}

/// Call body(row, values) for each row that is not ignored. The values are a copy, padded to a multiple of kLanes with
/// minus infinity, whose exponential is 0.
template <class Logit, class Body>
void for_each_row(const Prepared& prepared, std::span<const Logit> logits, int num_threads, const Body& body) {
  using R = Wide<Logit>;
  const std::size_t n = prepared.targets.size();
  const std::size_t columns = prepared.num_columns;
  const std::size_t block_rows = std::max<std::size_t>(static_cast<std::size_t>(kBlockLogits) / columns, 1);
  parallel_for(num_threads, static_cast<std::int64_t>((n + block_rows - 1) / block_rows), [&](std::int64_t block) {
    std::vector<R> numbers((columns + kLanes - 1) / kLanes * kLanes, -std::numeric_limits<R>::infinity());
    const std::size_t begin = static_cast<std::size_t>(block) * block_rows;
    for (std::size_t row = begin; row < std::min(begin + block_rows, n); ++row) {
      if (prepared.ignored(row)) continue;
      const Logit* const from = &logits[row * columns];
      for (std::size_t j = 0; j < columns; ++j) numbers[j] = widen(from[j]);
      for (std::size_t j = 0; j < prepared.offsets.size(); ++j) numbers[j] += static_cast<R>(prepared.offsets[j]);
      body(row, std::span<R>(numbers));
      std::fill(numbers.begin() + static_cast<std::ptrdiff_t>(columns), numbers.end(),
                -std::numeric_limits<R>::infinity());
    }
  });
}

}  // namespace

template <class Logit>
MeanLoss cross_entropy(const Targets& targets, std::span<const Logit> logits, std::span<const std::int64_t> classes,
                       std::span<double> log_sum_exp, std::span<ExactSum> sum, std::span<std::int64_t> count,
                       int num_threads) {
  using R = Wide<Logit>;
  check(targets, logits.size(), classes, log_sum_exp);
  const Prepared prepared(targets);
  std::vector<double> losses(classes.size(), kNan);
  std::fill(log_sum_exp.begin(), log_sum_exp.end(), 0.0);
  for_each_row(prepared, logits, num_threads, [&](std::size_t row, std::span<R> x) {
    const std::size_t target = prepared.target(row);
    const R largest = largest_of(std::span<const R>(x));
    for (R& value : x) value -= largest;
    const auto of_target = static_cast<double>(x[target]);
    double smoothed = 0.0;
    if (prepared.smooths())
      for (std::size_t j = 0; j < prepared.num_columns; ++j) smoothed += prepared.weight[j] * static_cast<double>(x[j]);
    for (R& value : x) value = exponential(value);
    const double log_sum = std::log(sum_of(std::span<const R>(x)));
    log_sum_exp[row] = static_cast<double>(largest) + log_sum;
    losses[row] = prepared.of_target * prepared.weight[target] * (log_sum - of_target);
    if (prepared.smooths())
      losses[row] += prepared.of_column * of_all_columns(prepared.sum_of_weights, log_sum, smoothed);
  });

  // Ignored rows have the loss NaN, which class_loss() skips. Their class may be invalid, so it becomes 0.
  std::vector<std::int64_t> classes_of_losses(classes.begin(), classes.end());
  double total = 0.0;
  double total_weight = 0.0;
  for (std::size_t row = 0; row < losses.size(); ++row) {
    if (prepared.ignored(row)) {
      classes_of_losses[row] = 0;
    } else {
      total += losses[row];
      total_weight += prepared.weight[prepared.target(row)];
    }
  }
  if (prepared.smooths() && total_weight == 0.0) total_weight = kNan;
  class_loss(std::span<const double>(losses), std::span<const std::int64_t>(classes_of_losses), sum, count,
             num_threads);
  return {total / total_weight, total_weight};
}

template <class Logit>
void cross_entropy_gradient(const Targets& targets, std::span<const Logit> logits, std::span<const double> log_sum_exp,
                            double scale, std::span<Logit> gradient, int num_threads) {
  using R = Wide<Logit>;
  check(targets, logits.size(), log_sum_exp);
  if (gradient.size() != logits.size())
    refuse("gradient must be as long as logits (got ", gradient.size(), " and ", logits.size(), ")");
  const Prepared prepared(targets);
  const std::size_t columns = prepared.num_columns;
  for (std::size_t row = 0; row < targets.targets.size(); ++row)
    if (prepared.ignored(row)) std::fill_n(&gradient[row * columns], columns, Logit{});
  std::vector<R> of_columns;
  for (const double weight : prepared.weight) of_columns.push_back(static_cast<R>(scale * prepared.of_column * weight));
  for_each_row(prepared, logits, num_threads, [&](std::size_t row, std::span<R> x) {
    const std::size_t target = prepared.target(row);
    const double of_target = prepared.of_target * prepared.weight[target];
    const auto of_row = static_cast<R>(scale * (of_target + prepared.of_column * prepared.sum_of_weights));
    const auto high = static_cast<R>(log_sum_exp[row]);
    const auto low = static_cast<R>(log_sum_exp[row] - static_cast<double>(high));
    for (R& value : x) value = of_row * exponential((value - high) - low);
    if (prepared.smooths())
      for (std::size_t j = 0; j < columns; ++j) x[j] -= of_columns[j];
    x[target] -= static_cast<R>(scale * of_target);
    for (std::size_t j = 0; j < columns; ++j) gradient[row * columns + j] = round_to<Logit>(x[j]);
  });
}

#define L2M_CROSS_ENTROPY(Logit)                                                                                \
  template MeanLoss cross_entropy(const Targets&, std::span<const Logit>, std::span<const std::int64_t>,        \
                                  std::span<double>, std::span<ExactSum>, std::span<std::int64_t>, int);        \
  template void cross_entropy_gradient(const Targets&, std::span<const Logit>, std::span<const double>, double, \
                                       std::span<Logit>, int);
L2M_CROSS_ENTROPY(Float16)
L2M_CROSS_ENTROPY(BFloat16)
L2M_CROSS_ENTROPY(float)
L2M_CROSS_ENTROPY(double)
#undef L2M_CROSS_ENTROPY

}  // namespace l2m
