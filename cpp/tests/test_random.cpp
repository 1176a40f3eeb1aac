#include "l2m/base/random.hpp"

#include <algorithm>
#include <array>
#include <cstdint>
#include <numeric>
#include <span>
#include <utility>
#include <vector>

#include "check.hpp"
#include "reference.hpp"

namespace l2m::test {
namespace {

constexpr std::uint64_t kOnes = ~std::uint64_t{0};

/// Known answers from kat_vectors of Random123 (philox4x64, 10 rounds).
void test_known_answers() {
  struct Known {
    std::array<std::uint64_t, 4> counter;
    std::array<std::uint64_t, 2> key;
    std::array<std::uint64_t, 4> words;
  };
  const Known known[] = {
      {{0, 0, 0, 0}, {0, 0}, {0x16554d9eca36314c, 0xdb20fe9d672d0fdc, 0xd7e772cee186176b, 0x7e68b68aec7ba23b}},
      {{kOnes, kOnes, kOnes, kOnes},
       {kOnes, kOnes},
       {0x87b092c3013fe90b, 0x438c3c67be8d0224, 0x9cc7d7c69cd777b6, 0xa09caebf594f0ba0}},
      {{0x243f6a8885a308d3, 0x13198a2e03707344, 0xa4093822299f31d0, 0x082efa98ec4e6c89},
       {0x452821e638d01377, 0xbe5466cf34e90c6c},
       {0xa528f45403e61d95, 0x38c72dbd566e9788, 0xa5a1610e72fd18b5, 0x57bd43b5e52b7fe6}},
  };
  for (const auto& [counter, key, words] : known) {
    const RandomStream stream(key[0], static_cast<Purpose>(key[1]), counter[1], counter[2], counter[3]);
    CHECK(stream.block(counter[0] - 1) == words);  // - 1: block 0 has counter 1
  }
}

void test_products_of_halves_equal_those_of_the_processor() {
  CHECK(portable_product(kOnes, kOnes) == Product{kOnes - 1, 1});
  CHECK(portable_product(kOnes, 0) == Product{0, 0});
  CHECK(portable_product(1U << 31, 0xFFFFFFFF00000000U) == Product{0x7FFFFFFFU, 0x8000000000000000U});
  CHECK(portable_product(0xFFFFFFFFU, 0x100000001U) == Product{0, kOnes});
  // Each half of a factor is small, any number, or close to 2^32.
  Sfc64 random = some_randomness(1);
  const auto some_half = [&] {
    constexpr std::uint64_t kHalf = 0xFFFFFFFFU;
    const std::uint64_t word = random();
    return word % 3 == 0 ? word >> 62 : word % 3 == 1 ? word >> 32 : kHalf - (word >> 62);
  };
  for (int i = 0; i < 100'000; ++i) {
    const std::uint64_t a = some_half() << 32 | some_half(), b = some_half() << 32 | some_half();
    CHECK(portable_product(a, b) == product(a, b));
  }
}

/// Words of np.random.Philox(key=[seed, purpose], counter=[0, a, b, c]).random_raw(9)
void test_streams_equal_those_of_numpy() {
  struct Known {
    RandomStream stream;
    std::array<std::uint64_t, 9> words;
  };
  const Known known[] = {
      {RandomStream(0, Purpose::kShuffle, 0),
       {0xd037f8c3f9a1d176, 0xc057419b4c210765, 0xabf13115117b0065, 0x7bae035dea6ea5c0, 0xb487ac82e7ddd46f,
        0x45e81edba7c59426, 0xd0a3831ebe9a338c, 0x90194c97f11d0dc3, 0x90cae1e1aecc68a9}},
      {RandomStream(12345, Purpose::kDue, 7),
       {0xb2a6f5c105aa2e4f, 0x0d7c5a315acaf2da, 0xb27c7c1776338835, 0xb2f2593f810f7343, 0xd0259084aefbaadb,
        0xc43b25945332eded, 0xa1b7722ae4650848, 0x844ee963a51f29bf, 0xb944d214557f8039}},
      {RandomStream(kOnes, Purpose::kRankOffset, 5, 1'000'000'000'000),
       {0xc35a9fff2863f139, 0x911b0c325bdc9cee, 0x9823112b41c40c43, 0xe3b46e955f6e6689, 0x5808b4c8fabda7db,
        0xd31000e206fb3e5d, 0x6ae2092067c31160, 0xebfadb026ac57a55, 0x1b61c94047674bf3}},
      {RandomStream(42, Purpose::kBatchOrder, 3, 2, 1),
       {0x61236f5d595589e8, 0x9e7cf8eefd9160b1, 0x15be14118e7e030e, 0x79d2421587e40a98, 0x389df3af132a8109,
        0x408449d6c5a92fb8, 0xd5691843bb83483e, 0xdb34619da5790b63, 0x64ae510053d1f4ee}},
  };
  for (const auto& [stream, words] : known)
    for (std::size_t i = 0; i < words.size(); ++i) CHECK(stream.word(i) == words[i]);
}

void test_quarters_are_chunks_of_words() {
  const RandomStream stream(1, Purpose::kDue, 2);
  for (const std::uint64_t index : {0U, 1U, 2U, 3U, 4U, 15U, 16U, 5U, 100U, 101U, 0U}) {
    CHECK(stream.quarters(index / 16)[index % 16] * 0x1p-16 == uniform(stream, index));
  }
}

/// Words of np.random.SFC64 with the state [a, b, c, 1], where a, b, c start the stream: random_raw(6)
void test_sequences_equal_those_of_numpy() {
  struct Known {
    RandomStream address;
    std::array<std::uint64_t, 6> words;
  };
  const Known known[] = {
      {RandomStream(0, Purpose::kShuffle, 0),
       {0x908f3a5f45c2d8dc, 0xcbca05311c9b86d4, 0xde223747b1c5c465, 0x59dd486589902aab, 0x2ae233df1940f33a,
        0xb57e5488e50e783a}},
      {RandomStream(12345, Purpose::kBucket, 7, 2, 9),
       {0x1daae639551763f3, 0xced2d9c9acf4d824, 0xeb4b9315d1e982bb, 0x5e9bc962cfaddeb3, 0x39aa0eef3cfca40a,
        0xd56860576974dd53}},
      {RandomStream(kOnes, Purpose::kBatchOrder, 3, 1'000'000'000'000),
       {0x0ae1d0f5d7044b2e, 0x97f971b87c445662, 0x0fbd5c8ad49da9c9, 0xea764ad254b16963, 0x2d8aea73ee16fb06,
        0xa94a280928e009f7}},
  };
  for (const auto& [address, words] : known) {
    Sfc64 random(address);
    for (const std::uint64_t word : words) CHECK(random() == word);
  }
}

template <int kDice>
void check_dice(std::uint32_t bound, Sfc64 random) {
  Sfc64 same = random;
  for (int i = 0; i < 1000; ++i) {
    std::vector<std::uint64_t> sides;
    for (std::uint32_t d = 0; d < kDice; ++d) sides.push_back(bound - d);
    const auto dice = throw_dice<kDice>(bound, random);
    CHECK(std::ranges::equal(dice, reference_dice(sides, same)));
  }
}

void test_dice_equal_the_reference() {
  // Products just above a power of two, for which every second word is rejected, and others.
  for (const std::uint32_t bound : {1U, 2U, 3U, 10U, 65536U, 1000003U, (1U << 31) + 1, 0xC0000000U, ~0U})
    check_dice<1>(bound, some_randomness(bound));
  for (const std::uint32_t bound : {2U, 3U, 70'000U, 0xB504F335U, ~0U}) check_dice<2>(bound, some_randomness(bound));
  for (const std::uint32_t bound : {3U, 10U, 2'080'900U, 2'600'000U}) check_dice<3>(bound, some_randomness(bound));
  for (const std::uint32_t bound : {8U, 9U, 100U, 259U}) check_dice<8>(bound, some_randomness(bound));
}

void test_dice_are_uniform() {
  // Three dice together: 7 * 6 * 5 cells.
  std::array<int, 210> count{};
  Sfc64 random = some_randomness(7);
  for (int i = 0; i < 210'000; ++i) {
    const auto dice = throw_dice<3>(7, random);
    ++count[(dice[0] * 6 + dice[1]) * 5 + dice[2]];
  }
  double chi2 = 0;
  for (const int c : count) chi2 += (c - 1000.0) * (c - 1000.0) / 1000.0;
  CHECK(chi2 < 277.0);  // p = 0.001 with 209 degrees of freedom
}

/// Not inline: gcc 12 would warn of swaps in a vector larger than 32 bits can address.
[[gnu::noinline]] std::vector<std::uint32_t> ascending(std::uint32_t size) {
  std::vector<std::uint32_t> items(size);
  std::iota(items.begin(), items.end(), 0U);
  return items;
}

void test_fisher_yates_equals_the_reference() {
  for (const std::uint32_t size :
       {0U, 1U, 2U, 3U, 8U, 9U, 10U, 100U, 127U, 128U, 136U, 1000U, 5000U, 16'407U, 70'000U, 600'000U}) {
    std::vector<std::uint32_t> items = ascending(size);
    std::vector<std::uint32_t> expected = items;
    fisher_yates(std::span(items), some_randomness(size));
    reference_fisher_yates(std::span(expected), some_randomness(size));
    CHECK(items == expected);
  }
}

}  // namespace
}  // namespace l2m::test

int main() {
  l2m::test::test_known_answers();
  l2m::test::test_products_of_halves_equal_those_of_the_processor();
  l2m::test::test_streams_equal_those_of_numpy();
  l2m::test::test_quarters_are_chunks_of_words();
  l2m::test::test_sequences_equal_those_of_numpy();
  l2m::test::test_dice_equal_the_reference();
  l2m::test::test_dice_are_uniform();
  l2m::test::test_fisher_yates_equals_the_reference();
}
