#pragma once

#include <bit>
#include <cmath>
#include <cstdint>

// Also compiled as device code.
#if defined(__CUDACC__)
#define L2M_HOST_DEVICE __host__ __device__
#else
#define L2M_HOST_DEVICE
#endif

/// Exact sums of floats: integers, which give the same bits in any order of addition.
///
/// A finite float is m * 2^(p - 149) with |m| < 2^24 and p in [0, 253]. A sum has 9 digits in base 2^32; digit i has
/// the weight 2^(32 i - 149). Each digit is a signed 64-bit integer, so 2^31 floats can be added before a digit
/// overflows.
namespace l2m {

inline constexpr int kSumDigits = 9;

/// Digits of one float: up to three in base 2^16, with one sign. The first has the weight 2^(16 first - 149).
struct HalfDigits {
  int first = 0;
  std::int32_t digit[3] = {0, 0, 0};

  /// Return the digit of a sum to which digit i belongs (place) and the value to add there.
  [[nodiscard]] L2M_HOST_DEVICE int place(int i) const { return (first + i) / 2; }
  [[nodiscard]] L2M_HOST_DEVICE std::int64_t value(int i) const {
    return std::int64_t{digit[i]} * ((first + i) % 2 == 0 ? 1 : 65536);
  }
};

/// Split a float into digits. @param x  finite.
L2M_HOST_DEVICE inline HalfDigits half_digits(float x) {
#if defined(__CUDA_ARCH__)
  const std::uint32_t bits = __float_as_uint(x);
#else
  const auto bits = std::bit_cast<std::uint32_t>(x);
#endif
  const std::uint32_t exponent = (bits >> 23) & 0xFFU;
  const std::uint32_t fraction = bits & 0x7FFFFFU;
  const std::uint32_t place = exponent == 0 ? 0 : exponent - 1;
  const std::uint64_t shifted = std::uint64_t{exponent == 0 ? fraction : fraction | 0x800000U} << (place % 16);
  const std::int32_t sign = (bits >> 31) != 0 ? -1 : 1;
  HalfDigits digits;
  digits.first = static_cast<int>(place / 16);
  for (int i = 0; i < 3; ++i) digits.digit[i] = sign * static_cast<std::int32_t>((shifted >> (16 * i)) & 0xFFFFU);
  return digits;
}

/// Floats that add up to one loss, nearest first. Three hold every bit of a double down to 2^-149.
struct Pieces {
  int count = 1;
  float piece[3] = {0, 0, 0};
};

L2M_HOST_DEVICE inline Pieces pieces_of(float x) { return {1, {x, 0, 0}}; }
L2M_HOST_DEVICE inline Pieces pieces_of(double x) {
  const auto first = static_cast<float>(x);
  const double rest = x - static_cast<double>(first);
  const auto second = static_cast<float>(rest);
  return {3, {first, second, static_cast<float>(rest - static_cast<double>(second))}};
}

/// Return the double nearest to a sum, ties to even.
///
/// @param digits  [kSumDigits]
L2M_HOST_DEVICE inline double nearest_double(const std::int64_t* digits) {
  // Convert to 32-bit digits; the last one is signed and takes the remaining carry.
  std::uint32_t words[kSumDigits + 2];
  std::int64_t carry = 0;
  for (int i = 0; i < kSumDigits; ++i) {
    carry += digits[i];
    words[i] = static_cast<std::uint32_t>(carry);
    carry >>= 32;
  }
  words[kSumDigits] = static_cast<std::uint32_t>(carry);
  words[kSumDigits + 1] = static_cast<std::uint32_t>(carry >> 32);
  const bool negative = carry < 0;
  if (negative) {
    std::uint64_t borrow = 1;
    for (std::uint32_t& word : words) {
      borrow += static_cast<std::uint32_t>(~word);
      word = static_cast<std::uint32_t>(borrow);
      borrow >>= 32;
    }
  }
  int top = kSumDigits + 1;
  while (top > 1 && words[top] == 0) --top;
  // The leading 64 bits, with the last bit set if any nonzero bit follows: enough to round to 53 bits.
  std::uint64_t high = (std::uint64_t{words[top]} << 32) | words[top - 1];
  std::uint32_t rest = top > 1 ? words[top - 2] : 0;
  int place = 32 * (top - 1);
  while (high != 0 && (high >> 63) == 0) {
    high = (high << 1) | (rest >> 31);
    rest <<= 1;
    --place;
  }
  bool follows = rest != 0;
  for (int i = 0; i < top - 2; ++i) follows = follows || words[i] != 0;
  if (follows) high |= 1U;
  return (negative ? -1.0 : 1.0) * std::ldexp(static_cast<double>(high), place - 149);
}

}  // namespace l2m
