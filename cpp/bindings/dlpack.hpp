#pragma once

#include <pybind11/pybind11.h>

#include <cstdint>
#include <vector>

#include "l2m/run/block_pool.hpp"

namespace l2m::bindings {

/// DLPack element type. Codes: 0 int, 1 uint, 2 float, 4 bfloat16, 5 complex, 6 bool.
struct DLDataType {
  std::uint8_t code;
  std::uint8_t bits;
  std::uint16_t lanes;
};

/// Wrap a block in a capsule for torch.from_dlpack() and others. The block is returned to its pool with their tensor.
pybind11::capsule to_dlpack(Block block, DLDataType type, std::vector<std::int64_t> shape);

}  // namespace l2m::bindings
