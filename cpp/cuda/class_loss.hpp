#pragma once

#include <cstdint>

/// For callers that know no CUDA: pointers are to memory of the current device, a stream is opaque, nothing waits for it.
namespace l2m::cuda {

using Stream = void*;  ///< a cudaStream_t

enum class LossType { kFloat16, kBFloat16, kFloat32, kFloat64 };

/// Integers in [-2^63, 2^63) of 1, 2, 4 or 8 bytes.
struct ClassIds {
  const void* ids;
  int bytes;
  bool is_signed;
};

/// Where losses are added up.
struct ClassTotals {
  std::int64_t num_classes;
  double* sum;          ///< [K] added to
  std::int64_t* count;  ///< [K] added to
  std::int64_t*
      unusual;  ///< [2] added to: losses skipped for a class out of range, and for not being finite (as a float)
  std::int64_t* digits;  ///< [K, kSumDigits] zero before and after, see exact_sum.hpp
};

/// Adds losses per class: to each sum the double nearest to the sum of its losses. Two launches.
///
/// Between losses only integers are added, so the result has the same bits whatever the device, the order of the losses or
/// the launch: gpu-to-gpu deterministic.
/// @param losses   [n] n < 2^29.   @param classes  [n]
/// @throws std::runtime_error  a launch failed.
void add_class_loss(LossType type, const void* losses, ClassIds classes, std::int64_t n, const ClassTotals& totals,
                    Stream stream);

/// Devices there are; 0 also without a driver.
int device_count();

}  // namespace l2m::cuda
