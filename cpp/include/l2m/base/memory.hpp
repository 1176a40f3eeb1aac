#pragma once

#include <cstddef>
#include <cstdint>
#include <utility>

namespace l2m {

/// Source of the memory of row ids and batches, which is nearly all memory of a loader. The rest, O(classes + rows of a
/// batch), comes from operator new.
struct Allocator {
  /// Return `size` bytes at a multiple of `alignment`, a power of two, or null if there is no memory.
  void* (*allocate)(void* user, std::size_t size, std::size_t alignment);
  void (*free)(void* user, void* memory, std::size_t size, std::size_t alignment);
  void* user;  ///< passed to both

  /// Return memory, like allocate(). @throws std::bad_alloc
  [[nodiscard]] std::byte* take(std::size_t size, std::size_t alignment) const;
};

/// Use `allocator` for row ids and pools of blocks that are created from now on; null: operator new, as initially. Memory
/// returns to the allocator that it came from. Not thread-safe.
void set_allocator(const Allocator* allocator);
[[nodiscard]] const Allocator& allocator();

/// Owner of memory with unspecified content.
class Memory {
 public:
  Memory() = default;
  /// @throws std::bad_alloc
  Memory(std::size_t size, std::size_t alignment);
  Memory(Memory&& other) noexcept
      : data_(std::exchange(other.data_, nullptr)),
        size_(other.size_),
        alignment_(other.alignment_),
        allocator_(other.allocator_) {}
  Memory& operator=(Memory&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(size_, other.size_);
    std::swap(alignment_, other.alignment_);
    std::swap(allocator_, other.allocator_);
    return *this;
  }
  ~Memory() {
    if (data_ != nullptr) allocator_.free(allocator_.user, data_, size_, alignment_);
  }

  [[nodiscard]] std::byte* data() const { return data_; }

 private:
  std::byte* data_ = nullptr;
  std::size_t size_ = 0, alignment_ = 1;
  Allocator allocator_{};
};

/// Return `count` as a size, if as many items fit in the address space. Computes in 64 bits on every machine.
/// @param item_size  bytes, in [1, 2^31).   @param max_bytes  size of the address space, for tests.
/// @throws OutOfMemory  they do not fit.
std::size_t checked_size(const char* what_for, std::int64_t count, std::int64_t item_size,
                         std::int64_t max_bytes = PTRDIFF_MAX);

/// Return memory for `count` items at a cache line, in large pages if it has room for one.
/// @throws OutOfMemory
Memory memory_for(const char* what_for, std::int64_t count, std::int64_t item_size);

}  // namespace l2m
