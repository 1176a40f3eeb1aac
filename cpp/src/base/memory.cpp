#include "l2m/base/memory.hpp"

#include <new>

#include "l2m/base/errors.hpp"

namespace l2m {
namespace {

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

}  // namespace l2m
