#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <new>
#include <sstream>
#include <string>

namespace l2m {

/// Message of an error: what was wrong, what was given, what is allowed, put together from its parts.
template <class... Parts>
std::string message(const Parts&... parts) {
  std::ostringstream text;
  (text << ... << parts);
  return text.str();
}

/// A text of at most 200 bytes; a longer one is cut between two characters of UTF-8, and ends in "...".
inline std::string shortened(const std::string& text) {
  constexpr std::size_t kMost = 200;
  if (text.size() <= kMost) return text;
  std::size_t end = kMost - 3;
  while (end > 0 && (static_cast<unsigned char>(text[end]) & 0xC0) == 0x80) --end;
  return text.substr(0, end) + "...";
}

/// Out of memory, with what it was wanted for. Allocates nothing itself.
class OutOfMemory : public std::bad_alloc {
 public:
  OutOfMemory(const char* what_for, std::int64_t rows, double bytes) noexcept {
    std::snprintf(text_, sizeof(text_), "out of memory for %s of %lld rows (%.0f bytes)", what_for,
                  static_cast<long long>(rows), bytes);
  }
  [[nodiscard]] const char* what() const noexcept override { return text_; }

 private:
  char text_[128];
};

}  // namespace l2m
