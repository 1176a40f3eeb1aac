#include "l2m/base/errors.hpp"

#include <cstddef>
#include <cstdio>

namespace l2m {
namespace {

void append_digits(std::string& text, std::uint64_t value) {
  char digits[20];
  char* begin = digits + sizeof(digits);
  do {
    *--begin = static_cast<char>('0' + value % 10);
    value /= 10;
  } while (value > 0);
  text.append(begin, digits + sizeof(digits));
}

}  // namespace

void MessagePart::append_to(std::string& text) const {
  switch (kind_) {
    case Kind::kText:
      text.append(text_);
      break;
    case Kind::kSigned:
      if (signed_ < 0) text.push_back('-');
      append_digits(text, signed_ < 0 ? 0 - static_cast<std::uint64_t>(signed_) : static_cast<std::uint64_t>(signed_));
      break;
    case Kind::kUnsigned:
      append_digits(text, unsigned_);
      break;
    case Kind::kDouble: {
      char digits[32];
      std::snprintf(digits, sizeof(digits), "%g", double_);
      text.append(digits);
      break;
    }
  }
}

std::string message_of(std::initializer_list<MessagePart> parts) {
  std::string text;
  for (const MessagePart& part : parts) part.append_to(text);
  return text;
}

void check_range(const char* name, std::int64_t value, std::int64_t low, std::int64_t high) {
  if (value < low || value > high) refuse(name, " must be in [", low, ", ", high, "] (got ", value, ")");
}

std::string shortened(const std::string& text) {
  constexpr std::size_t kMaxBytes = 200;
  if (text.size() <= kMaxBytes) return text;
  std::size_t end = kMaxBytes - 3;
  while (end > 0 && (static_cast<unsigned char>(text[end]) & 0xC0) == 0x80) --end;
  return text.substr(0, end) + "...";
}

OutOfMemory::OutOfMemory(const char* what_for, std::int64_t rows, double bytes) noexcept {
  std::snprintf(text_, sizeof(text_), "out of memory for %s of %lld rows (%.0f bytes)", what_for,
                static_cast<long long>(rows), bytes);
}

}  // namespace l2m
