#include "l2m/base/random.hpp"

#include <algorithm>
#include <bit>

namespace l2m {

std::uint32_t throw_some_dice(std::uint32_t bound, Sfc64& random, std::uint32_t dice[kMaxDice]) {
  auto count = static_cast<std::uint32_t>(std::clamp(58 / static_cast<int>(std::bit_width(bound)), 1, kMaxDice));
  if (count >= bound) count = 1;
  for (;;) {
    std::uint64_t rest = random(), product = 1;
    for (std::uint32_t i = 0; i < count; ++i) {
      const std::uint64_t sides = bound - i;
      product *= sides;
      // The high half of rest * sides, whose low half is the rest.
      const std::uint64_t low = (rest & 0xFFFFFFFFU) * sides;
      dice[i] = static_cast<std::uint32_t>(((rest >> 32) * sides + (low >> 32)) >> 32);
      rest *= sides;
    }
    if (rest >= product || rest >= (0 - product) % product) return count;
  }
}

}  // namespace l2m
