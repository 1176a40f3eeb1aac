#include "l2m/base/random.hpp"

#include <algorithm>
#include <bit>

namespace l2m {

std::uint32_t throw_some_dice(std::uint32_t bound, Sfc64& random, std::uint32_t dice[kMaxDice]) {
  auto count = static_cast<std::uint32_t>(std::clamp(58 / static_cast<int>(std::bit_width(bound)), 1, kMaxDice));
  if (count >= bound) count = 1;
  for (;;) {
    std::uint64_t rest = random(), all_sides = 1;
    for (std::uint32_t i = 0; i < count; ++i) {
      const std::uint64_t sides = bound - i;
      all_sides *= sides;
      const Product die = product(rest, sides);
      dice[i] = static_cast<std::uint32_t>(die.high);
      rest = die.low;
    }
    if (rest >= all_sides || rest >= (0 - all_sides) % all_sides) return count;
  }
}

}  // namespace l2m
