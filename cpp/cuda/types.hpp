#pragma once

/// For callers that know no CUDA: pointers are to memory of the current device, a stream is opaque, nothing waits for it.
namespace l2m::cuda {

using Stream = void*;  ///< a cudaStream_t

enum class FloatType { kFloat16, kBFloat16, kFloat32, kFloat64 };

}  // namespace l2m::cuda
