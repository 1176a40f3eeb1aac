#pragma once

/// Interface without CUDA headers. Pointers are to memory of the current device, streams are opaque, no call blocks.
namespace l2m::cuda {

using Stream = void*;  ///< a cudaStream_t

enum class FloatType { kFloat16, kBFloat16, kFloat32, kFloat64 };

}  // namespace l2m::cuda
