#include "l2m/loss/class_loss.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "l2m/base/compact.hpp"
#include "l2m/base/errors.hpp"
#include "l2m/base/threads.hpp"
#include "l2m/run/thread_pool.hpp"

namespace l2m {
namespace {

constexpr std::int64_t kPartLosses = 1 << 16;  // long compared to the start of a task
constexpr std::int64_t kMaxParts = 32;
constexpr std::size_t kLanes = 2;
constexpr std::size_t kMaxClassesInLanes = 4096;  // maximum number of classes for which the lanes stay in the cache

/// Add to a sum and clamp it: an infinite sum would be lost for all later losses and saved states.
void add_to(double& sum, double x) {
  constexpr double kLargest = std::numeric_limits<double>::max();
  sum = std::clamp(sum + x, -kLargest, kLargest);
}

/// Add losses to the sums in order. Return the number of non-finite losses, which are skipped.
template <class Loss, class Classes>
std::int64_t add_in_order(std::span<const Loss> losses, const Classes& classes, double* sum, std::int64_t* count) {
  std::int64_t skipped = 0;
  for (std::size_t i = 0; i < losses.size(); ++i) {
    const double loss = widen(losses[i]);
    if (!std::isfinite(loss)) [[unlikely]] {
      ++skipped;
      continue;
    }
    const auto k = static_cast<std::size_t>(classes[i]);
    add_to(sum[k], loss);
    ++count[k];
  }
  return skipped;
}

/// Sum and count side by side, so that one SIMD addition updates both.
struct Total {
  double sum = 0.0;
  double count = 0.0;
};

/// Add all losses, finite or not, to totals[k + lane * lane_stride]; those of an invalid class go to class
/// `num_classes`. With a stride > 0, consecutive losses of one class do not wait for each other's sum.
template <class Loss, class Classes>
void add_in_lanes(std::span<const Loss> losses, const Classes& classes, std::size_t num_classes, Total* totals,
                  std::size_t lane_stride) {
  const auto add = [&](std::size_t i, std::size_t lane) {
    const auto k = std::min<std::uint64_t>(static_cast<std::uint64_t>(classes[i]), num_classes);
    Total& total = totals[k + lane * lane_stride];
    total.sum += widen(losses[i]);
    total.count += 1.0;
  };
  std::size_t i = 0;
  for (; i + kLanes <= losses.size(); i += kLanes)
    for (std::size_t lane = 0; lane < kLanes; ++lane) add(i + lane, lane);
  for (std::size_t lane = 0; i < losses.size(); ++i, ++lane) add(i, lane);
}

template <class Classes>
void check_classes(const Classes& classes, std::size_t position, std::size_t num_classes) {
  for (std::size_t i = 0; i < classes.size(); ++i) {
    const auto k = static_cast<std::int64_t>(classes[i]);
    if (static_cast<std::uint64_t>(k) >= num_classes)
      refuse("classes must be in [0, ", num_classes, ") (got ", k, " at position ", position + i, ")");
  }
}

/// Do the work of class_loss() for classes of one type, or of any.
template <class Loss, class Classes>
std::int64_t add(std::span<const Loss> losses, const Classes& classes, std::span<double> sum,
                 std::span<std::int64_t> count, int num_threads) {
  if (losses.size() != classes.size())
    refuse("losses and classes must have equal lengths (got ", losses.size(), " and ", classes.size(), ")");
  if (sum.size() != count.size())
    refuse("sum and count must have equal lengths (got ", sum.size(), " and ", count.size(), ")");
  const std::size_t num_classes = sum.size();

  // The partition depends on n and K only, so the bits of the sums do too.
  const auto n = static_cast<std::int64_t>(losses.size());
  const std::int64_t parts = std::clamp<std::int64_t>(
      n / std::max<std::int64_t>(kPartLosses, static_cast<std::int64_t>(num_classes)), 1, kMaxParts);
  const auto begin_of = [&](std::int64_t part) {
    return static_cast<std::size_t>(n / parts * part + std::min(part, n % parts));
  };
  if (parts == 1) {
    check_classes(classes, 0, num_classes);
    return add_in_order(losses, classes, sum.data(), count.data());
  }

  std::vector<double> part_sum(static_cast<std::size_t>(parts) * num_classes, 0.0);
  std::vector<std::int64_t> part_count(part_sum.size(), 0);
  Atomic<std::int64_t> skipped{0};
  parallel_for(num_threads, parts, [&](std::int64_t part) {
    const std::size_t lane_stride = num_classes < kMaxClassesInLanes ? num_classes + 1 : 0;
    std::vector<Total> totals(num_classes + 1 + (kLanes - 1) * lane_stride);
    const std::size_t begin = begin_of(part);
    const auto my_losses = losses.subspan(begin, begin_of(part + 1) - begin);
    const auto my_classes = classes.subspan(begin, my_losses.size());
    add_in_lanes(my_losses, my_classes, num_classes, totals.data(), lane_stride);
    double* const my_sum = &part_sum[static_cast<std::size_t>(part) * num_classes];
    std::int64_t* const my_count = &part_count[static_cast<std::size_t>(part) * num_classes];
    bool valid = true;
    for (std::size_t lane = 0; lane < (lane_stride == 0 ? 1 : kLanes); ++lane) {
      const std::span<const Total> of_lane(&totals[lane * lane_stride], num_classes + 1);
      for (std::size_t k = 0; k < num_classes; ++k) {
        my_sum[k] += of_lane[k].sum;
        my_count[k] += static_cast<std::int64_t>(of_lane[k].count);
        valid &= std::isfinite(my_sum[k]);
      }
      valid &= of_lane[num_classes].count == 0.0;
    }
    if (valid) return;
    check_classes(my_classes, begin, num_classes);
    std::fill_n(my_sum, num_classes, 0.0);
    std::fill_n(my_count, num_classes, 0);
    skipped += add_in_order(my_losses, my_classes, my_sum, my_count);
  });
  for (std::int64_t part = 0; part < parts; ++part) {
    for (std::size_t k = 0; k < num_classes; ++k) {
      const std::size_t i = static_cast<std::size_t>(part) * num_classes + k;
      add_to(sum[k], part_sum[i]);
      count[k] += part_count[i];
    }
  }
  return skipped;
}

}  // namespace

template <class Loss, class Class>
std::int64_t class_loss(std::span<const Loss> losses, std::span<const Class> classes, std::span<double> sum,
                        std::span<std::int64_t> count, int num_threads) {
  if constexpr (kCompact)
    return add(losses, AnyIntegers(classes), sum, count, num_threads);
  else
    return add(losses, classes, sum, count, num_threads);
}

#define L2M_CLASS_LOSS(Loss, Class)                                                                  \
  template std::int64_t class_loss(std::span<const Loss>, std::span<const Class>, std::span<double>, \
                                   std::span<std::int64_t>, int);
#define L2M_CLASS_LOSS_OF(Class)  \
  L2M_CLASS_LOSS(Float16, Class)  \
  L2M_CLASS_LOSS(BFloat16, Class) \
  L2M_CLASS_LOSS(float, Class)    \
  L2M_CLASS_LOSS(double, Class)
L2M_CLASS_LOSS_OF(std::int8_t)
L2M_CLASS_LOSS_OF(std::int16_t)
L2M_CLASS_LOSS_OF(std::int32_t)
L2M_CLASS_LOSS_OF(std::int64_t)
L2M_CLASS_LOSS_OF(std::uint8_t)
L2M_CLASS_LOSS_OF(std::uint16_t)
L2M_CLASS_LOSS_OF(std::uint32_t)
#undef L2M_CLASS_LOSS_OF
#undef L2M_CLASS_LOSS

}  // namespace l2m
