#include "l2m/base/text.hpp"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>

namespace l2m {
namespace {

/// Unsigned integer of at most 1216 bits, enough for every double times a power of ten near it.
class Large {
 public:
  explicit Large(std::uint64_t value) {
    words_[0] = static_cast<std::uint32_t>(value);
    words_[1] = static_cast<std::uint32_t>(value >> 32);
  }

  void multiply(std::uint32_t factor) {
    std::uint64_t carry = 0;
    for (std::uint32_t& word : words_) {
      carry += std::uint64_t{word} * factor;
      word = static_cast<std::uint32_t>(carry);
      carry >>= 32;
    }
  }
  void shift_left(int bits) {
    for (; bits >= 16; bits -= 16) multiply(1U << 16);
    multiply(1U << bits);
  }
  [[nodiscard]] Large plus(const Large& other) const {
    Large sum(0);
    std::uint64_t carry = 0;
    for (std::size_t i = 0; i < words_.size(); ++i) {
      carry += std::uint64_t{words_[i]} + other.words_[i];
      sum.words_[i] = static_cast<std::uint32_t>(carry);
      carry >>= 32;
    }
    return sum;
  }
  /// Subtract a number that is not larger.
  void subtract(const Large& other) {
    std::uint64_t borrow = 0;
    for (std::size_t i = 0; i < words_.size(); ++i) {
      const std::uint64_t difference = std::uint64_t{words_[i]} - other.words_[i] - borrow;
      words_[i] = static_cast<std::uint32_t>(difference);
      borrow = difference >> 63;
    }
  }
  [[nodiscard]] bool operator<(const Large& other) const {
    return std::lexicographical_compare(words_.rbegin(), words_.rend(), other.words_.rbegin(), other.words_.rend());
  }

 private:
  std::array<std::uint32_t, 38> words_{};  // lowest first
};

/// Digits d1 d2 ... of the number 0.d1d2... * 10^exponent.
struct Decimal {
  std::string digits;
  int exponent = 0;
};

/// Return the shortest digits that identify a number > 0 (Burger, Dybvig 1996, "Printing floating-point numbers quickly
/// and accurately").
Decimal shortest(double number) {
  constexpr std::uint64_t kHidden = std::uint64_t{1} << 52;
  const auto bits = std::bit_cast<std::uint64_t>(number);
  const auto biased = static_cast<int>(bits >> 52);
  const std::uint64_t fraction = bits & (kHidden - 1);
  const std::uint64_t significand = biased == 0 ? fraction : fraction | kHidden;
  const int exponent = std::max(biased, 1) - 1075;
  const bool even = significand % 2 == 0;                       // the ends of the interval round to the number
  const int close_below = fraction == 0 && biased > 1 ? 1 : 0;  // the next smaller double is twice as close
  // The number is value / unit; numbers less than below / unit and above / unit away round to it.
  Large value(significand), unit(1), below(1), above(1);
  value.shift_left(1 + close_below + std::max(exponent, 0));
  unit.shift_left(1 + close_below + std::max(-exponent, 0));
  below.shift_left(std::max(exponent, 0));
  above.shift_left(close_below + std::max(exponent, 0));
  const auto reaches = [&](const Large& amount, const Large& limit) {
    return even ? !(amount < limit) : limit < amount;
  };
  const auto scale = [&] {
    for (Large* one : {&value, &below, &above}) one->multiply(10);
  };
  Decimal decimal;
  for (; reaches(value.plus(above), unit); ++decimal.exponent) unit.multiply(10);
  for (scale(); !reaches(value.plus(above), unit); scale()) --decimal.exponent;
  for (;; scale()) {
    char digit = '0';
    for (; !(value < unit); ++digit) value.subtract(unit);
    const bool low = even ? !(below < value) : value < below;
    const bool high = reaches(value.plus(above), unit);
    if (high && (!low || !(value.plus(value) < unit))) ++digit;
    decimal.digits += digit;
    if (low || high) return decimal;
  }
}

}  // namespace

std::string to_text(double number) {
  if (std::isnan(number)) return "nan";
  std::string text(number < 0 ? 1 : 0, '-');
  if (number == 0 || std::isinf(number)) return text.append(number == 0 ? "0" : "inf");
  const auto [digits, exponent] = shortest(std::abs(number));
  const auto zeros = [&](int count) { text.append(static_cast<std::size_t>(std::max(count, 0)), '0'); };
  const bool scientific = exponent > 17 || exponent < -4;
  const int point = scientific ? 1 : exponent;  // digits before it
  if (point <= 0) text.append("0.");
  zeros(-point);
  for (int i = 0; i < static_cast<int>(digits.size()); ++i) {
    if (i > 0 && i == point) text.push_back('.');
    text.push_back(digits[static_cast<std::size_t>(i)]);
  }
  zeros(point - static_cast<int>(digits.size()));
  if (scientific) text.append("e").append(std::to_string(exponent - 1));
  return text;
}

std::string to_hex(std::uint64_t number) {
  std::string text(16, '0');
  for (auto digit = text.rbegin(); digit != text.rend(); ++digit, number >>= 4)
    *digit = "0123456789abcdef"[number & 15];
  return text;
}

}  // namespace l2m
