#pragma once

#include <bit>
#include <cmath>
#include <cstdint>

// Also compiled for the device, where the same arithmetic runs.
#if defined(__CUDACC__)
#define L2M_HOST_DEVICE __host__ __device__
#else
#define L2M_HOST_DEVICE
#endif

/// Sums of floats without rounding: integers, which may be added in any order and give the same bits.
///
/// A finite float is m * 2^(p - 149) with |m| < 2^24 and p in [0, 253]. A sum is a number of 9 digits in base 2^32, digit
/// i counting 2^(32 i - 149), each kept in 64 signed bits, so that 2^31 floats may be added before a digit overflows.
namespace l2m {

inline constexpr int kSumDigits = 9;

/// What a float adds: up to three digits in base 2^16, of one sign, the first of them counting 2^(16 first - 149).
struct HalfDigits {
  int first = 0;
  std::int32_t digit[3] = {0, 0, 0};

  /// The digit of a sum to which digit i belongs, and what it adds there.
  [[nodiscard]] L2M_HOST_DEVICE int place(int i) const { return (first + i) / 2; }
  [[nodiscard]] L2M_HOST_DEVICE std::int64_t value(int i) const {
    return std::int64_t{digit[i]} * ((first + i) % 2 == 0 ? 1 : 65536);
  }
};

/// @param x  finite.
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

/// A loss as floats that add up to it, the first being the nearest: three hold every bit of a double from 2^-149 up.
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

/// The double nearest to a sum, ties to even.
///
/// @param digits  [kSumDigits]
L2M_HOST_DEVICE inline double nearest_double(const std::int64_t* digits) {
  // To digits of 32 bits, the last one signed and carrying what is beyond them all.
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
  // The first 64 bits, the last of them also saying whether any follow: more than rounding to 53 needs.
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
