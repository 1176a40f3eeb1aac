#include "l2m/philox.hpp"

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

/// kat_vectors of Random123 (philox4x64, 10 rounds).
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

/// np.random.Philox(key=[seed, purpose], counter=[0, a, b, c]).random_raw(9)
void test_streams_are_those_of_numpy() {
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

void test_uniform_is_in_the_unit_interval() {
  CHECK(RandomStream::to_unit(0) == 0.0);
  CHECK(RandomStream::to_unit(kOnes) == 1.0 - 0x1p-53);
  CHECK(RandomStream::to_unit(std::uint64_t{1} << 63) == 0.5);
  const RandomStream stream(1, Purpose::kDue, 2);
  CHECK(stream.uniform(5) == static_cast<double>(stream.word(5) >> 11) / 9007199254740992.0);
}

void test_bounded_integers_are_those_of_the_reference() {
  // Just above a power of two every second draw is refused.
  for (const std::uint32_t bound : {1U, 2U, 3U, 10U, 65536U, 1000003U, (1U << 31) + 1, 0xC0000000U, ~0U}) {
    const RandomStream stream(bound, Purpose::kBatchOrder, 1, 2, 3);
    BoundedIntegers bounded(stream);
    ReferenceBounded reference(stream);
    for (int i = 0; i < 1000; ++i) {
      const std::uint32_t drawn = bounded(bound);
      CHECK(drawn < bound);
      CHECK(drawn == reference(bound));
    }
  }
}

void test_bounded_integers_are_uniform() {
  BoundedIntegers bounded(RandomStream(7, Purpose::kBatchOrder, 0));
  std::array<int, 7> count{};
  for (int i = 0; i < 70000; ++i) ++count[bounded(7)];
  double chi2 = 0;
  for (const int c : count) chi2 += (c - 10000.0) * (c - 10000.0) / 10000.0;
  CHECK(chi2 < 22.5);  // p = 0.001 with 6 degrees of freedom
}

void test_fisher_yates_is_that_of_the_reference() {
  for (const std::uint32_t size : {0U, 1U, 2U, 3U, 100U, 5000U}) {
    std::vector<std::uint32_t> items(size);
    std::iota(items.begin(), items.end(), 0U);
    std::vector<std::uint32_t> expected = items;
    const RandomStream stream(3, Purpose::kShuffle, size);
    fisher_yates(size, stream, [&](std::uint32_t i, std::uint32_t j) { std::swap(items[i], items[j]); });
    reference_fisher_yates(std::span(expected), stream);
    CHECK(items == expected);
  }
}

}  // namespace
}  // namespace l2m::test

int main() {
  l2m::test::test_known_answers();
  l2m::test::test_streams_are_those_of_numpy();
  l2m::test::test_uniform_is_in_the_unit_interval();
  l2m::test::test_bounded_integers_are_those_of_the_reference();
  l2m::test::test_bounded_integers_are_uniform();
  l2m::test::test_fisher_yates_is_that_of_the_reference();
}
