#include "l2m/base/memory.hpp"

#include <algorithm>
#include <new>

#include "l2m/base/errors.hpp"
#include "l2m/base/platform.hpp"

namespace l2m {
namespace {

constexpr std::size_t kLargePage = 2 << 20;
constexpr std::size_t kLine = 64;

constexpr Allocator kNew{[](void* /*user*/, std::size_t size, std::size_t alignment) {
                           return ::operator new(size, std::align_val_t{alignment});
                         },
                         [](void* /*user*/, void* memory, std::size_t /*size*/, std::size_t alignment) {
                           ::operator delete(memory, std::align_val_t{alignment});
                         },
                         nullptr};

Allocator current = kNew;

}  // namespace

std::byte* Allocator::take(std::size_t size, std::size_t alignment) const {
  void* const memory = allocate(user, size, alignment);
  if (memory == nullptr) throw std::bad_alloc();
  return static_cast<std::byte*>(memory);
}

void set_allocator(const Allocator* allocator) { current = allocator != nullptr ? *allocator : kNew; }

const Allocator& allocator() { return current; }

Memory::Memory(std::size_t size, std::size_t alignment)
    : data_(current.take(size, alignment)), size_(size), alignment_(alignment), allocator_(current) {}

std::size_t checked_size(const char* what_for, std::int64_t count, std::int64_t item_size, std::int64_t max_bytes) {
  if (count < 0 || count > max_bytes / item_size)
    throw OutOfMemory(what_for, count, static_cast<double>(count) * static_cast<double>(item_size));
  return static_cast<std::size_t>(count);
}

Memory memory_for(const char* what_for, std::int64_t count, std::int64_t item_size) {
  const std::size_t bytes = checked_size(what_for, count, item_size) * static_cast<std::size_t>(item_size);
  try {
    Memory memory(std::max(bytes, kLine), bytes >= kLargePage ? kLargePage : kLine);
    if (bytes >= kLargePage) prefer_large_pages(memory.data(), bytes);
    return memory;
  } catch (const std::bad_alloc&) {
    throw OutOfMemory(what_for, count, static_cast<double>(bytes));
  }
}

}  // namespace l2m
