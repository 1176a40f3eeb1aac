#pragma once

#include <cstdint>

#include "l2m/base/exact_sums.hpp"
#include "types.hpp"

namespace l2m::cuda {

/// Class ids: integers in [-2^63, 2^63) of 1, 2, 4 or 8 bytes.
struct ClassIds {
  const void* ids;
  int bytes;
  bool is_signed;
  const std::int64_t* targets = nullptr;  ///< [n] losses whose target is `ignored` are dropped, whatever their class
  std::int64_t ignored = 0;
};

/// Scratch words per class: the digits of an exact sum, and a count.
inline constexpr int kUnfinished = kSumDigits + 1;

/// Accumulators of class losses.
struct ClassTotals {
  std::int64_t num_classes;
  double* sum;          ///< [K] added to
  std::int64_t* count;  ///< [K] added to
  /// [3] added to: losses skipped for a class out of range, and for being non-finite (as a float); the third is
  /// scratch, zero before and after
  std::int64_t* skipped;
  std::int64_t* unfinished;  ///< [K, kUnfinished] scratch, zero before and after
};

/// Add to the sum of each class the double nearest to the exact sum of its losses. One launch; two if the classes do
/// not fit in shared memory, where the work does not grow with the number of classes.
///
/// Determinism: gpu_to_gpu. Losses are added as integers, so the bits depend on neither device, order nor launch.
/// @param losses   [n] n < 2^29.   @param classes  [n]
/// @throws std::runtime_error  a launch failed.
void add_class_loss(FloatType type, const void* losses, ClassIds classes, std::int64_t n, const ClassTotals& totals,
                    Stream stream);

/// Layout of losses that are grouped by class.
struct Segments {
  const std::int32_t* begins;   ///< [S + 1] begin of each segment, and end of the last
  const std::int32_t* classes;  ///< [S] class of each segment, all different, in [0, K)
  std::int64_t size;            ///< S
};

/// Add losses that are grouped by class, as doubles. One launch, with one block per segment; only counts of non-finite
/// losses use atomics. Determinism: gpu_to_gpu; the order of additions depends on the segments only.
/// @param losses  [segments.begins[S]]   @throws std::runtime_error  the launch failed.
void add_grouped_class_loss(FloatType type, const void* losses, const Segments& segments, const ClassTotals& totals,
                            Stream stream);

}  // namespace l2m::cuda
