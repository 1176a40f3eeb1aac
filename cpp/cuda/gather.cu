#include "gather.hpp"

#include <algorithm>
#include <cstddef>
#include <numeric>

#include "floats.cuh"
#include "launch.cuh"

namespace l2m::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kAtOnce = 4;                   // pieces that a thread loads before it stores the first
constexpr int kMaxFields = 8;                // of a launch
constexpr int kMaxBatches = 16;              // of a launch; its arguments take 2 KB of 4 KB
constexpr std::int64_t kMaxPieceBytes = 16;  // of a piece
// Of a piece that becomes floats. With more bytes, a thread would store floats far from those of its neighbors.
constexpr std::int64_t kMaxNormalizedBytes = 4;
constexpr int kByteValues = 256;
constexpr std::int64_t kMaxTables = 16;  // 16 KB of shared memory, with which as many blocks run as without
constexpr std::int64_t kMaxBlocksPerMultiprocessor = 32;
constexpr std::int64_t kMaxBlocksOverBus = 32;  // 512 KB of reads in flight; a bus needs about 100 KB to be busy

/// Field of one launch. A row has `pieces` pieces of `piece_size` bytes.
struct Part {
  Field field;
  std::int64_t piece_size;
  std::int64_t pieces;
};

/// Fields and batches of one launch.
struct Parts {
  Part part[kMaxFields];
  int num_fields;
  std::int64_t begin[kMaxBatches + 1];  ///< of the rows of each batch
  void* out[kMaxBatches][kMaxFields];
};

/// Conversion that copies pieces unchanged.
template <class Piece>
struct Copy {
  using In = Piece;
  using Out = Piece;
  __device__ explicit Copy(const Field&) {}
  __device__ Out operator()(In piece, std::int64_t) const { return piece; }
};

/// Conversion of bytes to floats.
/// @tparam kTables  whether the float of each byte of a channel is read from a table in shared memory, which all
///                  threads of the block fill together.
template <class Float, int kSize, bool kTables>
struct Normalize {
  using In = Vector<std::uint8_t, kSize>;
  using Out = Vector<Float, kSize>;
  __device__ explicit Normalize(const Field& field)
      : normalization(field.normalization),
        channels(static_cast<unsigned>(normalization.channels)),
        channel_size(static_cast<unsigned>(normalization.channel_size)) {
    if constexpr (kTables) {
      for (unsigned i = threadIdx.x; i < channels * kByteValues; i += kThreads)
        tables()[i] = compute(i / kByteValues, i % kByteValues);
      __syncthreads();
    }
  }
  __device__ static Float* tables() { return reinterpret_cast<Float*>(shared_memory); }  // [channels, kByteValues]
  [[nodiscard]] __device__ Float compute(unsigned channel, unsigned byte) const {
    return rounded<Float>((static_cast<float>(byte) - normalization.mean[channel]) / normalization.std[channel]);
  }
  __device__ Out operator()(In piece, std::int64_t index) const {
    const auto first = static_cast<unsigned>(index * kSize);
    unsigned channel = first / channel_size % channels;
    unsigned in_channel = first % channel_size;
    Out out;
#pragma unroll
    for (int i = 0; i < kSize; ++i) {
      const unsigned byte = piece.at[i];
      out.at[i] = kTables ? tables()[channel * kByteValues + byte] : compute(channel, byte);
      if (++in_channel < channel_size) continue;
      in_channel = 0;
      if (++channel == channels) channel = 0;
    }
    return out;
  }
  const Normalization& normalization;
  unsigned channels;
  unsigned channel_size;
};

template <class Index, class Change>
__device__ void gather_part(const Part& part, const std::int64_t* rows, Index n, void* out) {
  using In = typename Change::In;
  const Change change(part.field);
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
        static_cast<typename Change::Out*>(out)[at] = change(piece[i], static_cast<std::int64_t>(at % pieces));
    }
  }
}

template <class Index, class Float, bool kTables>
__device__ void normalize_part(const Part& part, const std::int64_t* rows, Index n, void* out) {
  part.piece_size == kMaxNormalizedBytes
      ? gather_part<Index, Normalize<Float, kMaxNormalizedBytes, kTables>>(part, rows, n, out)
      : gather_part<Index, Normalize<Float, 1, kTables>>(part, rows, n, out);
}

template <class Index, class Float>
__device__ void normalize_part(const Part& part, const std::int64_t* rows, Index n, void* out) {
  part.field.normalization.channels <= kMaxTables ? normalize_part<Index, Float, true>(part, rows, n, out)
                                                  : normalize_part<Index, Float, false>(part, rows, n, out);
}

/// Copy part of one field of one batch. blockIdx.y counts the fields of each batch.
template <class Index>
__global__ void __launch_bounds__(kThreads) gather_parts(Parts parts, const std::int64_t* all_rows) {
  const auto batch = static_cast<int>(blockIdx.y) / parts.num_fields;
  const auto f = static_cast<int>(blockIdx.y) % parts.num_fields;
  const Part& part = parts.part[f];
  void* const out = parts.out[batch][f];
  const std::int64_t* const rows = all_rows + parts.begin[batch];
  const auto n = static_cast<Index>(parts.begin[batch + 1] - parts.begin[batch]);
  if (part.field.normalization.channels > 0) {
    switch (part.field.normalization.type) {
      case FloatType::kFloat16:
        return normalize_part<Index, __half>(part, rows, n, out);
      case FloatType::kBFloat16:
        return normalize_part<Index, __nv_bfloat16>(part, rows, n, out);
      default:
        return normalize_part<Index, float>(part, rows, n, out);
    }
  }
  switch (part.piece_size) {
    case 16:
      return gather_part<Index, Copy<uint4>>(part, rows, n, out);
    case 8:
      return gather_part<Index, Copy<uint2>>(part, rows, n, out);
    case 4:
      return gather_part<Index, Copy<std::uint32_t>>(part, rows, n, out);
    case 2:
      return gather_part<Index, Copy<std::uint16_t>>(part, rows, n, out);
    default:
      return gather_part<Index, Copy<std::uint8_t>>(part, rows, n, out);
  }
}

/// Return the partition of the rows of a field into pieces as large as their alignment allows.
Part part_of(const Field& field) {
  const bool normalizes = field.normalization.channels > 0;
  std::int64_t piece_size = normalizes ? kMaxNormalizedBytes : kMaxPieceBytes;
  const auto fits = [&](std::int64_t size) {
    return reinterpret_cast<std::intptr_t>(field.data) % size == 0 && field.stride % size == 0 &&
           field.row_size % size == 0;
  };
  while (!fits(piece_size)) piece_size = normalizes ? 1 : piece_size / 2;
  return {field, piece_size, field.row_size / piece_size};
}

/// Copy at most kMaxFields fields of at most kMaxBatches batches.
/// @param outs  of the first of these fields of the first of these batches; those of the next batch are `all_fields`
///              later.
void gather_at_once(std::span<const Field> fields, const std::int64_t* rows, std::span<const std::int64_t> sizes,
                    void* const* outs, std::size_t all_fields, Stream stream) {
  Parts parts{};
  parts.num_fields = static_cast<int>(fields.size());
  std::int64_t max_row_pieces = 0;
  std::int64_t tables = 0;
  bool over_bus = false;
  for (std::size_t f = 0; f < fields.size(); ++f) {
    parts.part[f] = part_of(fields[f]);
    max_row_pieces = std::max(max_row_pieces, parts.part[f].pieces);
    if (fields[f].normalization.channels <= kMaxTables) tables = std::max(tables, fields[f].normalization.channels);
    over_bus = over_bus || fields[f].on_host;
  }
  for (std::size_t b = 0; b < sizes.size(); ++b) {
    parts.begin[b + 1] = parts.begin[b] + sizes[b];
    std::copy_n(outs + b * all_fields, fields.size(), parts.out[b]);
  }
  const std::int64_t max_pieces = max_row_pieces * *std::max_element(sizes.begin(), sizes.end());
  if (max_pieces == 0) return;
  const auto rows_of_blocks = static_cast<std::int64_t>(fields.size() * sizes.size());
  const std::int64_t max_blocks = over_bus ? std::max<std::int64_t>(kMaxBlocksOverBus / rows_of_blocks, 1)
                                           : kMaxBlocksPerMultiprocessor * attribute(cudaDevAttrMultiProcessorCount);
  constexpr std::int64_t kPiecesPerBlock = kThreads * kAtOnce;
  const std::int64_t blocks = std::min((max_pieces + kPiecesPerBlock - 1) / kPiecesPerBlock, max_blocks);
  const Launch how{blocks, kThreads, stream, tables * kByteValues * std::int64_t{sizeof(float)},
                   static_cast<int>(rows_of_blocks)};
  // 32-bit division is several times as fast. The largest increment of an index must not overflow either.
  const bool is_small = max_pieces < (std::int64_t{1} << 31);
  launch(how, is_small ? gather_parts<std::uint32_t> : gather_parts<std::int64_t>, parts, rows);
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

void gather(std::span<const Field> fields, const std::int64_t* rows, std::span<const std::int64_t> sizes,
            std::span<void* const> outs, Stream stream) {
  for (std::size_t b = 0; b < sizes.size(); b += kMaxBatches) {
    const auto some_sizes = sizes.subspan(b, std::min<std::size_t>(kMaxBatches, sizes.size() - b));
    for (std::size_t f = 0; f < fields.size(); f += kMaxFields) {
      const auto some_fields = fields.subspan(f, std::min<std::size_t>(kMaxFields, fields.size() - f));
      gather_at_once(some_fields, rows, some_sizes, &outs[b * fields.size() + f], fields.size(), stream);
    }
    rows += std::accumulate(some_sizes.begin(), some_sizes.end(), std::int64_t{0});
  }
}

}  // namespace l2m::cuda
