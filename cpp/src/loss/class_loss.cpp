#include "l2m/loss/class_loss.hpp"

#include <algorithm>
#include <cmath>
#include <utility>
#include <vector>

#include "l2m/base/compact.hpp"
#include "l2m/base/errors.hpp"
#include "l2m/base/threads.hpp"
#include "l2m/loss/window.hpp"
#include "l2m/run/thread_pool.hpp"

namespace l2m {
namespace {

constexpr std::int64_t kPartLosses = 1 << 16;  // long compared to the start of a task
constexpr std::int64_t kLossesPerClass = 8;    // of a part at least: merging a class takes as long as a few additions
constexpr std::int64_t kMaxParts = 32;
constexpr std::size_t kChunk = 4096;

template <class Classes>
void check_classes(const Classes& classes, std::size_t position, std::size_t num_classes) {
  std::uint64_t signs = 0;  // a class or its distance to the largest one is negative if it is out of range
  for (std::size_t i = 0; i < classes.size(); ++i) {
    const auto k = static_cast<std::uint64_t>(static_cast<std::int64_t>(classes[i]));
    signs |= k | (num_classes - 1 - k);
  }
  if (static_cast<std::int64_t>(signs) >= 0) return;
  for (std::size_t i = 0; i < classes.size(); ++i) {
    const auto k = static_cast<std::int64_t>(classes[i]);
    if (static_cast<std::uint64_t>(k) >= num_classes)
      refuse("classes must be in [0, ", num_classes, ") (got ", k, " at position ", position + i, ")");
  }
}

/// Add losses of valid classes. Return the number of those skipped.
template <class Loss, class Classes>
std::int64_t add_valid(std::span<const Loss> losses, const Classes& classes, ExactSum* sum, std::int64_t* count) {
  std::int64_t skipped = 0;
  for (std::size_t i = 0; i < losses.size(); ++i) {
    const auto loss = widen(losses[i]);
    if (!std::isfinite(static_cast<float>(loss))) [[unlikely]] {
      ++skipped;
      continue;
    }
    const auto k = static_cast<std::size_t>(classes[i]);
    sum[k].add(loss);
    if (++count[k] % ExactSum::kMaxAdditions == 0) [[unlikely]]
      sum[k].carry();
  }
  return skipped;
}

/// Do the work of class_loss() for classes of one type, or of any.
template <class Loss, class Classes>
std::int64_t add(std::span<const Loss> losses, const Classes& classes, std::span<ExactSum> sum,
                 std::span<std::int64_t> count, int num_threads) {
  if (losses.size() != classes.size())
    refuse("losses and classes must have equal lengths (got ", losses.size(), " and ", classes.size(), ")");
  if (sum.size() != count.size())
    refuse("sum and count must have equal lengths (got ", sum.size(), " and ", count.size(), ")");
  const std::size_t num_classes = sum.size();
  const auto n = static_cast<std::int64_t>(losses.size());
  const std::int64_t parts = std::clamp<std::int64_t>(
      n / std::max(kPartLosses, kLossesPerClass * static_cast<std::int64_t>(num_classes)), 1, kMaxParts);
  if (kCompact || parts == 1) {
    check_classes(classes, 0, num_classes);
    return add_valid(losses, classes, sum.data(), count.data());
  }

  const auto begin_of = [&](std::int64_t part) {
    return static_cast<std::size_t>(n / parts * part + std::min(part, n % parts));
  };
  std::vector<LossSums> all(static_cast<std::size_t>(parts));
  Atomic<std::int64_t> skipped{0};
  parallel_for(num_threads, parts, [&](std::int64_t part) {
    const std::size_t begin = begin_of(part);
    const auto my_losses = losses.subspan(begin, begin_of(part + 1) - begin);
    const auto my_classes = classes.subspan(begin, my_losses.size());
    LossSums mine(num_classes);                                   // in memory that no other thread writes to
    for (std::size_t i = 0; i < my_losses.size(); i += kChunk) {  // short enough to stay in the cache
      const std::size_t size = std::min(kChunk, my_losses.size() - i);
      check_classes(my_classes.subspan(i, size), begin + i, num_classes);
      skipped += add_valid(my_losses.subspan(i, size), my_classes.subspan(i, size), mine.sum.data(), mine.count.data());
    }
    all[static_cast<std::size_t>(part)] = std::move(mine);
  });
  for (const LossSums& part : all) {
    for (std::size_t k = 0; k < num_classes; ++k) {
      if (part.count[k] == 0) continue;
      sum[k].add(part.sum[k]);
      count[k] += part.count[k];
    }
  }
  return skipped;
}

}  // namespace

template <class Loss, class Class>
std::int64_t class_loss(std::span<const Loss> losses, std::span<const Class> classes, std::span<ExactSum> sum,
                        std::span<std::int64_t> count, int num_threads) {
  if constexpr (kCompact)
    return add(losses, AnyIntegers(classes), sum, count, num_threads);
  else
    return add(losses, classes, sum, count, num_threads);
}

#define L2M_CLASS_LOSS(Loss, Class)                                                                    \
  template std::int64_t class_loss(std::span<const Loss>, std::span<const Class>, std::span<ExactSum>, \
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
