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

/// Accumulators of class losses.
struct ClassTotals {
  std::int64_t num_classes;
  std::int64_t* digits;  ///< [K, kSumDigits] of exact sums; added to
  std::int64_t* count;   ///< [K] added to
  std::int64_t*
      skipped;  ///< [2] added to: losses skipped for a class out of range, and for being non-finite (as a float)
};

/// Add losses to the sum of their class, in one launch. Digits are not carried: carry them after 2^29 losses at most.
///
/// Determinism: gpu_to_gpu. Losses are added as integers, so the bits depend on neither device, order nor launch.
/// @param losses   [n] n < 2^29.   @param classes  [n]
/// @throws std::runtime_error  the launch failed.
void add_class_loss(FloatType type, const void* losses, ClassIds classes, std::int64_t n, const ClassTotals& totals,
                    Stream stream);

}  // namespace l2m::cuda
