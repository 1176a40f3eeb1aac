#include <bit>
#include <charconv>
#include <cmath>
#include <cstdint>
#include <limits>
#include <random>
#include <string>

#include "check.hpp"
#include "l2m/base/hash.hpp"
#include "l2m/base/text.hpp"

namespace l2m::test {
namespace {

double value_of(const std::string& text) {
  double value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  CHECK(error == std::errc() && end == text.data() + text.size());
  return value;
}

std::size_t num_digits(const std::string& text) {
  std::size_t first = text.find_first_of("123456789"), last = text.find('e');
  last = text.find_last_of("123456789", last);
  std::size_t digits = 0;
  for (std::size_t i = first; i <= last; ++i) digits += text[i] >= '0' && text[i] <= '9' ? 1 : 0;
  return digits;
}

void test_familiar_numbers_have_familiar_texts() {
  CHECK(to_text(0) == "0" && to_text(-0.0) == "0" && to_text(2) == "2" && to_text(-2.5) == "-2.5");
  CHECK(to_text(0.1) == "0.1" && to_text(1.0 / 3) == "0.3333333333333333" && to_text(1e-4) == "0.0001");
  CHECK(to_text(1e-5) == "0.00001" && to_text(1e-6) == "1e-6" && to_text(1.25e-300) == "1.25e-300");
  CHECK(to_text(0x1p53) == "9007199254740992" && to_text(1e17) == "1e17" && to_text(1e23) == "1e23");
  CHECK(to_text(std::numeric_limits<double>::infinity()) == "inf");
  CHECK(to_text(-std::numeric_limits<double>::infinity()) == "-inf" && to_text(std::nan("")) == "nan");
}

/// Compare with the standard library, which some targets lack.
void test_a_text_is_the_shortest_that_reads_back() {
  std::mt19937_64 random(1);
  for (int i = 0; i < 20'000; ++i) {
    const std::uint64_t bits = random() & ~(std::uint64_t{1} << 63);
    // All numbers, those near 1, powers of two, and denormal ones.
    const std::uint64_t kinds[] = {bits, (bits >> 12) | 0x3FE0000000000000, bits & 0x7FF0000000000000, bits >> 13};
    const auto number = std::bit_cast<double>(kinds[i % 4]);
    if (!std::isfinite(number) || number == 0) continue;
    const std::string text = to_text(number);
    CHECK(value_of(text) == number);
    char shortest[32];
    const auto [end, error] = std::to_chars(shortest, shortest + 32, number, std::chars_format::scientific);
    CHECK(error == std::errc() && num_digits(text) == num_digits(std::string(shortest, end)));
  }
}

void test_hexadecimal_digits_are_padded() {
  CHECK(to_hex(0) == "0000000000000000" && to_hex(0x0123456789ABCDEF) == "0123456789abcdef");
}

void test_a_hash_is_that_of_the_reference() {
  Hash hash;
  CHECK(hash.value() == 0xCBF29CE484222325);
  for (const char letter : std::string("foobar")) hash.add(static_cast<std::byte>(letter));
  CHECK(hash.value() == 0x85944171F73967E8);
  Hash number, bytes;
  number.add(std::uint64_t{0x0102});
  for (const int byte : {2, 1, 0, 0, 0, 0, 0, 0}) bytes.add(static_cast<std::byte>(byte));
  CHECK(number.value() == bytes.value());
}

}  // namespace
}  // namespace l2m::test

int main() {
  using namespace l2m::test;
  test_familiar_numbers_have_familiar_texts();
  test_a_text_is_the_shortest_that_reads_back();
  test_hexadecimal_digits_are_padded();
  test_a_hash_is_that_of_the_reference();
}
