#pragma once

#include <bit>
#include <cstdint>

namespace l2m {

/// IEEE 754 half precision and bfloat16, by their bits.
struct Float16 {
  std::uint16_t bits;
};
struct BFloat16 {
  std::uint16_t bits;
};

// Free of branches, so that loops over them can be vectorized. Rounding is to nearest, ties to even.

inline double widen(double x) { return x; }
inline float widen(float x) { return x; }
inline float widen(BFloat16 x) { return std::bit_cast<float>(std::uint32_t{x.bits} << 16); }
inline float widen(Float16 x) {
  constexpr std::uint32_t kInfinity = 0x7F800000;
  const std::uint32_t magnitude = (x.bits & 0x7FFFU) << 13;
  const float scaled = std::bit_cast<float>(magnitude) * 0x1p112F;  // subnormal numbers too
  const std::uint32_t special = magnitude >= 0x7C00U << 13 ? kInfinity : 0;
  return std::bit_cast<float>(std::bit_cast<std::uint32_t>(scaled) | special | (x.bits & 0x8000U) << 16);
}

/// Type in which to compute with a Float.
template <class Float>
using Wide = decltype(widen(Float{}));

template <class Float>
Float round_to(Wide<Float> x) {
  return x;
}
template <>
inline BFloat16 round_to<BFloat16>(float x) {
  const auto bits = std::bit_cast<std::uint32_t>(x);
  const std::uint32_t rounded = (bits + 0x7FFF + (bits >> 16 & 1)) >> 16;
  const bool is_nan = (bits & 0x7FFFFFFFU) > 0x7F800000U;
  return {static_cast<std::uint16_t>(is_nan ? 0x7FC0 : rounded)};
}
template <>
inline Float16 round_to<Float16>(float x) {
  constexpr std::uint32_t kInfinity = 0x7F800000;
  constexpr std::uint32_t kSmallestNormal = 0x38800000;  // 2^-14
  constexpr std::uint32_t kBeyondLargest = 0x477FF000;   // 65520, the smallest float that rounds to infinity
  const auto bits = std::bit_cast<std::uint32_t>(x);
  const std::uint32_t magnitude = bits & 0x7FFFFFFFU;
  const std::uint32_t normal = (magnitude - (112U << 23) + 0xFFF + (magnitude >> 13 & 1)) >> 13;
  // At 0.5 the last bit of a float has the weight 2^-24, the smallest half: the addition rounds.
  const std::uint32_t subnormal = std::bit_cast<std::uint32_t>(std::bit_cast<float>(magnitude) + 0.5F) - 0x3F000000U;
  const std::uint32_t special = magnitude > kInfinity ? 0x7E00 : 0x7C00;
  const std::uint32_t finite = magnitude < kSmallestNormal ? subnormal : normal;
  return {static_cast<std::uint16_t>((magnitude >= kBeyondLargest ? special : finite) | (bits >> 16 & 0x8000U))};
}

}  // namespace l2m
