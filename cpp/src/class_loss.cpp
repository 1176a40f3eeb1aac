#include "l2m/class_loss.hpp"

#include <algorithm>
#include <atomic>
#include <bit>
#include <cmath>
#include <stdexcept>
#include <vector>

#include "l2m/errors.hpp"
#include "l2m/thread_pool.hpp"

namespace l2m {
namespace {

constexpr std::int64_t kPartLosses = 1 << 16;  // about 100 us of work
constexpr std::int64_t kMaxParts = 64;

double to_double(double x) { return x; }
double to_double(float x) { return x; }
double to_double(BFloat16 x) { return std::bit_cast<float>(std::uint32_t{x.bits} << 16); }
double to_double(Float16 x) {
  const std::uint32_t sign = (x.bits & 0x8000U) << 16;
  const std::uint32_t exponent = (x.bits >> 10) & 0x1FU;
  const std::uint32_t fraction = x.bits & 0x3FFU;
  if (exponent == 0) return (sign != 0 ? -1.0 : 1.0) * static_cast<double>(fraction) * 0x1p-24;
  const std::uint32_t wide_exponent = exponent == 31 ? 255 : exponent + 112;
  return std::bit_cast<float>(sign | (wide_exponent << 23) | (fraction << 13));
}

/// Adds losses to one set of sums; returns how many were not finite.
template <class Loss, class Class>
std::int64_t add_in_order(std::span<const Loss> losses, std::span<const Class> classes, double* sum,
                          std::int64_t* count) {
  std::int64_t skipped = 0;
  for (std::size_t i = 0; i < losses.size(); ++i) {
    const double loss = to_double(losses[i]);
    if (!std::isfinite(loss)) [[unlikely]] {
      ++skipped;
      continue;
    }
    const auto k = static_cast<std::size_t>(classes[i]);
    sum[k] += loss;
    ++count[k];
  }
  return skipped;
}

template <class Class>
void check_classes(std::span<const Class> classes, std::size_t begin, std::size_t end, std::size_t num_classes) {
  bool out_of_range = false;
  for (std::size_t i = begin; i < end; ++i)  // no way out of the loop, so that it is vectorised
    out_of_range |= static_cast<std::uint64_t>(classes[i]) >= num_classes;
  if (!out_of_range) return;
  for (std::size_t i = begin; i < end; ++i) {
    if (static_cast<std::uint64_t>(classes[i]) >= num_classes)
      throw std::invalid_argument(message("classes must be in [0, ", num_classes, ") (got ",
                                          static_cast<std::int64_t>(classes[i]), " at position ", i, ")"));
  }
}

}  // namespace

template <class Loss, class Class>
std::int64_t class_loss(std::span<const Loss> losses, std::span<const Class> classes, std::span<double> sum,
                        std::span<std::int64_t> count, int num_threads) {
  if (losses.size() != classes.size())
    throw std::invalid_argument(
        message("losses and classes must have one length (got ", losses.size(), " and ", classes.size(), ")"));
  if (sum.size() != count.size())
    throw std::invalid_argument(
        message("sum and count must have one length (got ", sum.size(), " and ", count.size(), ")"));
  const std::size_t num_classes = sum.size();

  // The parts depend on n and K alone, so the sums do too.
  const auto n = static_cast<std::int64_t>(losses.size());
  const std::int64_t parts = std::clamp<std::int64_t>(
      n / std::max<std::int64_t>(kPartLosses, static_cast<std::int64_t>(num_classes)), 1, kMaxParts);
  const auto begin_of = [&](std::int64_t part) {
    return static_cast<std::size_t>(n / parts * part + std::min(part, n % parts));
  };
  parallel_for(num_threads, parts,
               [&](std::int64_t part) { check_classes(classes, begin_of(part), begin_of(part + 1), num_classes); });
  if (parts == 1) return add_in_order(losses, classes, sum.data(), count.data());

  std::vector<double> part_sum(static_cast<std::size_t>(parts) * num_classes, 0.0);
  std::vector<std::int64_t> part_count(part_sum.size(), 0);
  std::atomic<std::int64_t> skipped{0};
  parallel_for(num_threads, parts, [&](std::int64_t part) {
    const std::size_t begin = begin_of(part);
    const std::size_t size = begin_of(part + 1) - begin;
    const std::size_t mine = static_cast<std::size_t>(part) * num_classes;
    skipped +=
        add_in_order(losses.subspan(begin, size), classes.subspan(begin, size), &part_sum[mine], &part_count[mine]);
  });
  for (std::size_t i = 0; i < part_sum.size(); ++i) {
    sum[i % num_classes] += part_sum[i];
    count[i % num_classes] += part_count[i];
  }
  return skipped;
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
