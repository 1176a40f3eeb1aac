#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

/// Addressed randomness: every random number has an address, so nothing depends on who drew what before.
///
/// Philox4x64-10 (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3"). A stream is
/// (seed, purpose, a, b, c); its words equal NumPy's
/// `Philox(key=[seed, purpose], counter=[0, a, b, c]).random_raw(n)`, which is the witness in the tests.
namespace l2m {

/// What a stream of random numbers is for; the second word of the key.
enum class Purpose : std::uint64_t {
  kShuffle = 1,     ///< a = class, b = pass, c = 0: bucket of each row; c = 1 + bucket: swaps inside the bucket
  kDue = 2,         ///< a = class; word number `visit`
  kRankOffset = 3,  ///< a = epoch, b = step
  kBatchOrder = 4,  ///< a = epoch, b = step, c = rank
};

class RandomStream {
 public:
  RandomStream(std::uint64_t seed, Purpose purpose, std::uint64_t a, std::uint64_t b = 0, std::uint64_t c = 0)
      : key_{seed, static_cast<std::uint64_t>(purpose)}, address_{a, b, c} {}

  /// Words 4 * block to 4 * block + 3 of the stream.
  [[nodiscard]] std::array<std::uint64_t, 4> block(std::uint64_t block) const {
    std::array<std::uint64_t, 4> x{block + 1, address_[0], address_[1], address_[2]};  // + 1: NumPy counts first
    std::uint64_t key0 = key_[0];
    std::uint64_t key1 = key_[1];
    for (int round = 0; round < 10; ++round) {
      const Product p0 = multiply(0xD2E7470EE14C6C93U, x[0]);
      const Product p1 = multiply(0xCA5A826395121157U, x[2]);
      x = {p1.high ^ x[1] ^ key0, p1.low, p0.high ^ x[3] ^ key1, p0.low};
      key0 += 0x9E3779B97F4A7C15U;
      key1 += 0xBB67AE8584CAA73BU;
    }
    return x;
  }

  [[nodiscard]] std::uint64_t word(std::uint64_t index) const { return block(index / 4)[index % 4]; }

  /// Word `index` as a double in [0, 1).
  [[nodiscard]] double uniform(std::uint64_t index) const { return to_unit(word(index)); }
  static double to_unit(std::uint64_t word) { return static_cast<double>(word >> 11) * 0x1p-53; }

 private:
  struct Product {
    std::uint64_t high, low;
  };
  static Product multiply(std::uint64_t a, std::uint64_t b) {
    __extension__ using Wide = unsigned __int128;
    const Wide product = static_cast<Wide>(a) * b;
    return {static_cast<std::uint64_t>(product >> 64), static_cast<std::uint64_t>(product)};
  }

  std::array<std::uint64_t, 2> key_;
  std::array<std::uint64_t, 3> address_;
};

/// Unbiased integers below a bound, drawn one after the other from the 32-bit halves (low half first) of a stream.
class BoundedIntegers {
 public:
  explicit BoundedIntegers(const RandomStream& stream) : stream_(stream) {}

  /// A uniform integer in [0, bound), bound >= 1. Lemire 2019, "Fast random integer generation in an interval".
  std::uint32_t operator()(std::uint32_t bound) {
    std::uint64_t product = std::uint64_t{next()} * bound;
    if (static_cast<std::uint32_t>(product) < bound) [[unlikely]] {
      const std::uint32_t threshold = (0U - bound) % bound;
      while (static_cast<std::uint32_t>(product) < threshold) product = std::uint64_t{next()} * bound;
    }
    return static_cast<std::uint32_t>(product >> 32);
  }

 private:
  static constexpr std::size_t kHalves = 32;  // four blocks at a time: their multiplications overlap

  std::uint32_t next() {
    if (used_ == kHalves) refill();
    return halves_[used_++];
  }

  void refill() {
    for (std::size_t i = 0; i < kHalves / 8; ++i) {
      const auto words = stream_.block(next_block_++);
      for (std::size_t j = 0; j < 4; ++j) {
        halves_[8 * i + 2 * j] = static_cast<std::uint32_t>(words[j]);
        halves_[8 * i + 2 * j + 1] = static_cast<std::uint32_t>(words[j] >> 32);
      }
    }
    used_ = 0;
  }

  RandomStream stream_;
  std::uint64_t next_block_ = 0;
  std::size_t used_ = kHalves;
  std::array<std::uint32_t, kHalves> halves_;
};

/// Puts `count` items in a uniformly random order: swap_items(i, j) is called for i = count - 1 .. 1, j <= i.
template <class Swap>
void fisher_yates(std::uint32_t count, const RandomStream& stream, Swap&& swap_items) {
  BoundedIntegers bounded(stream);
  for (std::uint32_t i = count; i-- > 1;) swap_items(i, bounded(i + 1));
}

}  // namespace l2m
