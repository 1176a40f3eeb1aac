#pragma once

#include <pybind11/pybind11.h>

#include <cstdint>
#include <vector>

#include "l2m/run/block_pool.hpp"

namespace l2m::bindings {

/// DLPack's element type: code 0 int, 1 uint, 2 float, 4 bfloat16, 5 complex, 6 bool.
struct DLDataType {
  std::uint8_t code;
  std::uint8_t bits;
  std::uint16_t lanes;
};

/// A capsule by which torch.from_dlpack and its like take over a block; the block goes back when their tensor dies.
pybind11::capsule to_dlpack(Block block, DLDataType type, std::vector<std::int64_t> shape);

}  // namespace l2m::bindings
