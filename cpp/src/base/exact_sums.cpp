#include "l2m/base/exact_sums.hpp"

#include <algorithm>
#include <cmath>

namespace l2m {

void ExactSum::add(double x) {
  const auto bits = std::bit_cast<std::uint64_t>(x);
  const auto exponent = static_cast<int>((bits >> 52) & 0x7FF);
  if (exponent == 0) return;  // far below 2^-149
  std::uint64_t fraction = (bits & 0xFFFFFFFFFFFFF) | (std::uint64_t{1} << 52);
  int place = exponent - 1075 + 149;
  if (place < 0) {
    const int dropped = std::min(-place, 54);
    const std::uint64_t rest = fraction & ((std::uint64_t{1} << dropped) - 1), half = std::uint64_t{1} << (dropped - 1);
    fraction >>= dropped;
    fraction += static_cast<std::uint64_t>(rest > half || (rest == half && (fraction & 1) == 1));  // ties to even
    place = 0;
  }
  const std::int64_t sign = (bits >> 63) != 0 ? -1 : 1;
  const auto low = static_cast<std::int64_t>((fraction & 0xFFFFFFFF) << (place % 32));
  const auto high = static_cast<std::int64_t>((fraction >> 32) << (place % 32));
  std::int64_t* const at = &digit[place / 32];
  if (place / 32 + 2 < kSumDigits) {
    at[0] += sign * (low & 0xFFFFFFFF);
    at[1] += sign * ((low >> 32) + (high & 0xFFFFFFFF));
    at[2] += sign * (high >> 32);
  } else if (place / 32 + 2 == kSumDigits) {
    at[0] += sign * (low & 0xFFFFFFFF);
    at[1] += sign * ((low >> 32) + high);
  } else {
    at[0] += sign * (low + (high << 32));
  }
}

double ExactSum::nearest() const {
  // Convert to 32-bit digits; the last one is signed and takes the remaining carry.
  std::uint32_t words[kSumDigits + 2];
  std::int64_t carried = 0;
  for (int i = 0; i < kSumDigits; ++i) {
    carried += digit[i];
    words[i] = static_cast<std::uint32_t>(carried);
    carried >>= 32;
  }
  words[kSumDigits] = static_cast<std::uint32_t>(carried);
  words[kSumDigits + 1] = static_cast<std::uint32_t>(carried >> 32);
  const bool negative = carried < 0;
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

std::vector<double> ExactSum::terms() const {
  std::vector<double> terms;
  ExactSum rest = *this;
  for (double x = rest.nearest(); x != 0; x = rest.nearest()) {
    terms.push_back(x);
    rest.add(-x);
    rest.carry();
  }
  return terms;
}

}  // namespace l2m
