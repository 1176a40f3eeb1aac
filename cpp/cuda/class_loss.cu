#include "class_loss.hpp"

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <algorithm>
#include <stdexcept>
#include <string>

#include "l2m/exact_sum.hpp"

namespace l2m::cuda {
namespace {

constexpr int kThreads = 512;
// Digits that a block keeps in shared memory: those of losses in about [2^-30, 2^34). Others go to memory at once.
constexpr int kFirstUsual = 6;
constexpr int kUsual = 6;
// A block adds this many losses before it passes them on: twice 2^14 * (2^16 - 1) is the most that 32 signed bits hold, and
// two of a double's pieces may meet at a digit.
constexpr std::int64_t kMostOfVisit = 1 << 14;
constexpr std::int64_t kLeastOfBlock = 2048;

__device__ Pieces pieces_at(const float* losses, std::int64_t i) { return pieces_of(losses[i]); }
__device__ Pieces pieces_at(const double* losses, std::int64_t i) { return pieces_of(losses[i]); }
__device__ Pieces pieces_at(const __half* losses, std::int64_t i) { return pieces_of(__half2float(losses[i])); }
__device__ Pieces pieces_at(const __nv_bfloat16* losses, std::int64_t i) {
  return pieces_of(__bfloat162float(losses[i]));
}

__device__ std::int64_t class_at(const ClassIds& classes, std::int64_t i) {
  switch (classes.bytes) {
    case 1:
      return classes.is_signed ? static_cast<const std::int8_t*>(classes.ids)[i]
                               : static_cast<std::int64_t>(static_cast<const std::uint8_t*>(classes.ids)[i]);
    case 2:
      return classes.is_signed ? static_cast<const std::int16_t*>(classes.ids)[i]
                               : static_cast<std::int64_t>(static_cast<const std::uint16_t*>(classes.ids)[i]);
    case 4:
      return classes.is_signed ? static_cast<const std::int32_t*>(classes.ids)[i]
                               : static_cast<std::int64_t>(static_cast<const std::uint32_t*>(classes.ids)[i]);
    default:
      return static_cast<const std::int64_t*>(classes.ids)[i];
  }
}

__device__ void add_to(std::int64_t* total, std::int64_t x) {
  if (x != 0) atomicAdd(reinterpret_cast<unsigned long long*>(total), static_cast<unsigned long long>(x));
}

__device__ void add_to(std::int64_t* digits, const HalfDigits& x) {
  for (int i = 0; i < 3; ++i) add_to(&digits[x.place(i)], x.value(i));
}

/// Counts what a thread skipped.
struct Skipped {
  std::int64_t out_of_range = 0;
  std::int64_t not_finite = 0;

  __device__ void add(const ClassTotals& totals) const {
    add_to(&totals.unusual[0], out_of_range);
    add_to(&totals.unusual[1], not_finite);
  }
};

/// Each block has digits and counts of its own for all classes in shared memory.
template <class Loss>
__global__ void __launch_bounds__(kThreads)
    add_in_shared(const Loss* losses, ClassIds classes, std::int64_t n, std::int64_t of_block, ClassTotals totals) {
  extern __shared__ std::int32_t shared[];  // [kUsual + 1, K]: digits, count
  const int num_classes = static_cast<int>(totals.num_classes);
  std::int32_t* const count = shared + kUsual * num_classes;
  for (int i = threadIdx.x; i < (kUsual + 1) * num_classes; i += kThreads) shared[i] = 0;
  Skipped skipped;
  for (std::int64_t begin = blockIdx.x * of_block; begin < n; begin += gridDim.x * of_block) {
    const std::int64_t end = begin + of_block < n ? begin + of_block : n;
    __syncthreads();
#pragma unroll 4
    for (std::int64_t i = begin + threadIdx.x; i < end; i += kThreads) {
      const std::int64_t class_id = class_at(classes, i);
      const Pieces loss = pieces_at(losses, i);
      if (static_cast<std::uint64_t>(class_id) >= static_cast<std::uint64_t>(num_classes)) {
        ++skipped.out_of_range;
      } else if (!isfinite(loss.piece[0])) {
        ++skipped.not_finite;
      } else {
        const int k = static_cast<int>(class_id);
        for (int p = 0; p < loss.count; ++p) {
          const HalfDigits x = half_digits(loss.piece[p]);
          if (x.first >= kFirstUsual && x.first + 2 < kFirstUsual + kUsual) {
            for (int d = 0; d < 3; ++d)
              if (x.digit[d] != 0) atomicAdd(&shared[(x.first - kFirstUsual + d) * num_classes + k], x.digit[d]);
          } else {
            add_to(&totals.digits[class_id * kSumDigits], x);
          }
        }
        atomicAdd(&count[k], 1);
      }
    }
    __syncthreads();
    for (int k = threadIdx.x; k < num_classes; k += kThreads) {
      if (count[k] == 0) continue;
      add_to(&totals.count[k], count[k]);
      count[k] = 0;
      for (int d = 0; d < kUsual; d += 2) {
        std::int32_t& low = shared[d * num_classes + k];
        std::int32_t& high = shared[(d + 1) * num_classes + k];
        add_to(&totals.digits[k * kSumDigits + (kFirstUsual + d) / 2], low + static_cast<std::int64_t>(high) * 65536);
        low = high = 0;
      }
    }
  }
  skipped.add(totals);
}

/// For more classes than shared memory holds: they are many, so few losses meet at one of them.
template <class Loss>
__global__ void __launch_bounds__(kThreads)
    add_in_memory(const Loss* losses, ClassIds classes, std::int64_t n, ClassTotals totals) {
  Skipped skipped;
  const std::int64_t step = static_cast<std::int64_t>(gridDim.x) * kThreads;
#pragma unroll 4
  for (std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * kThreads + threadIdx.x; i < n; i += step) {
    const std::int64_t k = class_at(classes, i);
    const Pieces loss = pieces_at(losses, i);
    if (static_cast<std::uint64_t>(k) >= static_cast<std::uint64_t>(totals.num_classes)) {
      ++skipped.out_of_range;
    } else if (!isfinite(loss.piece[0])) {
      ++skipped.not_finite;
    } else {
      for (int p = 0; p < loss.count; ++p) add_to(&totals.digits[k * kSumDigits], half_digits(loss.piece[p]));
      add_to(&totals.count[k], 1);
    }
  }
  skipped.add(totals);
}

/// Adds exact sums to doubles, and takes them away.
__global__ void __launch_bounds__(kThreads) finish(ClassTotals totals) {
  const std::int64_t k = static_cast<std::int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (k >= totals.num_classes) return;
  std::int64_t* const digits = &totals.digits[k * kSumDigits];
  totals.sum[k] += nearest_double(digits);
  for (int d = 0; d < kSumDigits; ++d) digits[d] = 0;
}

void check(cudaError_t status) {
  if (status != cudaSuccess) throw std::runtime_error(std::string("CUDA: ") + cudaGetErrorString(status));
}

int attribute(cudaDeviceAttr which) {
  int device = 0;
  int value = 0;
  check(cudaGetDevice(&device));
  check(cudaDeviceGetAttribute(&value, which, device));
  return value;
}

unsigned blocks_for(std::int64_t threads) { return static_cast<unsigned>((threads + kThreads - 1) / kThreads); }

template <class Loss>
void add(const Loss* losses, ClassIds classes, std::int64_t n, const ClassTotals& totals, cudaStream_t stream) {
  const std::int64_t most_blocks = 2 * attribute(cudaDevAttrMultiProcessorCount);
  const std::int64_t shared_bytes = (kUsual + 1) * totals.num_classes * std::int64_t{sizeof(std::int32_t)};
  if (shared_bytes <= attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin)) {
    // A block passes as much on as there are classes: it should add more losses than that.
    const std::int64_t least = std::min(std::max(kLeastOfBlock, totals.num_classes), kMostOfVisit);
    const std::int64_t blocks = std::clamp<std::int64_t>(n / least, 1, most_blocks);
    const std::int64_t of_block = std::min((n + blocks - 1) / blocks, kMostOfVisit);
    check(cudaFuncSetAttribute(add_in_shared<Loss>, cudaFuncAttributeMaxDynamicSharedMemorySize,
                               static_cast<int>(shared_bytes)));
    add_in_shared<<<static_cast<unsigned>(blocks), kThreads, static_cast<std::size_t>(shared_bytes), stream>>>(
        losses, classes, n, of_block, totals);
  } else {
    const auto blocks = static_cast<unsigned>(std::min<std::int64_t>((n + kThreads - 1) / kThreads, 4 * most_blocks));
    add_in_memory<<<blocks, kThreads, 0, stream>>>(losses, classes, n, totals);
  }
  check(cudaGetLastError());
}

template <class F>
void with_losses(LossType type, const void* losses, F&& f) {
  switch (type) {
    case LossType::kFloat16:
      return f(static_cast<const __half*>(losses));
    case LossType::kBFloat16:
      return f(static_cast<const __nv_bfloat16*>(losses));
    case LossType::kFloat32:
      return f(static_cast<const float*>(losses));
    case LossType::kFloat64:
      return f(static_cast<const double*>(losses));
  }
}

}  // namespace

void add_class_loss(LossType type, const void* losses, ClassIds classes, std::int64_t n, const ClassTotals& totals,
                    Stream stream) {
  if (n == 0) return;
  const auto typed_stream = static_cast<cudaStream_t>(stream);
  with_losses(type, losses, [&](auto typed) { add(typed, classes, n, totals, typed_stream); });
  finish<<<blocks_for(totals.num_classes), kThreads, 0, typed_stream>>>(totals);
  check(cudaGetLastError());
}

int device_count() {
  int count = 0;
  return cudaGetDeviceCount(&count) == cudaSuccess ? count : 0;
}

}  // namespace l2m::cuda
