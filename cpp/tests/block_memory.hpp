#pragma once

#include <atomic>
#include <cstddef>
#include <cstdlib>
#include <new>

/// Counts the blocks of a test program and lets them fail: its own operator new for aligned memory, which only blocks
/// ask for. For programs of one source file.
namespace l2m::test {

inline std::atomic<int> blocks_alive = 0;
inline std::atomic<int> blocks_until_failure = -1;  ///< 0: the next one fails; negative: none does

}  // namespace l2m::test

void* operator new(std::size_t size, std::align_val_t alignment) {
  const auto align = static_cast<std::size_t>(alignment);
  if (l2m::test::blocks_until_failure >= 0 && l2m::test::blocks_until_failure-- == 0) throw std::bad_alloc();
  void* const memory = std::aligned_alloc(align, (size / align + 1) * align);
  if (memory == nullptr) throw std::bad_alloc();
  ++l2m::test::blocks_alive;
  return memory;
}

void operator delete(void* memory, std::align_val_t) noexcept {
  --l2m::test::blocks_alive;
  std::free(memory);
}

void operator delete(void* memory, std::size_t, std::align_val_t alignment) noexcept {
  operator delete(memory, alignment);
}
