#pragma once

#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdlib>
#include <new>
#include <thread>

/// Replacement of operator new for aligned memory, which only blocks and row ids use: counts the blocks of a test program, holds
/// them back and makes them fail. For programs of one source file.
namespace l2m::test {

inline std::atomic<int> blocks_alive = 0;
inline std::atomic<int> blocks_until_failure = -1;  ///< 0: the next one fails; negative: none fails
inline std::atomic<bool> blocks_held = false;       ///< requests for blocks wait
inline std::atomic<int> blocks_wanted = 0;          ///< requests that wait

/// Scope in which all requests for blocks wait.
class HeldBlocks {
 public:
  HeldBlocks() { blocks_held = true; }
  ~HeldBlocks() { release(); }
  HeldBlocks(const HeldBlocks&) = delete;
  HeldBlocks& operator=(const HeldBlocks&) = delete;

  static void release() {
    blocks_held = false;
    blocks_held.notify_all();
  }
  /// Wait until `count` blocks are held back. Return false after ten seconds.
  static bool wait_for(int count) {
    const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(10);
    while (blocks_wanted < count && std::chrono::steady_clock::now() < end) std::this_thread::yield();
    return blocks_wanted >= count;
  }
};

}  // namespace l2m::test

void* operator new(std::size_t size, std::align_val_t alignment) {
  const auto align = static_cast<std::size_t>(alignment);
  ++l2m::test::blocks_wanted;
  l2m::test::blocks_held.wait(true);
  --l2m::test::blocks_wanted;
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
