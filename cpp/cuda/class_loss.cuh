#pragma once

#include <algorithm>

#include "block.cuh"
#include "class_loss.hpp"
#include "floats.cuh"
#include "l2m/base/exact_sums.hpp"
#include "launch.cuh"

/// Kernels that add losses to the sum of their class.
namespace l2m::cuda {
namespace {

constexpr int kThreads = 512;
constexpr int kBlocksPerMultiprocessor = 2;
constexpr std::int64_t kReservedBytes = 1 << 10;  // of shared memory, for each block
constexpr int kThreadsInMemory = 256;             // these need more registers
// Consecutive digits that a block keeps in shared memory: those of values in a range of about 2^64, and of 2^96 for
// doubles, whose low bits are separate floats. All other digits are added to global memory directly.
template <class Loss>
constexpr int kSharedDigits = std::is_same_v<Loss, double> ? 8 : 6;
// Losses that a block adds before it carries its digits: twice 2^14 * (2^16 - 1) is the maximum of a signed 32-bit
// digit, and two floats of one double may add to the same digit.
constexpr std::int64_t kMaxLossesOfVisit = 1 << 14;
constexpr std::int64_t kMinLossesPerBlock = 2048;
// Copies of the digits of each class per block, as many as fit, to reduce conflicts between the lanes of a warp.
constexpr int kMaxCopies = 32;
constexpr std::int64_t kCopyBytes = 48 << 10;

constexpr int kAtOnce = 4;  // losses that a thread loads before it adds the first

/// Number of words for a class in 64 bits: pairs of digits, and the count.
template <class Loss>
constexpr int kWideWords = kSharedDigits<Loss> / 2 + 1;

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

__device__ bool is_ignored(const ClassIds& classes, std::int64_t i) {
  return classes.targets != nullptr && classes.targets[i] == classes.ignored;
}

__device__ bool is_class(std::int64_t k, const ClassTotals& totals) {
  return static_cast<std::uint64_t>(k) < static_cast<std::uint64_t>(totals.num_classes);
}

__device__ void add_to(std::int64_t* total, std::int64_t x) {
  if (x != 0) atomicAdd(as_unsigned(total), static_cast<unsigned long long>(x));
}

__device__ void add_to(std::int64_t* digits, const HalfDigits& x) {
  for (int i = 0; i < 3; ++i) add_to(&digits[x.place(i)], x.value(i));
}

/// Counts of the losses that a thread skipped.
struct Skipped {
  std::int64_t out_of_range = 0;
  std::int64_t not_finite = 0;

  /// Add the counts of all threads of a block. All must call, and no longer use shared memory.
  template <int kThreadsOfBlock>
  __device__ void add_of_block(const ClassTotals& totals) const {
    if (__syncthreads_or(static_cast<int>(out_of_range + not_finite > 0)) == 0) return;
    std::int64_t counts[] = {out_of_range, not_finite};
    sum_over_block<kThreadsOfBlock>(counts);
    for (int i = 0; threadIdx.x == 0 && i < 2; ++i) add_to(&totals.skipped[i], counts[i]);
  }
};
/// Shared memory that this takes.
template <int kThreadsOfBlock>
constexpr std::int64_t kSkippedBytes = 2 * kThreadsOfBlock / kLanes * std::int64_t{sizeof(std::int64_t)};

/// Shared memory for what a block does before it adds losses: three sums over its threads.
template <int kThreadsOfBlock>
constexpr std::int64_t kFirstBytes = 3 * kThreadsOfBlock / kLanes * std::int64_t{sizeof(double)};

/// Call add(k, pieces) unless the loss is ignored or skipped.
template <class Loss, class Add>
__device__ void unless_skipped(Loss loss, std::int64_t k, bool ignored, const ClassTotals& totals, Skipped& skipped,
                               const Add& add) {
  if (ignored) return;
  const Pieces pieces = pieces_of(widened(loss));
  if (!is_class(k, totals)) {
    ++skipped.out_of_range;
  } else if (!isfinite(pieces.piece[0])) {
    ++skipped.not_finite;
  } else {
    add(k, pieces);
  }
}

/// Call add(k, pieces) for the losses begin, begin + step, ... before `end` unless they are ignored or skipped. Several
/// are loaded before the first is added, because the compiler does not move loads over atomics.
template <class Loss, class Add>
__device__ void for_each_loss(const Loss* losses, const ClassIds& classes, std::int64_t begin, std::int64_t end,
                              std::int64_t step, const ClassTotals& totals, Skipped& skipped, const Add& add) {
  for (std::int64_t i = begin; i < end; i += kAtOnce * step) {
    Loss loss[kAtOnce] = {};
    std::int64_t k[kAtOnce] = {};
    bool ignored[kAtOnce];
#pragma unroll
    for (int a = 0; a < kAtOnce; ++a) {
      const std::int64_t at = i + a * step;
      ignored[a] = at >= end || is_ignored(classes, at);
      if (at >= end) continue;
      loss[a] = losses[at];
      k[a] = class_at(classes, at);
    }
#pragma unroll
    for (int a = 0; a < kAtOnce; ++a) unless_skipped(loss[a], k[a], ignored[a], totals, skipped, add);
  }
}

/// Return the first of the digits that a block keeps in shared memory, which is even: chosen so that the losses of its
/// threads, one each, are in the middle on average. All threads must call; shared memory is overwritten.
template <class Loss>
__device__ int first_shared_digit(const Loss* losses, std::int64_t i, std::int64_t end) {
  int firsts_and_count[] = {0, 0};
  const Pieces loss = i < end ? pieces_of(widened(losses[i])) : Pieces{0, {}};
  for (int p = 0; p < loss.count; ++p) {
    if (!isfinite(loss.piece[p]) || loss.piece[p] == 0.0F) continue;
    firsts_and_count[0] += half_digits(loss.piece[p]).first;
    ++firsts_and_count[1];
  }
  sum_over_block<kThreads>(firsts_and_count);
  const auto [firsts, count] = firsts_and_count;
  constexpr int kOfOne = 7;
  const int middle = count > 0 ? (firsts + count / 2) / count : kOfOne;
  const int begin = (middle - kSharedDigits<Loss> / 2 + 2) & ~1;
  return min(max(begin, 0), 2 * kSumDigits - kSharedDigits<Loss>);
}

/// Replace the first of the copies of each word in shared memory by their sum, and the others by 0. Neighboring lanes
/// read the copies of a word, without conflicts. All threads must call.
__device__ void add_copies(int words, int copies) {
  const int lane = static_cast<int>(threadIdx.x) % kLanes;
  for (int i = static_cast<int>(threadIdx.x); copies > 1 && i - lane < words; i += kThreads) {
    std::int32_t total = i < words ? shared_memory[i] : 0;  // no overflow: the sum of a block is not larger
    for (int mask = copies / 2; mask > 0; mask /= 2) total += __shfl_xor_sync(~0U, total, mask);
    if (i < words) shared_memory[i] = (i & (copies - 1)) == 0 ? total : 0;
  }
}

template <class Int>
__host__ __device__ constexpr Int round_to_even(Int words) {
  return (words + 1) / 2 * 2;
}

/// Add losses with digits and counts of all classes in the shared memory of each block, in several copies.
///
/// A block visits parts of the losses. After each visit it adds its digits to 64-bit words, also in shared memory if
/// `keeps` is true, and these to global memory after the last one. The first block calls `first` before.
template <class Loss, class First>
__global__ void __launch_bounds__(kThreads, kBlocksPerMultiprocessor)
    add_in_shared(const Loss* losses, ClassIds classes, std::int64_t n, std::int64_t losses_of_visit, int copies,
                  bool keeps, ClassTotals totals, First first) {
  if (blockIdx.x == 0) first.template operator()<kThreads>();
  const int num_classes = static_cast<int>(totals.num_classes);
  const int wide_words = kWideWords<Loss> * num_classes;
  const int words =
      (kSharedDigits<Loss> + 1) * num_classes * copies;  // [kSharedDigits + 1, K, copies]: digits, then the count
  auto* const kept = reinterpret_cast<std::int64_t*>(shared_memory + round_to_even(words));  // [kWideWords, K]
  const int copy = static_cast<int>(threadIdx.x) & (copies - 1);
  const int first_shared = first_shared_digit(losses, blockIdx.x * losses_of_visit + threadIdx.x, n);
  for (int i = static_cast<int>(threadIdx.x); i < words; i += kThreads) shared_memory[i] = 0;
  for (int i = static_cast<int>(threadIdx.x); keeps && i < wide_words; i += kThreads) kept[i] = 0;
  const auto word = [&](int digit, int k, int which) -> std::int32_t& {
    return shared_memory[(digit * num_classes + k) * copies + which];
  };
  Skipped skipped;
  const std::int64_t step = gridDim.x * losses_of_visit;
  for (std::int64_t begin = blockIdx.x * losses_of_visit; begin < n; begin += step) {
    const std::int64_t end = begin + losses_of_visit < n ? begin + losses_of_visit : n;
    __syncthreads();
    const auto add = [&](std::int64_t k, const Pieces& loss) {
      for (int p = 0; p < loss.count; ++p) {
        const HalfDigits x = half_digits(loss.piece[p]);
        if (x.first >= first_shared && x.first + 2 < first_shared + kSharedDigits<Loss>) {
          for (int d = 0; d < 3; ++d)
            if (x.digit[d] != 0) atomicAdd(&word(x.first - first_shared + d, static_cast<int>(k), copy), x.digit[d]);
        } else {
          add_to(&totals.digits[k * kSumDigits], x);
        }
      }
      atomicAdd(&word(kSharedDigits<Loss>, static_cast<int>(k), copy), 1);
    };
    for_each_loss(losses, classes, begin + threadIdx.x, end, kThreads, totals, skipped, add);
    __syncthreads();
    add_copies(words, copies);
    __syncthreads();
    for (int i = static_cast<int>(threadIdx.x); i < wide_words; i += kThreads) {
      const int k = i % num_classes;
      const int digit = i / num_classes * 2;
      const auto take = [&](int which) {
        const std::int64_t total = word(which, k, 0);
        word(which, k, 0) = 0;
        return total;
      };
      const bool is_count = digit == kSharedDigits<Loss>;
      std::int64_t total = is_count ? take(digit) : take(digit) + take(digit + 1) * 65536;
      if (keeps) total = kept[i] += total;
      if (keeps && begin + step < n) continue;
      add_to(is_count ? &totals.count[k] : &totals.digits[std::int64_t{k} * kSumDigits + (first_shared + digit) / 2],
             total);
    }
  }
  skipped.add_of_block<kThreads>(totals);
}

/// Add losses directly to global memory, for many classes, where conflicts are rare. The first block calls `first`
/// before.
template <class Loss, class First>
__global__ void __launch_bounds__(kThreadsInMemory)
    add_in_memory(const Loss* losses, ClassIds classes, std::int64_t n, ClassTotals totals, First first) {
  if (blockIdx.x == 0) first.template operator()<kThreadsInMemory>();
  Skipped skipped;
  const std::int64_t step = static_cast<std::int64_t>(gridDim.x) * kThreadsInMemory;
  const std::int64_t begin = static_cast<std::int64_t>(blockIdx.x) * kThreadsInMemory + threadIdx.x;
  for_each_loss(losses, classes, begin, n, step, totals, skipped, [&](std::int64_t k, const Pieces& loss) {
    for (int p = 0; p < loss.count; ++p) add_to(&totals.digits[k * kSumDigits], half_digits(loss.piece[p]));
    add_to(&totals.count[k], 1);
  });
  skipped.add_of_block<kThreadsInMemory>(totals);
}

struct Nothing {
  template <int kThreadsOfBlock>
  __device__ void operator()() const {}
};

/// @param first  called by all threads of one block, with the number of threads as a template argument. It may use
///               kFirstBytes of shared memory.
template <class Loss, class First>
void add_by_id(const Loss* losses, ClassIds classes, std::int64_t n, const ClassTotals& totals, const First& first,
               Stream stream) {
  const std::int64_t max_blocks = kBlocksPerMultiprocessor * attribute(cudaDevAttrMultiProcessorCount);
  const std::int64_t copy_bytes = (kSharedDigits<Loss> + 1) * totals.num_classes * std::int64_t{sizeof(std::int32_t)};
  const std::int64_t max_shared = attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin);
  if (copy_bytes <= max_shared) {
    int copies = kMaxCopies;
    while (copies > 1 && copies * copy_bytes > kCopyBytes) copies /= 2;
    // A block adds one value per class to global memory, so it should add more losses than there are classes.
    const std::int64_t min_losses = std::min(std::max(kMinLossesPerBlock, totals.num_classes), kMaxLossesOfVisit);
    const std::int64_t blocks = std::clamp<std::int64_t>(n / min_losses, 1, max_blocks);
    const std::int64_t losses_of_visit = std::min((n + blocks - 1) / blocks, kMaxLossesOfVisit);
    std::int64_t shared_bytes = round_to_even(copies * copy_bytes / 4) * 4;
    const std::int64_t kept_bytes = kWideWords<Loss> * totals.num_classes * std::int64_t{sizeof(std::int64_t)};
    const std::int64_t bytes_of_blocks = kBlocksPerMultiprocessor * (shared_bytes + kept_bytes + kReservedBytes);
    const bool keeps = blocks * losses_of_visit < n && bytes_of_blocks <= max_shared + kReservedBytes;
    if (keeps) shared_bytes += kept_bytes;
    launch({blocks, kThreads, stream, std::max(shared_bytes, kFirstBytes<kThreads>)}, add_in_shared<Loss, First>,
           losses, classes, n, losses_of_visit, copies, keeps, totals, first);
  } else {
    const std::int64_t blocks =
        std::clamp<std::int64_t>((n + kThreadsInMemory - 1) / kThreadsInMemory, 1, 8 * max_blocks);
    launch({blocks, kThreadsInMemory, stream, std::max(kSkippedBytes<kThreadsInMemory>, kFirstBytes<kThreadsInMemory>)},
           add_in_memory<Loss, First>, losses, classes, n, totals, first);
  }
}

}  // namespace
}  // namespace l2m::cuda
