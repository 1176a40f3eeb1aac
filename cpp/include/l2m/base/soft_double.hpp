#pragma once

#include <bit>
#include <cstdint>

/// Sums of doubles and conversions to double, by integers only: numbers are given by their bits.
namespace l2m::soft {

inline constexpr std::uint64_t kSign = std::uint64_t{1} << 63;
inline constexpr std::uint64_t kHidden = std::uint64_t{1} << 52;  // bit of a significand that is not stored
inline constexpr int kInfinite = 0x7FF;                           // exponent

/// Shift right, and set the last bit if a one was lost. @param by  >= 0.
constexpr std::uint64_t shifted(std::uint64_t x, int by) {
  return by > 63 ? x != 0 : x >> by | (x << (63 - by) << 1 != 0 ? 1 : 0);
}

/// Round a significand, whose last bit may stand for any nonzero rest, to a double.
/// @param exponent  that of the result if the first bit of the significand is set.
constexpr std::uint64_t rounded(std::uint64_t sign, int exponent, std::uint64_t significand) {
  if (significand == 0) return sign;
  const int zeros = std::countl_zero(significand);
  significand <<= zeros;
  exponent -= zeros;
  if (exponent >= kInfinite) return sign | std::uint64_t{kInfinite} << 52;
  if (exponent < 1) significand = shifted(significand, 1 - exponent);  // subnormal
  const std::uint64_t above = exponent < 1 ? 0 : static_cast<std::uint64_t>(exponent - 1) << 52;
  const std::uint64_t bits = above + (significand >> 11);  // the hidden bit adds 1 to the exponent
  const std::uint64_t rest = significand & 0x7FF;
  return (sign | bits) + (rest + (bits & 1) > 0x400 ? 1 : 0);
}

constexpr std::uint64_t add(std::uint64_t a, std::uint64_t b) {
  if ((a & ~kSign) < (b & ~kSign)) return add(b, a);
  const auto exponent_of = [](std::uint64_t x) { return static_cast<int>(x >> 52) & kInfinite; };
  const std::uint64_t sign = a & kSign;
  const bool differs = ((a ^ b) & kSign) != 0;
  if (exponent_of(a) == kInfinite) {
    const bool is_nan = (a & (kHidden - 1)) != 0 || (a ^ b) == kSign;
    return is_nan ? a | kHidden >> 1 : a;
  }
  // Ten bits follow the last one: two decide, and the last one tells whether any other is set.
  const auto significand_of = [&](std::uint64_t x) {
    return ((x & (kHidden - 1)) | (exponent_of(x) == 0 ? 0 : kHidden)) << 10;
  };
  const auto scale_of = [&](std::uint64_t x) { return exponent_of(x) == 0 ? 1 : exponent_of(x); };
  const std::uint64_t larger = significand_of(a), smaller = shifted(significand_of(b), scale_of(a) - scale_of(b));
  if (differs && larger == smaller) return 0;
  return rounded(sign, scale_of(a) + 1, differs ? larger - smaller : larger + smaller);
}

constexpr std::uint64_t from_integer(std::uint64_t x) { return rounded(0, 1023 + 63, x); }
constexpr std::uint64_t from_integer(std::int64_t x) {
  const auto magnitude = static_cast<std::uint64_t>(x);
  return x < 0 ? kSign | from_integer(0 - magnitude) : from_integer(magnitude);
}

constexpr std::uint64_t from_float(std::uint32_t x) {
  const std::uint64_t sign = std::uint64_t{x >> 31} << 63, fraction = x & 0x7FFFFFU;
  const int exponent = static_cast<int>(x >> 23 & 0xFF);
  if (exponent == 0) return rounded(sign, 1023 - 149 + 63, fraction);
  if (exponent < 0xFF) return sign | (static_cast<std::uint64_t>(exponent + 1023 - 127) << 52) | fraction << 29;
  return sign | std::uint64_t{kInfinite} << 52 | fraction << 29 | (fraction != 0 ? kHidden >> 1 : 0);
}

}  // namespace l2m::soft
