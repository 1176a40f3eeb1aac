#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <span>
#include <stdexcept>
#include <string>
#include <vector>

#include "check.hpp"
#include "l2m/base/hash.hpp"
#include "l2m/base/text.hpp"
#include "l2m/loader.hpp"
#include "l2m/mixing/named.hpp"
#include "loader_runs.hpp"

// The bytes of states, fingerprints, and descriptions of policies.

namespace l2m::test {
namespace {

using Bytes = std::vector<std::byte>;

Bytes bytes_of(const LoaderState& state) {
  Bytes bytes(encoded_size(state));
  encode(state, bytes);
  return bytes;
}

void put_word(Bytes& bytes, std::size_t at, std::uint64_t word) {
  for (std::size_t i = 0; i < 8; ++i) bytes[at + i] = static_cast<std::byte>(word >> (8 * i));
}

/// Make the length and the hash at the end of some bytes right.
void sign(Bytes& bytes) {
  put_word(bytes, 16, bytes.size());
  Hash hash;
  hash.add(std::span(bytes).first(bytes.size() - 8));
  put_word(bytes, bytes.size() - 8, hash.value());
}

template <class F>
std::string error_of(F&& f) {
  try {
    f();
  } catch (const std::invalid_argument& error) {
    return error.what();
  }
  return {};
}

void test_bytes_hold_the_whole_state() {
  for (const std::int64_t lookahead : {0, 2}) {
    const Expected expected(following(3, lookahead));
    Trainer trainer(expected, expected.options());
    while (!trainer.is_done()) {
      trainer.step();
      const LoaderState state = newest_state(trainer.loader());
      const Bytes bytes = bytes_of(state);
      CHECK(same(decode(bytes), state));
      CHECK(bytes_of(decode(bytes)) == bytes);
    }
  }
  LoaderState state;
  state.next_epoch = 7;
  state.seed = std::numeric_limits<std::uint64_t>::max();
  state.sampler.held = {{1, {4}}, {5, {2, 9}}};
  state.fingerprint = {{"a", "b"}, {"", ""}};
  CHECK(same(decode(bytes_of(state)), state));
}

/// Compare with bytes that another machine wrote, by their hash.
void test_bytes_are_the_same_on_every_machine() {
  const Expected expected(following(3));
  Trainer trainer(expected, expected.options());
  trainer.train(11);
  Hash hash;
  hash.add(bytes_of(trainer.loader().state()));
  CHECK(to_hex(hash.value()) == "604c90e09bd048ab");
}

void test_every_flipped_bit_and_every_cut_is_found() {
  const Expected expected(following(3));
  Trainer trainer(expected, expected.options());
  trainer.train(5);
  const Bytes bytes = bytes_of(trainer.loader().state());
  for (std::size_t at = 0; at < bytes.size(); ++at) {
    for (int bit = 0; bit < 8; ++bit) {
      Bytes damaged = bytes;
      damaged[at] ^= static_cast<std::byte>(1 << bit);
      CHECK_THROWS(std::invalid_argument, decode(damaged));
    }
    CHECK_THROWS(std::invalid_argument, decode(std::span(bytes).first(at)));
  }
}

void test_a_length_is_checked_before_memory_is_allocated() {
  const Expected expected(following(3));
  Trainer trainer(expected, expected.options());
  trainer.train(5);
  const Bytes bytes = bytes_of(trainer.loader().state());
  for (std::size_t at = 24; at + 16 <= bytes.size(); at += 1) {
    for (const std::uint64_t word : {std::uint64_t{1} << 40, ~std::uint64_t{0}, std::uint64_t{1}, std::uint64_t{0}}) {
      Bytes forged = bytes;
      put_word(forged, at, word);
      sign(forged);
      try {
        (void)bytes_of(decode(forged));
      } catch (const std::invalid_argument&) {
      }
    }
  }
  Bytes longer = bytes;
  longer.resize(bytes.size() + 8);
  sign(longer);
  CHECK(error_of([&] { (void)decode(longer); }) == "the state must end after its members (got 8 bytes more)");
}

void test_a_state_of_another_loader_is_refused_by_name() {
  const Expected expected(following(3));
  Trainer trainer(expected, expected.options());
  trainer.train(5);
  const LoaderState state = trainer.loader().state();
  LoaderOptions options = expected.options();
  options.update_every = 2;
  options.grouped = true;
  const std::string error = error_of([&] { Loader(options).load(state); });
  CHECK(error ==
        "the state must be from a loader with the same data and options (got order: shuffled in the state, grouped "
        "here; update_every: 3 in the state, 2 here)");
  LoaderState other = state;
  other.fingerprint.emplace_back("more", "1");
  CHECK(error_of([&] { trainer.loader().load(other); }).ends_with("(got entries: 13 in the state, 12 here)"));
  other.fingerprint = {{"rows", std::string(1000, 'x')}};
  CHECK(error_of([&] { trainer.loader().load(other); }).size() < 2000);
  trainer.loader().load(state);
}

void test_policies_describe_their_parameters() {
  const auto describe = [](const char* name, const std::vector<PolicyParameter>& parameters,
                           const std::vector<double>& p = {}) { return named_policy(name, parameters, p)->describe(); };
  CHECK(describe("Proportional", {}) == "Proportional()" && describe("Balanced", {}) == "Balanced()");
  CHECK(describe("Learn2Mix", {}) == "Learn2Mix(mixing_rate=0.1, min_share=0, start=proportional)");
  CHECK(describe("Learn2Mix", {{"balanced", 1}, {"min_share", 0.05}, {"mixing_rate", 1}}) ==
        "Learn2Mix(mixing_rate=1, min_share=0.05, start=balanced)");
  CHECK(describe("Annealed", {{"end", 0.25}}) == "Annealed(start=0.5, end=0.25)");
  CHECK(describe("Temperature", {{"t", std::numeric_limits<double>::infinity()}}) == "Temperature(t=inf)");
  CHECK(describe("EffectiveNumber", {{"beta", 0.999}}) == "EffectiveNumber(beta=0.999)");
  CHECK(describe("GroupDRO", {{"step_size", 0.01}}) == "GroupDRO(step_size=0.01)");
  CHECK(describe("Static", {}, {0.5, 0.25, 0.25}) == "Static(p=[0.5, 0.25, 0.25])");
  std::vector<double> many(1000, 0.001);
  const std::string one = describe("Static", {}, many);
  many[500] = 0.0010000000000000002;
  CHECK(one.starts_with("Static(p=1000 shares with hash ") && describe("Static", {}, many) != one);
}

void test_wrong_names_and_parameters_of_policies_are_refused() {
  const auto error = [](const char* name, const std::vector<PolicyParameter>& parameters,
                        const std::vector<double>& p = {}) {
    return error_of([&] { (void)named_policy(name, parameters, p); });
  };
  CHECK(error("learn2mix", {}).starts_with("mixing must be Proportional, ") && error("", {}).ends_with("(got )"));
  CHECK(error("Temperature", {}) == "t of Temperature must be a number above 0 (got nothing)");
  CHECK(error("Balanced", {{"t", 1}}) == "the parameters of Balanced must be none (got t)");
  CHECK(error("GroupDRO", {{"step", 1}, {"step_size", 1}}) ==
        "the parameters of GroupDRO must be some of step_size, each once (got step)");
  CHECK(error("GroupDRO", {{"step_size", 1}, {"step_size", 2}}).ends_with("(got step_size)"));
  CHECK(error("Learn2Mix", {{"balanced", 0.5}}) == "balanced of Learn2Mix must be 0 or 1 (got 0.5)");
  const double nan = std::numeric_limits<double>::quiet_NaN();
  for (const double wrong : {0.0, -1.0, 1.5, nan}) CHECK(!error("Learn2Mix", {{"mixing_rate", wrong}}).empty());
  for (const double wrong : {-0.1, 1.0, nan}) CHECK(!error("EffectiveNumber", {{"beta", wrong}}).empty());
  CHECK(!error("Static", {}).empty() && !error("Balanced", {}, {1.0}).empty());
}

}  // namespace
}  // namespace l2m::test

int main() {
  using namespace l2m::test;
  test_bytes_hold_the_whole_state();
  test_bytes_are_the_same_on_every_machine();
  test_every_flipped_bit_and_every_cut_is_found();
  test_a_length_is_checked_before_memory_is_allocated();
  test_a_state_of_another_loader_is_refused_by_name();
  test_policies_describe_their_parameters();
  test_wrong_names_and_parameters_of_policies_are_refused();
}
