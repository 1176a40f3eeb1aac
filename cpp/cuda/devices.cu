#include "devices.hpp"

#include <cuda_runtime.h>

#include <algorithm>

namespace l2m::cuda {
namespace {

constexpr int kArchitectures[] = {__CUDA_ARCH_LIST__};  // 100 * major + 10 * minor
constexpr int kMinArchitecture = *std::min_element(std::begin(kArchitectures), std::end(kArchitectures));

/// Kernel that is loaded to find out whether kernels can be.
__global__ void probe() {}

/// Return the text of an error, which the next call of the runtime must not report again.
std::string text_of(cudaError_t error) {
  cudaGetLastError();
  return cudaGetErrorString(error);
}

int architecture(int device) {
  int major = 0;
  int minor = 0;
  const bool known = cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device) == cudaSuccess &&
                     cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device) == cudaSuccess;
  return known ? 100 * major + 10 * minor : 0;
}

std::string as_capability(int architecture) {
  return std::to_string(architecture / 100) + "." + std::to_string(architecture / 10 % 10);
}

}  // namespace

std::string why_no_device() {
  int count = 0;
  if (const cudaError_t error = cudaGetDeviceCount(&count); error != cudaSuccess) return text_of(error);
  int newest = 0;
  for (int device = 0; device < count; ++device) newest = std::max(newest, architecture(device));
  if (newest >= kMinArchitecture) return "";
  return "the kernels need compute capability " + as_capability(kMinArchitecture) + " or newer (got " +
         as_capability(newest) + ")";
}

std::string why_not_on_current_device() {
  cudaFuncAttributes attributes{};
  const cudaError_t error = cudaFuncGetAttributes(&attributes, probe);
  return error == cudaSuccess ? "" : text_of(error);
}

}  // namespace l2m::cuda
