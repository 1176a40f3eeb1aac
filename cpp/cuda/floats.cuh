#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <type_traits>

#include "types.hpp"

namespace l2m::cuda {

__device__ inline double widened(double x) { return x; }
__device__ inline float widened(float x) { return x; }
__device__ inline float widened(__half x) { return __half2float(x); }
__device__ inline float widened(__nv_bfloat16 x) { return __bfloat162float(x); }

/// Values that are loaded or stored at once.
template <class T, int kSize>
struct alignas(kSize * sizeof(T)) Vector {
  T at[kSize];
};

/// Type in which to compute with a Float.
template <class Float>
using Wide = decltype(widened(Float{}));

/// Round to the nearest Float, ties to even.
template <class Float>
__device__ Float rounded(Wide<Float> x) {
  if constexpr (std::is_same_v<Float, __half>) {
    return __float2half_rn(x);
  } else if constexpr (std::is_same_v<Float, __nv_bfloat16>) {
    return __float2bfloat16_rn(x);
  } else {
    return x;
  }
}

/// Return one value of a type that is known at run time only.
__device__ inline double load_value(const void* from, FloatType type) {
  switch (type) {
    case FloatType::kFloat16:
      return static_cast<double>(widened(*static_cast<const __half*>(from)));
    case FloatType::kBFloat16:
      return static_cast<double>(widened(*static_cast<const __nv_bfloat16*>(from)));
    case FloatType::kFloat32:
      return static_cast<double>(*static_cast<const float*>(from));
    default:
      return *static_cast<const double*>(from);
  }
}

/// Store one value, rounded to float first unless the type is double.
__device__ inline void store_value(void* to, FloatType type, double x) {
  const auto narrow = static_cast<float>(x);
  switch (type) {
    case FloatType::kFloat16:
      *static_cast<__half*>(to) = rounded<__half>(narrow);
      break;
    case FloatType::kBFloat16:
      *static_cast<__nv_bfloat16*>(to) = rounded<__nv_bfloat16>(narrow);
      break;
    case FloatType::kFloat32:
      *static_cast<float*>(to) = narrow;
      break;
    default:
      *static_cast<double*>(to) = x;
  }
}

/// Call f with a pointer of the actual type.
template <class F>
void with_floats(FloatType type, const void* floats, F&& f) {
  switch (type) {
    case FloatType::kFloat16:
      return f(static_cast<const __half*>(floats));
    case FloatType::kBFloat16:
      return f(static_cast<const __nv_bfloat16*>(floats));
    case FloatType::kFloat32:
      return f(static_cast<const float*>(floats));
    case FloatType::kFloat64:
      return f(static_cast<const double*>(floats));
  }
}

}  // namespace l2m::cuda
