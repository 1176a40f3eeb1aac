#include "l2m/base/exact_sums.hpp"

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
