#pragma once

#include <algorithm>
#include <functional>
#include <span>

namespace l2m {

/// True if the compiler optimizes for size. Loops that are fast because they exist in several forms then have one.
#if defined(__OPTIMIZE_SIZE__)
inline constexpr bool kCompact = true;
#else
inline constexpr bool kCompact = false;
#endif

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
