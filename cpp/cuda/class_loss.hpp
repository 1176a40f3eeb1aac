#pragma once

#include <cstdint>

#include "l2m/base/exact_sums.hpp"
#include "types.hpp"

namespace l2m::cuda {

/// Integers in [-2^63, 2^63) of 1, 2, 4 or 8 bytes.
struct ClassIds {
  const void* ids;
  int bytes;
  bool is_signed;
  const std::int64_t* targets = nullptr;  ///< [n] a loss whose target is `ignored` is passed over, whatever its class
  std::int64_t ignored = 0;
};

/// What of a class is not finished yet: the digits of an exact sum, and a count.
inline constexpr int kUnfinished = kSumDigits + 1;

/// Where losses are added up.
struct ClassTotals {
  std::int64_t num_classes;
  double* sum;          ///< [K] added to
  std::int64_t* count;  ///< [K] added to
  /// [3] added to: losses skipped for a class out of range, and for not being finite (as a float); the third is zero before
  /// and after
  std::int64_t* unusual;
  std::int64_t* unfinished;  ///< [K, kUnfinished] zero before and after
};

/// Adds losses per class: to each sum the double nearest to the sum of its losses. One launch; two where there are more
/// classes than shared memory holds. Its work does not grow with the number of classes then.
///
/// Between losses only integers are added, so the result has the same bits whatever the device, the order of the losses or
/// the launch: gpu-to-gpu deterministic.
/// @param losses   [n] n < 2^29.   @param classes  [n]
/// @throws std::runtime_error  a launch failed.
void add_class_loss(FloatType type, const void* losses, ClassIds classes, std::int64_t n, const ClassTotals& totals,
                    Stream stream);

/// Losses grouped by class.
struct Segments {
  const std::int32_t* begins;   ///< [S + 1] where each begins, and the last ends
  const std::int32_t* classes;  ///< [S] the class of each: all different, and in [0, K)
  std::int64_t size;            ///< S
};

/// Adds losses that are grouped by class: doubles in an order that only the segments say, gpu-to-gpu deterministic. One
/// launch, no atomics but to count losses that are not finite. A segment is the work of one block.
/// @param losses  [segments.begins[S]]   @throws std::runtime_error  the launch failed.
void add_grouped_class_loss(FloatType type, const void* losses, const Segments& segments, const ClassTotals& totals,
                            Stream stream);

}  // namespace l2m::cuda
