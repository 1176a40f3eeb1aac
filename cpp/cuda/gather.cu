#include "gather.hpp"

#include <algorithm>
#include <cstddef>

#include "floats.cuh"
#include "launch.cuh"

namespace l2m::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kAtOnce = 4;  // pieces that a thread loads before it stores the first
constexpr int kMaxFields = 8;
constexpr std::int64_t kMaxPieceBytes = 16;      // of a piece
constexpr std::int64_t kMaxNormalizedBytes = 4;  // of a piece that becomes 16 bytes of floats
constexpr std::int64_t kMaxBlocksPerMultiprocessor = 32;
constexpr std::int64_t kMaxBlocksOverBus = 32;  // 512 KB of reads in flight; a bus needs about 100 KB to be busy

/// Field of one launch. A row has `pieces` pieces of `piece_size` bytes.
struct Part {
  Field field;
  void* out;
  std::int64_t piece_size;
  std::int64_t pieces;
};

struct Parts {
  Part part[kMaxFields];
};

/// Conversion that copies pieces unchanged.
template <class Piece>
struct Copy {
  using In = Piece;
  using Out = Piece;
  __device__ explicit Copy(const Part&) {}
  __device__ Out operator()(In piece, std::int64_t) const { return piece; }
};

template <class Float, int kSize>
struct Normalize {
  using In = Vector<std::uint8_t, kSize>;
  using Out = Vector<Float, kSize>;
  __device__ explicit Normalize(const Part& part)
      : mean(part.field.normalization.mean),
        std(part.field.normalization.std),
        channels(static_cast<unsigned>(part.field.normalization.channels)),
        channel_size(static_cast<unsigned>(part.field.normalization.channel_size)) {}
  __device__ Out operator()(In piece, std::int64_t index) const {
    Out out;
    for (int i = 0; i < kSize; ++i) {
      const unsigned channel = (static_cast<unsigned>(index * kSize + i) / channel_size) % channels;
      out.at[i] = rounded<Float>((static_cast<float>(piece.at[i]) - mean[channel]) / std[channel]);
    }
    return out;
  }
  const float* mean;
  const float* std;
  unsigned channels;
  unsigned channel_size;
};

template <class Index, class Change>
__device__ void gather_part(const Part& part, const std::int64_t* rows, Index n) {
  using In = typename Change::In;
  const Change change(part);
  const auto pieces = static_cast<Index>(part.pieces);
  const Index total = n * pieces;
  const Index step = static_cast<Index>(gridDim.x) * kThreads * kAtOnce;
  for (Index begin = static_cast<Index>(blockIdx.x) * kThreads * kAtOnce + threadIdx.x; begin < total; begin += step) {
    In piece[kAtOnce] = {};
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i) {
      const Index at = begin + static_cast<Index>(i) * kThreads;
      if (at >= total) continue;
      const auto* const row = static_cast<const std::byte*>(part.field.data) + rows[at / pieces] * part.field.stride;
      piece[i] = reinterpret_cast<const In*>(row)[at % pieces];
    }
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i) {
      const Index at = begin + static_cast<Index>(i) * kThreads;
      if (at < total)
        static_cast<typename Change::Out*>(part.out)[at] = change(piece[i], static_cast<std::int64_t>(at % pieces));
    }
  }
}

template <class Index, class Float>
__device__ void normalize_part(const Part& part, const std::int64_t* rows, Index n) {
  part.piece_size == kMaxNormalizedBytes ? gather_part<Index, Normalize<Float, kMaxNormalizedBytes>>(part, rows, n)
                                         : gather_part<Index, Normalize<Float, 1>>(part, rows, n);
}

/// Copy part of the field blockIdx.y.
template <class Index>
__global__ void __launch_bounds__(kThreads) gather_parts(Parts parts, const std::int64_t* rows, Index n) {
  const Part& part = parts.part[blockIdx.y];
  if (part.field.normalization.channels > 0) {
    switch (part.field.normalization.type) {
      case FloatType::kFloat16:
        return normalize_part<Index, __half>(part, rows, n);
      case FloatType::kBFloat16:
        return normalize_part<Index, __nv_bfloat16>(part, rows, n);
      default:
        return normalize_part<Index, float>(part, rows, n);
    }
  }
  switch (part.piece_size) {
    case 16:
      return gather_part<Index, Copy<uint4>>(part, rows, n);
    case 8:
      return gather_part<Index, Copy<uint2>>(part, rows, n);
    case 4:
      return gather_part<Index, Copy<std::uint32_t>>(part, rows, n);
    case 2:
      return gather_part<Index, Copy<std::uint16_t>>(part, rows, n);
    default:
      return gather_part<Index, Copy<std::uint8_t>>(part, rows, n);
  }
}

Part part_of(const Field& field, void* out) {
  const bool normalizes = field.normalization.channels > 0;
  std::int64_t piece_size = normalizes ? kMaxNormalizedBytes : kMaxPieceBytes;
  const auto fits = [&](std::int64_t size) {
    return reinterpret_cast<std::intptr_t>(field.data) % size == 0 && field.stride % size == 0 &&
           field.row_size % size == 0;
  };
  while (!fits(piece_size)) piece_size = normalizes ? 1 : piece_size / 2;
  return {field, out, piece_size, field.row_size / piece_size};
}

}  // namespace

void locate(Field& field) {
  cudaPointerAttributes attributes{};
  check(cudaPointerGetAttributes(&attributes, field.data));
  if (attributes.devicePointer == nullptr)
    throw std::runtime_error("CUDA: rows must be in pinned memory or in the memory of a device");
  field.data = attributes.devicePointer;
  field.on_host = attributes.type == cudaMemoryTypeHost;
}

void gather(std::span<const Field> fields, const std::int64_t* rows, std::int64_t n, std::span<void* const> outs,
            Stream stream) {
  if (n == 0) return;
  for (std::size_t begin = 0; begin < fields.size(); begin += kMaxFields) {
    const std::size_t end = std::min(begin + kMaxFields, fields.size());
    Parts parts{};
    std::int64_t max_pieces = 0;
    bool over_bus = false;
    for (std::size_t f = begin; f < end; ++f) {
      parts.part[f - begin] = part_of(fields[f], outs[f]);
      max_pieces = std::max(max_pieces, n * parts.part[f - begin].pieces);
      over_bus = over_bus || fields[f].on_host;
    }
    constexpr std::int64_t kPiecesPerBlock = kThreads * kAtOnce;
    const std::int64_t max_blocks = over_bus ? kMaxBlocksOverBus / static_cast<std::int64_t>(end - begin)
                                             : kMaxBlocksPerMultiprocessor * attribute(cudaDevAttrMultiProcessorCount);
    const std::int64_t blocks = std::min((max_pieces + kPiecesPerBlock - 1) / kPiecesPerBlock, max_blocks);
    const Launch how{blocks, kThreads, stream, 0, static_cast<int>(end - begin)};
    // 32-bit division is several times as fast. The largest increment of an index must not overflow either.
    if (max_pieces < (std::int64_t{1} << 31))
      launch(how, gather_parts<std::uint32_t>, parts, rows, static_cast<std::uint32_t>(n));
    else
      launch(how, gather_parts<std::int64_t>, parts, rows, n);
  }
}

}  // namespace l2m::cuda
