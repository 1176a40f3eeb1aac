#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <span>

namespace l2m {

/// 64-bit hash (FNV-1a) of bytes and numbers, the same on every machine. Inputs of equal length that differ in one byte
/// always have different hashes.
class Hash {
 public:
  void add(std::byte byte) { value_ = (value_ ^ std::to_integer<std::uint64_t>(byte)) * 0x100000001B3U; }
  void add(std::span<const std::byte> bytes) {
    for (const std::byte byte : bytes) add(byte);
  }
  void add(std::uint64_t number) {
    for (int shift = 0; shift < 64; shift += 8) add(static_cast<std::byte>(number >> shift));
  }
  void add(double number) { add(std::bit_cast<std::uint64_t>(number)); }

  [[nodiscard]] std::uint64_t value() const { return value_; }

 private:
  std::uint64_t value_ = 0xCBF29CE484222325U;
};

}  // namespace l2m
