#pragma once

#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <span>
#include <type_traits>
#include <utility>

#include "l2m/base/compact.hpp"
#include "l2m/base/product.hpp"

/// Addressed randomness: every random number has an address, so that results do not depend on the order of draws.
///
/// The generator is Philox4x64-10 (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3"). A stream is
/// addressed by (seed, purpose, a, b, c). Its words equal NumPy's
/// `Philox(key=[seed, purpose], counter=[0, a, b, c]).random_raw(n)`, against which the tests compare them.
namespace l2m {

/// Purpose of a random stream; the second word of its key.
enum class Purpose : std::uint64_t {
  kShuffle = 1,     ///< a = class, b = pass, c = bucket: swaps inside the bucket
  kDue = 2,         ///< a = class; 16-bit chunk number `visit`
  kRankOffset = 3,  ///< a = epoch, b = step
  kBatchOrder = 4,  ///< a = epoch, b = step, c = rank
  kBucket = 5,      ///< a = class, b = pass, c = part: bucket of each row of the part
};

class RandomStream {
 public:
  RandomStream(std::uint64_t seed, Purpose purpose, std::uint64_t a, std::uint64_t b = 0, std::uint64_t c = 0)
      : key_{seed, static_cast<std::uint64_t>(purpose)}, address_{a, b, c} {}

  /// Return words 4 * block to 4 * block + 3 of the stream.
  [[nodiscard]] std::array<std::uint64_t, 4> block(std::uint64_t block) const {
    std::array<std::uint64_t, 4> x{block + 1, address_[0], address_[1], address_[2]};  // as NumPy: + 1 first
    std::uint64_t key0 = key_[0];
    std::uint64_t key1 = key_[1];
    for (int round = 0; round < 10; ++round) {
      const Product p0 = product(0xD2E7470EE14C6C93U, x[0]);
      const Product p1 = product(0xCA5A826395121157U, x[2]);
      x = {p1.high ^ x[1] ^ key0, p1.low, p0.high ^ x[3] ^ key1, p0.low};
      key0 += 0x9E3779B97F4A7C15U;
      key1 += 0xBB67AE8584CAA73BU;
    }
    return x;
  }

  [[nodiscard]] std::uint64_t word(std::uint64_t index) const { return block(index / 4)[index % 4]; }

  /// Return 16-bit chunks 16 * block to 16 * block + 15 of the words, the lowest of each word first.
  [[nodiscard]] std::array<std::uint16_t, 16> quarters(std::uint64_t block) const {
    const std::array<std::uint64_t, 4> words = this->block(block);
    std::array<std::uint16_t, 16> quarters;
    for (std::size_t i = 0; i < quarters.size(); ++i)
      quarters[i] = static_cast<std::uint16_t>(words[i / 4] >> (16 * (i % 4)));
    return quarters;
  }

 private:
  std::array<std::uint64_t, 2> key_;
  std::array<std::uint64_t, 3> address_;
};

/// SFC64 (Doty-Humphrey 2010, "PractRand"): a sequential generator, much faster than Philox.
///
/// For loops that consume many words in order. The first three words of a stream give its a, b and c; the counter
/// starts at 1. The tests compare it with NumPy's `SFC64` set to the same state.
class Sfc64 {
 public:
  explicit Sfc64(const RandomStream& stream) {
    const auto words = stream.block(0);
    a_ = words[0];
    b_ = words[1];
    c_ = words[2];
  }

  std::uint64_t operator()() {
    const std::uint64_t word = a_ + b_ + counter_++;
    a_ = b_ ^ (b_ >> 11);
    b_ = c_ + (c_ << 3);
    c_ = std::rotl(c_, 24) + word;
    return word;
  }

 private:
  std::uint64_t a_, b_, c_;
  std::uint64_t counter_ = 1;
};

constexpr int kMaxDice = 8;

/// Throw `kDice` dice with bound, bound - 1, ... sides, whose product must be below 2^64.
///
/// Returns independent uniform integers in [0, sides), nearly always from a single word. Brackett-Rozinsky, Lemire
/// 2024, "Batched ranged random integer generation".
template <int kDice>
std::array<std::uint32_t, kDice> throw_dice(std::uint32_t bound, Sfc64& random) {
  std::array<std::uint32_t, kDice> dice;
  for (;;) {
    std::uint64_t rest = random();
    std::uint64_t all_sides = 1;
    for (std::uint32_t i = 0; i < kDice; ++i) {
      std::uint64_t sides = bound - i;
#if defined(__SIZEOF_INT128__)
      __asm__("" : "+r"(sides));  // gcc 12 would count `sides` down in 128 bits, 1.5 times as slow
#endif
      all_sides *= sides;
      const Product die = product(rest, sides);
      dice[i] = static_cast<std::uint32_t>(die.high);
      rest = die.low;
    }
    if (rest >= all_sides || rest >= (0 - all_sides) % all_sides) [[likely]]
      return dice;
  }
}

/// Throw as many dice as fisher_yates() does for `bound` items. Return their number.
std::uint32_t throw_some_dice(std::uint32_t bound, Sfc64& random, std::uint32_t dice[kMaxDice]);

/// Place items bound - 1, bound - 2, ..., kDice * kThrows at a time, down to the bounds for which one throw has more
/// dice. Return the remaining bound.
///
/// A throw has 58 / bit_width(bound) dice, between 1 and kMaxDice, so that words are rarely rejected.
template <int kDice, int kThrows, class Item>
std::uint32_t place_items(Item* items, std::uint32_t bound, Sfc64& random) {
  constexpr std::uint32_t kMinBound = kDice == kMaxDice ? kMaxDice + 1 : std::uint32_t{1} << (58 / (kDice + 1));
  for (; bound >= kMinBound + kDice * (kThrows - 1); bound -= kDice * kThrows) {
    std::array<std::uint32_t, kDice> dice[kThrows];
    for (std::uint32_t t = 0; t < kThrows; ++t) {
      dice[t] = throw_dice<kDice>(bound - t * kDice, random);
      if (kThrows == 1) continue;
      for (const std::uint32_t die : dice[t]) __builtin_prefetch(items + die, 1);
    }
    for (std::uint32_t t = 0; t < kThrows; ++t)
      for (std::uint32_t i = 0; i < kDice; ++i) std::swap(items[bound - 1 - t * kDice - i], items[dice[t][i]]);
  }
  return bound;
}

/// Shuffle at most 2^32 - 1 items uniformly (Fisher, Yates 1938; Durstenfeld 1964).
template <class Item>
void fisher_yates(std::span<Item> items, Sfc64 random) {
  auto bound = static_cast<std::uint32_t>(items.size());
  if constexpr (kCompact) {
    while (bound > 1) {
      std::uint32_t dice[kMaxDice];
      const std::uint32_t count = throw_some_dice(bound, random, dice);
      for (std::uint32_t i = 0; i < count; ++i) std::swap(items[--bound], items[dice[i]]);
    }
    return;
  }
  const auto place = [&]<int kDice>(std::integral_constant<int, kDice>) {
    // Throws of few dice occur with many items, which exceed the nearest caches. Eight throws ahead are 1.4 times as
    // fast for 500,000 items of 4 bytes (AMD EPYC, 2026-11).
    if (kDice <= 3) bound = place_items<kDice, 8>(items.data(), bound, random);
    bound = place_items<kDice, 1>(items.data(), bound, random);
  };
  [&]<int... kDice>(std::integer_sequence<int, kDice...>) {
    (place(std::integral_constant<int, 1 + kDice>{}), ...);
  }(std::make_integer_sequence<int, kMaxDice>{});
  for (; bound > 1; --bound) std::swap(items[bound - 1], items[throw_dice<1>(bound, random)[0]]);
}

}  // namespace l2m
