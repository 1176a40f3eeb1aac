#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <type_traits>

namespace l2m {

/// True if the compiler optimizes for size. Loops that are fast because they exist in several forms then have one.
#if defined(__OPTIMIZE_SIZE__)
inline constexpr bool kCompact = true;
#else
inline constexpr bool kCompact = false;
#endif

/// Integers of any type, read one by one: a function of them needs one instance for all types.
class AnyIntegers {
 public:
  template <class Int>
  explicit AnyIntegers(std::span<const Int> integers)
      : data_(reinterpret_cast<const std::byte*>(integers.data())),
        size_(integers.size()),
        bytes_(sizeof(Int)),
        is_signed_(std::is_signed_v<Int>) {}

  [[nodiscard]] bool empty() const { return size_ == 0; }
  [[nodiscard]] std::size_t size() const { return size_; }
  [[nodiscard]] AnyIntegers subspan(std::size_t begin, std::size_t size) const {
    AnyIntegers part = *this;
    part.data_ += begin * bytes_;
    part.size_ = size;
    return part;
  }
  std::int64_t operator[](std::size_t i) const {
    const auto as = [&]<class Int>(Int /*type*/) {
      return static_cast<std::int64_t>(reinterpret_cast<const Int*>(data_)[i]);
    };
    switch (bytes_) {
      case 1:
        return is_signed_ ? as(std::int8_t{}) : as(std::uint8_t{});
      case 2:
        return is_signed_ ? as(std::int16_t{}) : as(std::uint16_t{});
      case 4:
        return is_signed_ ? as(std::int32_t{}) : as(std::uint32_t{});
      default:
        return as(std::int64_t{});
    }
  }

 private:
  const std::byte* data_;
  std::size_t size_, bytes_;
  bool is_signed_;
};

/// Sort items; equal ones in any order.
template <class Item, class Less = std::less<>>
void sort_items(std::span<Item> items, Less less = {}) {
  if constexpr (kCompact) {
    std::make_heap(items.begin(), items.end(), less);
    std::sort_heap(items.begin(), items.end(), less);
  } else {
    std::sort(items.begin(), items.end(), less);
  }
}

}  // namespace l2m
