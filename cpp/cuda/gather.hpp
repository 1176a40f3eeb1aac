#pragma once

#include <cstdint>
#include <span>

#include "types.hpp"

namespace l2m::cuda {

/// How the bytes of a row become floats: (x - mean) / std, of the byte's channel, in float32, rounded to `type`.
struct Normalisation {
  FloatType type;             ///< not kFloat64
  const float* mean;          ///< [channels]
  const float* std;           ///< [channels]
  std::int64_t channels;      ///< 0: the field is copied as it is
  std::int64_t channel_size;  ///< consecutive bytes of one channel; byte i is of channel i / channel_size mod channels
};

/// One array of the data, in memory that the device reads: its own, or pinned memory of the host.
struct Field {
  const void* data;
  std::int64_t stride;    ///< bytes from a row to the next; any sign
  std::int64_t row_size;  ///< bytes, > 0
  Normalisation normalisation{};
};

/// Copies rows of every field f one after the other to outs[f], which is aligned to 16 bytes. One launch for 8 fields.
///
/// Moves each byte once in and once out, 16 of them at a time where the rows of a field are aligned to as many.
/// @param rows  [n] ids, which the caller vouches for.
/// @throws std::runtime_error  a launch failed.
void gather(std::span<const Field> fields, const std::int64_t* rows, std::int64_t n, std::span<void* const> outs,
            Stream stream);

}  // namespace l2m::cuda
