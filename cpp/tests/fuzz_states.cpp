// Load damaged states through the C API: a code and a message, and nothing has changed; or the state was accepted, and
// then batches have rows of their class, and the state can be saved and loaded again.
//
//     fuzz_states [seconds [seed]]      without arguments: some thousand cases
//
// With clang >= 16, libFuzzer looks for cases longer (see LLVMFuzzerCustomMutator(): most of them have a right hash):
//
//     clang++ -std=c++20 -g -O1 -fsanitize=fuzzer,address,undefined -D L2M_LIBFUZZER -I cpp/include -I cpp/c
//         $(find cpp/src -name '*.cpp') cpp/c/l2m.cpp cpp/tests/fuzz_states.cpp -o build/fuzz_states
//     build/fuzz_states -max_total_time=3600 -max_len=4096

#include <algorithm>
#include <array>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <random>
#include <span>
#include <string>
#include <vector>

#include "check.hpp"
#include "l2m.h"
#include "l2m/base/hash.hpp"

namespace l2m::test {
namespace {

constexpr std::int64_t kRows = 40;
constexpr std::size_t kConfigurations = 4;

using Bytes = std::vector<std::uint8_t>;
using Handle = std::unique_ptr<l2m_loader, int (*)(l2m_loader*)>;

std::int32_t class_of(std::int64_t row) { return row < 3 ? 0 : row < 15 ? 1 : 2; }

/// Create one of several loaders: with held rows, windows of some batches, a lookahead, or without classes.
Handle create(std::size_t configuration) {
  static const std::vector<std::int32_t> classes = [] {
    std::vector<std::int32_t> all;
    for (std::int64_t row = 0; row < kRows; ++row) all.push_back(class_of(row));
    return all;
  }();
  l2m_options options;
  CHECK(l2m_options_init(&options, sizeof(options)) == L2M_OK);
  options.num_rows = kRows;
  options.batch_size = 7;
  options.steps_per_epoch = 10;
  if (configuration < 3) {
    options.classes = classes.data();
    options.class_type = L2M_INT32;
    options.mixing = configuration == 0 ? "Balanced" : "Learn2Mix";
  }
  if (configuration == 1) options.update_every = 3;
  if (configuration == 2) {
    options.update_every = 2;
    options.lookahead = 2;
  }
  l2m_loader* loader = nullptr;
  CHECK(l2m_create(&options, 3, &loader, nullptr, 0) == L2M_OK);
  return {loader, &l2m_free};
}

Bytes save(const Handle& loader) {
  std::size_t size = 0;
  CHECK(l2m_state_size(loader.get(), L2M_LAST, &size) == L2M_OK);
  Bytes state(size);
  CHECK(l2m_state_save(loader.get(), L2M_LAST, state.data(), size, nullptr) == L2M_OK);
  return state;
}

/// Take batches and check them.
void train(const Handle& loader, bool classes, int batches) {
  for (int i = 0; i < batches; ++i) {
    const l2m_batch* batch = nullptr;
    const int code = l2m_next(loader.get(), &batch);
    if (code == L2M_FAILED) CHECK(std::strstr(l2m_errmsg(loader.get()), "cannot count further") != nullptr);
    if (code == L2M_FAILED) return;
    if (code == L2M_END) continue;
    CHECK(code == L2M_OK && batch->num_rows == 7);
    for (std::int64_t row = 0; row < 7; ++row) {
      CHECK(batch->rows[row] >= 0 && batch->rows[row] < kRows);
      CHECK(batch->classes[row] == (classes ? class_of(batch->rows[row]) : 0));
    }
    const std::array<float, 7> losses{1, 2, 3, 4, 5, 6, 7};
    const int recorded = l2m_record(loader.get(), losses.data(), 7, nullptr, L2M_LAST);
    CHECK(recorded == L2M_OK || recorded == L2M_FAILED);
    CHECK(l2m_release(loader.get(), batch) == L2M_OK);
  }
}

/// Load a state. Return whether it was accepted.
bool check_state(std::size_t configuration, const Bytes& state) {
  const Handle loader = create(configuration);
  const Bytes before = save(loader);
  const std::uint8_t nothing = 0;
  const int code = l2m_state_load(loader.get(), state.empty() ? &nothing : state.data(), state.size());
  if (code != L2M_OK) {
    CHECK(code == L2M_BAD_STATE && std::strlen(l2m_errmsg(loader.get())) > 10);
    CHECK(save(loader) == before);
    train(loader, configuration < 3, 1);
    return false;
  }
  const Bytes saved = save(loader);
  CHECK(l2m_state_load(loader.get(), saved.data(), saved.size()) == L2M_OK && save(loader) == saved);
  train(loader, configuration < 3, 12);
  return true;
}

/// Make the length and the hash at the end of a state right.
void sign(Bytes& state) {
  if (state.size() < 32) return;
  const auto put = [&](std::size_t at, std::uint64_t word) {
    for (std::size_t i = 0; i < 8; ++i) state[at + i] = static_cast<std::uint8_t>(word >> (8 * i));
  };
  put(16, state.size());
  Hash hash;
  hash.add(std::as_bytes(std::span(state).first(state.size() - 8)));
  put(state.size() - 8, hash.value());
}

/// Return the number of bytes before the members behind the fingerprint; 0: they are damaged.
std::size_t end_of_fingerprint(const Bytes& state) {
  std::size_t at = 24;
  const auto word = [&] {
    std::uint64_t value = 0;
    if (at + 8 <= state.size()) std::memcpy(&value, state.data() + at, 8);
    at += 8;
    return value;
  };
  for (std::uint64_t strings = std::min<std::uint64_t>(2 * word(), 100); strings > 0; --strings)
    at += static_cast<std::size_t>(std::min<std::uint64_t>(word(), state.size()));
  return at + 8 < state.size() ? at : 0;
}

/// Change some bits, words or lengths, most of them behind the fingerprint, whose changes are all refused.
void damage(Bytes& state, std::mt19937_64& random) {
  const auto below = [&](std::size_t bound) { return static_cast<std::size_t>(random() % bound); };
  for (std::size_t changes = 1 + below(3); changes > 0 && state.size() > 40; --changes) {
    const std::size_t begin = below(16) == 0 ? 0 : end_of_fingerprint(state), words = (state.size() - begin) / 8;
    const std::size_t at = begin + 8 * below(words), other = begin + 8 * below(words);
    const std::array<std::uint64_t, 12> values{
        0,     1,       2, 3, 7, 40, 1 << 16, std::uint64_t{1} << 52, std::uint64_t{1} << 53, std::uint64_t{1} << 63,
        ~0ULL, random()};
    switch (below(6)) {
      case 0:
        state[at + below(8)] ^= static_cast<std::uint8_t>(1 << below(8));
        break;
      case 1:
        std::memcpy(state.data() + at, &values[below(values.size())], 8);
        break;
      case 2:
        std::memmove(state.data() + at, state.data() + other, 8);
        break;
      case 3:
        state.erase(state.begin() + static_cast<std::ptrdiff_t>(at),
                    state.begin() + static_cast<std::ptrdiff_t>(at + 8));
        break;
      case 4:
        state.insert(state.begin() + static_cast<std::ptrdiff_t>(at), 8, static_cast<std::uint8_t>(below(3)));
        break;
      default:
        state[at] = static_cast<std::uint8_t>(state[at] + 1);
    }
  }
  if (below(10) == 0) state.resize(below(state.size() + 1));
}

}  // namespace
}  // namespace l2m::test

#ifdef L2M_LIBFUZZER

extern "C" std::size_t LLVMFuzzerMutate(std::uint8_t* data, std::size_t size, std::size_t max_size);

/// Input: the number of the configuration, and a state.
extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size > 0) l2m::test::check_state(data[0] % l2m::test::kConfigurations, {data + 1, data + size});
  return 0;
}

/// Mutate an input, or replace it by the state of a run, and sign nearly all.
extern "C" std::size_t LLVMFuzzerCustomMutator(std::uint8_t* data, std::size_t size, std::size_t max_size,
                                               unsigned seed) {
  using namespace l2m::test;
  std::mt19937_64 random(seed);
  Bytes input(data, data + size);
  if (size < 40) {
    const std::size_t configuration = random() % kConfigurations;
    const Handle loader = create(configuration);
    train(loader, configuration < 3, static_cast<int>(random() % 25));
    input = save(loader);
    input.insert(input.begin(), static_cast<std::uint8_t>(configuration));
  } else if (random() % 2 == 0) {
    input.resize(max_size);
    input.resize(LLVMFuzzerMutate(input.data(), size, max_size));
  }
  if (input.empty() || input.size() > max_size) return size;
  Bytes state(input.begin() + 1, input.end());
  if (random() % 2 == 0) damage(state, random);
  if (random() % 16 > 0) sign(state);
  const std::size_t end = std::min(state.size(), max_size - 1);
  data[0] = input[0];
  std::copy(state.begin(), state.begin() + static_cast<std::ptrdiff_t>(end), data + 1);
  return 1 + end;
}

#else

int main(int argc, char** argv) {
  using namespace l2m::test;
  using Clock = std::chrono::steady_clock;
  const long seconds = argc > 1 ? std::atol(argv[1]) : 0, min_cases = argc > 1 ? 0 : 4000;
  std::mt19937_64 random(argc > 2 ? static_cast<std::uint64_t>(std::atoll(argv[2])) : 0);
  const auto end = Clock::now() + std::chrono::seconds(seconds);
  long cases = 0, accepted = 0;
  while (cases < min_cases || Clock::now() < end) {
    const std::size_t configuration = random() % kConfigurations;
    const Handle loader = create(configuration);
    train(loader, configuration < 3, static_cast<int>(random() % 25));
    const Bytes state = save(loader);
    for (int i = 0; i < 100; ++i, ++cases) {
      Bytes damaged = state;
      damage(damaged, random);
      if (random() % 16 > 0) sign(damaged);
      accepted += check_state(configuration, damaged) ? 1 : 0;
    }
  }
  std::printf("%ld cases, %ld states accepted\n", cases, accepted);
  return accepted > 0 && accepted < cases ? 0 : 1;
}

#endif
