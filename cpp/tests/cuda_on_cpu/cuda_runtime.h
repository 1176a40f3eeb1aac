#pragma once

// The parts of the CUDA language and runtime that the kernels use, on the CPU, with one host thread per CUDA thread. So
// kernels can be tested, also under sanitizers, without a device. Blocks run one after the other. A test includes the
// source of the kernels, which avoids syntax that C++ lacks: kernels are launched by cudaLaunchKernelEx(), and the only
// shared memory is that of launch.cuh.

#include <algorithm>
#include <atomic>
#include <barrier>
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <map>
#include <memory>
#include <thread>
#include <utility>
#include <vector>

#ifdef __SANITIZE_ADDRESS__
extern "C" {
void __asan_poison_memory_region(const volatile void* memory, std::size_t size);
void __asan_unpoison_memory_region(const volatile void* memory, std::size_t size);
}
#endif

#define __global__
#define __device__
#define __host__
#define __shared__
#define __align__(n) __attribute__((aligned(n)))
#define __launch_bounds__(...)

using std::exp;
using std::fmax;
using std::isfinite;
using std::log;
using std::max;
using std::min;

struct alignas(8) uint2 {
  unsigned x, y;
};
struct alignas(16) [[gnu::may_alias]] uint4 {  // may alias any type
  unsigned x, y, z, w;
};
struct dim3 {
  unsigned x = 1, y = 1, z = 1;
};

using cudaStream_t = void*;
enum cudaError_t { cudaSuccess, cudaErrorInvalidValue };
enum cudaDeviceAttr {
  cudaDevAttrMultiProcessorCount,
  cudaDevAttrMaxSharedMemoryPerBlockOptin,
  cudaDevAttrComputeCapabilityMajor,
  cudaDevAttrComputeCapabilityMinor
};
enum cudaMemoryType { cudaMemoryTypeUnregistered, cudaMemoryTypeHost, cudaMemoryTypeDevice };
struct cudaPointerAttributes {
  cudaMemoryType type;
  void* devicePointer;
};
struct cudaFuncAttributes {};
enum cudaFuncAttribute { cudaFuncAttributeMaxDynamicSharedMemorySize };
struct cudaLaunchConfig_t {
  dim3 gridDim, blockDim;
  std::size_t dynamicSmemBytes = 0;
  cudaStream_t stream = nullptr;
};

inline constexpr int kWarp = 32;
inline constexpr int kMultiprocessors = 2;
inline constexpr int kMaxSharedBytes = 227 << 10;  // as on devices of compute capability 9.0
// Initial content of shared memory, which is unspecified on a device.
inline constexpr int kGarbage = 0xA5;

#define __CUDA_ARCH_LIST__ 750, 900

namespace cuda_on_cpu {

// What a test sets, and what it reads.
inline cudaError_t driver = cudaSuccess;                   ///< result of counting devices
inline int compute_capability = 80;                        ///< of each device
inline int shared_bytes = 64 << 10;                        ///< of a block at most, as for capability 7.5
inline cudaError_t loading = cudaSuccess;                  ///< result of loading a kernel
inline int launches_before_failure = 1 << 30;              ///< launches that succeed before all others fail
inline cudaMemoryType memory_type = cudaMemoryTypeDevice;  ///< of all memory
inline std::ptrdiff_t bytes_to_device_pointer = 0;         ///< from the address on the host to that on the device
inline unsigned num_blocks = 0;                            ///< of the last launch
inline std::atomic<std::int64_t> wide_atomics =
    0;  ///< operations on 64-bit words, which the kernels have in global memory only

}  // namespace cuda_on_cpu

inline const char* cudaGetErrorString(cudaError_t) { return "invalid"; }
inline cudaError_t cudaGetLastError() { return cudaSuccess; }
inline cudaError_t cudaGetDeviceCount(int* count) { return *count = 1, cuda_on_cpu::driver; }
inline cudaError_t cudaGetDevice(int* device) { return *device = 0, cudaSuccess; }
inline cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr which, int) {
  switch (which) {
    case cudaDevAttrMultiProcessorCount:
      return *value = kMultiprocessors, cudaSuccess;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin:
      return *value = cuda_on_cpu::shared_bytes, cudaSuccess;
    case cudaDevAttrComputeCapabilityMajor:
      return *value = cuda_on_cpu::compute_capability / 10, cudaSuccess;
    case cudaDevAttrComputeCapabilityMinor:
      return *value = cuda_on_cpu::compute_capability % 10, cudaSuccess;
  }
  return cudaErrorInvalidValue;
}
inline cudaError_t cudaPointerGetAttributes(cudaPointerAttributes* attributes, const void* address) {
  auto* const on_device = static_cast<std::byte*>(const_cast<void*>(address)) + cuda_on_cpu::bytes_to_device_pointer;
  const bool known = cuda_on_cpu::memory_type != cudaMemoryTypeUnregistered;
  *attributes = {cuda_on_cpu::memory_type, known ? on_device : nullptr};
  return cudaSuccess;
}
inline cudaError_t cudaMemsetAsync(void* memory, int byte, std::size_t size, cudaStream_t) {
  return std::memset(memory, byte, size), cudaSuccess;
}
template <class Kernel>
cudaError_t cudaFuncGetAttributes(cudaFuncAttributes*, Kernel*) {
  return cuda_on_cpu::loading;
}
template <class Kernel>
cudaError_t cudaFuncSetAttribute(Kernel*, cudaFuncAttribute, int) {
  return cudaSuccess;
}

inline std::int32_t __align__(16) shared_memory[kMaxSharedBytes / sizeof(std::int32_t)];

inline thread_local dim3 threadIdx, blockIdx, blockDim, gridDim;

namespace cuda_on_cpu {

/// State shared by the threads of a warp.
struct Warp {
  explicit Warp(std::ptrdiff_t size) : barrier(size) {}
  std::barrier<> barrier;
  std::uint64_t slots[2][kWarp] = {};
};

/// State shared by the threads of a block.
struct BlockOfThreads {
  explicit BlockOfThreads(int size) : barrier(size) {
    for (int begin = 0; begin < size; begin += kWarp)
      warps.push_back(std::make_unique<Warp>(std::min(kWarp, size - begin)));
  }
  std::barrier<> barrier;
  std::vector<std::unique_ptr<Warp>> warps;
  std::atomic<bool> any = false;
};

/// Host threads that wait for work and do it together. They are kept: to start 256 of them takes 0.3 s under sanitizers.
class Team {
 public:
  explicit Team(unsigned size) : begin_(size + 1), end_(size + 1) {
    for (unsigned thread = 0; thread < size; ++thread) {
      threads_.emplace_back([this, thread](const std::stop_token& stop) {
        for (begin_.arrive_and_wait(); !stop.stop_requested(); begin_.arrive_and_wait()) {
          work_(thread);
          end_.arrive_and_wait();
        }
      });
    }
  }
  Team(const Team&) = delete;
  Team& operator=(const Team&) = delete;
  ~Team() {
    for (std::jthread& thread : threads_) thread.request_stop();
    begin_.arrive_and_wait();
  }

  /// Call `work(thread)` in each thread, and wait for all of them.
  void run(std::function<void(unsigned thread)> work) {
    work_ = std::move(work);
    begin_.arrive_and_wait();
    end_.arrive_and_wait();
  }

 private:
  std::barrier<> begin_, end_;
  std::function<void(unsigned)> work_;
  std::vector<std::jthread> threads_;
};

inline std::map<unsigned, Team> teams;  // by their size

inline thread_local BlockOfThreads* block = nullptr;
inline thread_local Warp* warp = nullptr;
inline thread_local unsigned shuffles = 0;

}  // namespace cuda_on_cpu

inline void __syncthreads() { cuda_on_cpu::block->barrier.arrive_and_wait(); }
inline int __syncthreads_or(int vote) {
  auto& [barrier, warps, any] = *cuda_on_cpu::block;
  if (vote != 0) any = true;
  barrier.arrive_and_wait();
  const bool is_any = any;
  barrier.arrive_and_wait();
  if (threadIdx.x == 0) any = false;
  barrier.arrive_and_wait();
  return is_any ? 1 : 0;
}

/// Return the value of lane `threadIdx.x ^ mask`. All lanes of the warp must call. Shuffles alternate between two rows
/// of slots, so that no thread writes a slot that another may still read.
template <class T>
T __shfl_xor_sync(unsigned, T value, int mask, int = kWarp) {
  static_assert(sizeof(T) <= sizeof(std::uint64_t));
  auto& slots = cuda_on_cpu::warp->slots[cuda_on_cpu::shuffles++ % 2];
  const unsigned lane = threadIdx.x % kWarp;
  std::memcpy(&slots[lane], &value, sizeof(T));
  cuda_on_cpu::warp->barrier.arrive_and_wait();
  std::memcpy(&value, &slots[lane ^ static_cast<unsigned>(mask)], sizeof(T));
  return value;
}

template <class T>
void __stwb(T* to, T x) {
  *to = x;
}
template <class T, class U>
T atomicAdd(T* to, U x) {
  if constexpr (sizeof(T) == 8) ++cuda_on_cpu::wide_atomics;
  return std::atomic_ref<T>(*to).fetch_add(static_cast<T>(x));
}

template <class... Parameters, class... Arguments>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t* config, void (*kernel)(Parameters...),
                               Arguments&&... arguments) {
  if (cuda_on_cpu::launches_before_failure-- <= 0) return cudaErrorInvalidValue;
  const int size = static_cast<int>(config->blockDim.x);
  const unsigned num_blocks = cuda_on_cpu::num_blocks = config->gridDim.x * config->gridDim.y;
  std::vector<std::unique_ptr<cuda_on_cpu::BlockOfThreads>> blocks;
  for (unsigned i = 0; i < num_blocks; ++i) blocks.push_back(std::make_unique<cuda_on_cpu::BlockOfThreads>(size));
  const std::size_t shared_bytes = config->dynamicSmemBytes;
  if (shared_bytes > sizeof(shared_memory)) return cudaErrorInvalidValue;
#ifdef __SANITIZE_ADDRESS__
  __asan_unpoison_memory_region(shared_memory, sizeof(shared_memory));
  __asan_poison_memory_region(reinterpret_cast<std::byte*>(shared_memory) + shared_bytes,
                              sizeof(shared_memory) - shared_bytes);
#endif
  const auto spoil_shared_memory = [=]() noexcept { std::memset(shared_memory, kGarbage, shared_bytes); };
  spoil_shared_memory();
  std::barrier all(size, spoil_shared_memory);
  cuda_on_cpu::teams.try_emplace(config->blockDim.x, config->blockDim.x).first->second.run([&](unsigned thread) {
    gridDim = config->gridDim;
    blockDim = config->blockDim;
    threadIdx = {thread, 0, 0};
    for (unsigned i = 0; i < num_blocks; ++i) {
      blockIdx = {i % gridDim.x, i / gridDim.x};
      cuda_on_cpu::block = blocks[i].get();
      cuda_on_cpu::warp = cuda_on_cpu::block->warps[thread / kWarp].get();
      kernel(static_cast<Parameters>(arguments)...);
      cuda_on_cpu::warp->barrier.arrive_and_drop();
      cuda_on_cpu::block->barrier.arrive_and_drop();
      all.arrive_and_wait();
    }
  });
  return cudaSuccess;
}
