#include "devices.hpp"

#include <cuda_runtime.h>

namespace l2m::cuda {

int device_count() {
  int count = 0;
  return cudaGetDeviceCount(&count) == cudaSuccess ? count : 0;
}

}  // namespace l2m::cuda
