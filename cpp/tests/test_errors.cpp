#include "l2m/base/errors.hpp"

#include <cmath>
#include <cstdint>
#include <limits>
#include <string>
#include <string_view>

#include "check.hpp"

namespace l2m::test {
namespace {

void test_a_message_has_its_parts_in_order() {
  const std::string name = "rows";
  CHECK(message(name, " must be in [", 0, ", ", std::size_t{10}, ") (got ", -3, std::string_view(")")) ==
        "rows must be in [0, 10) (got -3)");
  CHECK(message().empty());
  CHECK(message("a", 0.93, true ? " b" : "") == "a0.93 b");
}

void test_integers_have_all_their_digits() {
  CHECK(message(std::numeric_limits<std::int64_t>::min()) == "-9223372036854775808");
  CHECK(message(std::numeric_limits<std::int64_t>::max()) == "9223372036854775807");
  CHECK(message(std::numeric_limits<std::uint64_t>::max()) == "18446744073709551615");
  CHECK(message(std::int8_t{-7}, 0, std::uint16_t{65535}) == "-7065535");
}

void test_doubles_have_six_significant_digits() {
  CHECK(message(0.1, " ", 1.0, " ", 1.0 / 3, " ", 1e-12, " ", 0x1p512, " ", 123456789.0) ==
        "0.1 1 0.333333 1e-12 1.34078e+154 1.23457e+08");
  CHECK(message(std::numeric_limits<double>::infinity(), " ", -HUGE_VAL, " ", std::nan("")) == "inf -inf nan");
  CHECK(message(-0.0, " ", 999999.5, " ", 0.5F) == "-0 1e+06 0.5");
}

void test_long_texts_are_shortened_between_characters() {
  CHECK(shortened(std::string(200, 'x')) == std::string(200, 'x'));
  CHECK(shortened(std::string(201, 'x')) == std::string(197, 'x') + "...");
  std::string text(196, 'x');
  for (int i = 0; i < 10; ++i) text += "\xC3\xA9";
  CHECK(shortened(text) == std::string(196, 'x') + "...");
}

void test_out_of_memory_says_what_for() {
  CHECK(std::string(OutOfMemory("a batch", 1 << 30, 0x1p40).what()) ==
        "out of memory for a batch of 1073741824 rows (1099511627776 bytes)");
  CHECK(std::string(OutOfMemory("a batch", 1, 1e300).what()).size() == 127);
}

}  // namespace
}  // namespace l2m::test

int main() {
  using namespace l2m::test;
  test_a_message_has_its_parts_in_order();
  test_integers_have_all_their_digits();
  test_doubles_have_six_significant_digits();
  test_long_texts_are_shortened_between_characters();
  test_out_of_memory_says_what_for();
}
