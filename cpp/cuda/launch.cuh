#pragma once

#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <utility>

/// Shared memory of a block, of the size given at the launch.
extern __shared__ std::int32_t __align__(16) shared_memory[];

namespace l2m::cuda {

inline void check(cudaError_t status) {
  if (status != cudaSuccess) throw std::runtime_error(std::string("CUDA: ") + cudaGetErrorString(status));
}

/// Return an attribute of the current device.
inline int attribute(cudaDeviceAttr which) {
  int device = 0;
  int value = 0;
  check(cudaGetDevice(&device));
  check(cudaDeviceGetAttribute(&value, which, device));
  return value;
}

struct Launch {
  std::int64_t blocks;
  int threads;
  void* stream;
  std::int64_t shared_bytes = 0;
  int rows_of_blocks = 1;
};

/// @throws std::runtime_error  the launch failed.
template <class... Parameters, class... Arguments>
void launch(const Launch& how, void (*kernel)(Parameters...), Arguments&&... arguments) {
  constexpr std::int64_t kDefaultSharedBytes = 48 << 10;
  if (how.shared_bytes > kDefaultSharedBytes)
    check(
        cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(how.shared_bytes)));
  cudaLaunchConfig_t config{};
  config.gridDim.x = static_cast<unsigned>(how.blocks);
  config.gridDim.y = static_cast<unsigned>(how.rows_of_blocks);
  config.blockDim.x = static_cast<unsigned>(how.threads);
  config.dynamicSmemBytes = static_cast<std::size_t>(how.shared_bytes);
  config.stream = static_cast<cudaStream_t>(how.stream);
  check(cudaLaunchKernelEx(&config, kernel, std::forward<Arguments>(arguments)...));
}

}  // namespace l2m::cuda
