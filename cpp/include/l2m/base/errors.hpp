#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <new>
#include <sstream>
#include <string>

namespace l2m {

/// Concatenate the parts of an error message: what was wrong, what was given, what is allowed.
template <class... Parts>
std::string message(const Parts&... parts) {
  std::ostringstream text;
  (text << ... << parts);
  return text.str();
}

/// Return a text of at most 200 bytes: a longer one is cut between two UTF-8 characters and ends in "...".
inline std::string shortened(const std::string& text) {
  constexpr std::size_t kMaxBytes = 200;
  if (text.size() <= kMaxBytes) return text;
  std::size_t end = kMaxBytes - 3;
  while (end > 0 && (static_cast<unsigned char>(text[end]) & 0xC0) == 0x80) --end;
  return text.substr(0, end) + "...";
}

/// Out-of-memory error that says what the memory was for. Its constructor does not allocate.
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
