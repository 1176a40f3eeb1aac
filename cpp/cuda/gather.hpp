#pragma once

#include <cstdint>
#include <span>

#include "types.hpp"

namespace l2m::cuda {

/// Conversion of the bytes of a row to floats: (x - mean) / std of the byte's channel, in float32, rounded to `type`.
struct Normalization {
  FloatType type;             ///< not kFloat64
  const float* mean;          ///< [channels]
  const float* std;           ///< [channels]
  std::int64_t channels;      ///< 0: the field is copied unchanged
  std::int64_t channel_size;  ///< consecutive bytes of one channel; byte i has channel i / channel_size mod channels
};

/// Array of the data.
struct Field {
  const void* data;
  std::int64_t stride;    ///< bytes between consecutive rows, of any sign
  std::int64_t row_size;  ///< bytes, > 0
  Normalization normalization{};
  bool on_host = false;  ///< in pinned memory, read over the bus
};

/// Find out where a field is, and the address by which the current device reads it.
/// @throws std::runtime_error  the device cannot read it.
void locate(Field& field);

/// Copy the rows of one or more batches. One launch per 8 fields and 16 batches.
///
/// Each byte is read and written once, 16 at a time if the rows of the field are aligned to 16 bytes. Where a field is
/// on the host, few blocks are launched: they keep the bus busy, and leave the rest of the device to other kernels.
/// @param fields  from locate().
/// @param rows    ids of the rows of the first batch, then those of the next; not checked.
/// @param sizes   number of rows of each batch.
/// @param outs    [batches, fields] memory for the rows of each field one after the other, aligned to 16 bytes.
/// @throws std::runtime_error  a launch failed.
void gather(std::span<const Field> fields, const std::int64_t* rows, std::span<const std::int64_t> sizes,
            std::span<void* const> outs, Stream stream);

}  // namespace l2m::cuda
