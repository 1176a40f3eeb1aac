#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "launch.cuh"

/// Operations of all threads of a block together.
namespace l2m::cuda {

inline constexpr int kLanes = 32;

__device__ inline unsigned long long* as_unsigned(std::int64_t* x) { return reinterpret_cast<unsigned long long*>(x); }

/// Replace each value by its sum over the threads of a block, in a fixed order. Uses shared memory: one value per warp.
template <int kThreads, class T, int kSize>
__device__ void sum_over_block(T (&x)[kSize]) {
  constexpr int kWarps = kThreads / kLanes;
  auto* const of_warps = reinterpret_cast<T*>(shared_memory);  // [kSize, kWarps]
  for (int i = 0; i < kSize; ++i) {
    for (int mask = kLanes / 2; mask > 0; mask /= 2) x[i] += __shfl_xor_sync(~0U, x[i], mask);
    if (threadIdx.x % kLanes == 0) of_warps[i * kWarps + threadIdx.x / kLanes] = x[i];
  }
  __syncthreads();
  for (int i = 0; i < kSize; ++i) {
    x[i] = 0;
    for (int warp = 0; warp < kWarps; ++warp) x[i] += of_warps[i * kWarps + warp];
  }
  __syncthreads();
}

}  // namespace l2m::cuda
