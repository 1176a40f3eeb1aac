#pragma once

#include <bit>
#include <cstdint>
#include <vector>

// Also compiled as device code.
#if defined(__CUDACC__)
#define L2M_HOST_DEVICE __host__ __device__
#else
#define L2M_HOST_DEVICE
#endif

/// Exact sums of floats: integers, which give the same bits in any order of addition.
///
/// A finite float is m * 2^(p - 149) with |m| < 2^24 and p in [0, 253]. A sum has 9 digits in base 2^32; digit i has
/// the weight 2^(32 i - 149). Each digit is a signed 64-bit integer, so 2^31 floats, or a third as many doubles,
/// can be added before a digit overflows.
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

/// Exact sum of floats on the host. Its digits may be carried or not; only sums with carried digits can be compared.
struct ExactSum {
  /// Number of values that can be added to carried digits before they must be carried again.
  static constexpr std::int64_t kMaxAdditions = 1 << 28;
  /// Limit of a sum, which is clamped to it: 2^40 times the largest float.
  static constexpr double kLargest = 0x1p168;

  std::int64_t digit[kSumDigits] = {};

  /// Add a float. @param x  finite.
  void add(float x) {
    const auto bits = std::bit_cast<std::uint32_t>(x);
    const std::uint32_t exponent = (bits >> 23) & 0xFFU;
    const std::uint32_t place = exponent - static_cast<std::uint32_t>(exponent != 0);
    const std::uint64_t fraction = (bits & 0x7FFFFFU) | (std::uint64_t{exponent != 0} << 23);
    const std::uint64_t shifted = fraction << (place % 32);
    const std::int64_t sign = -static_cast<std::int64_t>(bits >> 31);  // 0 or -1: (x ^ sign) - sign negates x
    digit[place / 32] += (static_cast<std::int64_t>(shifted & 0xFFFFFFFF) ^ sign) - sign;
    digit[place / 32 + 1] += (static_cast<std::int64_t>(shifted >> 32) ^ sign) - sign;
  }
  /// Add a double, rounded to a multiple of 2^-149, ties to even. @param x  in [-kLargest, kLargest].
  void add(double x);
  /// Add another sum. Both must have been carried at most kMaxAdditions values ago; carries the result.
  void add(const ExactSum& other) {
    for (int i = 0; i < kSumDigits; ++i) digit[i] += other.digit[i];
    carry();
  }
  /// Make all digits but the last smaller than 2^32 and not negative, so that equal sums have equal digits. Clamp the
  /// sum.
  void carry() {
    for (int i = 0; i + 1 < kSumDigits; ++i) {
      digit[i + 1] += digit[i] >> 32;
      digit[i] &= 0xFFFFFFFF;
    }
    constexpr std::int64_t kMax = std::int64_t{1} << 61;
    if (digit[kSumDigits - 1] > -kMax && digit[kSumDigits - 1] < kMax) return;
    const std::int64_t last = digit[kSumDigits - 1] < 0 ? -kMax : kMax;
    *this = {};
    digit[kSumDigits - 1] = last;
  }

  /// Return the nearest double, ties to even.
  [[nodiscard]] double nearest() const;
  /// Return the doubles of which this is the sum, the largest first: one or two for most sums of losses.
  [[nodiscard]] std::vector<double> terms() const;
  bool operator==(const ExactSum&) const = default;
};

}  // namespace l2m
