#pragma once

#include <concepts>
#include <cstdint>
#include <initializer_list>
#include <new>
#include <stdexcept>
#include <string>
#include <string_view>

namespace l2m {

/// Text or number in an error message.
class MessagePart {
 public:
  MessagePart(std::string_view text) : kind_(Kind::kText), text_(text) {}
  MessagePart(const char* text) : MessagePart(std::string_view(text)) {}
  MessagePart(const std::string& text) : MessagePart(std::string_view(text)) {}
  MessagePart(std::signed_integral auto value) : kind_(Kind::kSigned), signed_(value) {}
  MessagePart(std::unsigned_integral auto value) : kind_(Kind::kUnsigned), unsigned_(value) {}
  MessagePart(double value) : kind_(Kind::kDouble), double_(value) {}

  /// Append the part to a text: a double with six significant digits.
  void append_to(std::string& text) const;

 private:
  enum class Kind { kText, kSigned, kUnsigned, kDouble } kind_;
  union {
    std::string_view text_;
    std::int64_t signed_;
    std::uint64_t unsigned_;
    double double_;
  };
};

/// Concatenate the parts of an error message: what was wrong, what was given, what is allowed.
std::string message_of(std::initializer_list<MessagePart> parts);

template <class... Parts>
std::string message(const Parts&... parts) {
  return message_of({MessagePart(parts)...});
}

template <class Error>
[[noreturn]] void throw_error_of(std::initializer_list<MessagePart> parts) {
  throw Error(message_of(parts));
}

/// Throw an Error with a message of these parts. Takes less code than a throw expression at each place.
template <class Error, class... Parts>
[[noreturn]] void throw_error(const Parts&... parts) {
  throw_error_of<Error>({MessagePart(parts)...});
}

/// Throw std::invalid_argument with a message of these parts.
template <class... Parts>
[[noreturn]] void refuse(const Parts&... parts) {
  throw_error<std::invalid_argument>(parts...);
}

/// Check that an argument is in [low, high]. @throws std::invalid_argument
void check_range(const char* name, std::int64_t value, std::int64_t low, std::int64_t high);

/// Return a text of at most 200 bytes: a longer one is cut between two UTF-8 characters and ends in "...".
std::string shortened(const std::string& text);

/// Out-of-memory error that says what the memory was for. Its constructor does not allocate.
class OutOfMemory : public std::bad_alloc {
 public:
  OutOfMemory(const char* what_for, std::int64_t rows, double bytes) noexcept;
  [[nodiscard]] const char* what() const noexcept override { return text_; }

 private:
  char text_[128];
};

}  // namespace l2m
