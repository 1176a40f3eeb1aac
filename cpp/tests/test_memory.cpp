#include "l2m/base/memory.hpp"

#include <cstdint>
#include <cstdlib>
#include <memory>
#include <utility>

#include "check.hpp"
#include "l2m/base/errors.hpp"
#include "l2m/plan/class_index.hpp"
#include "l2m/run/block_pool.hpp"

namespace l2m::test {
namespace {

constexpr std::int64_t k32Bits = 0x7FFFFFFF;  // largest object of a 32-bit machine

void test_sizes_are_checked_in_64_bits() {
  CHECK(checked_size("the ids", 5, 4) == 5);
  CHECK(checked_size("the ids", k32Bits / 4, 4, k32Bits) == k32Bits / 4);
  // In 32 bits: 2^32, which is 0, and (2^32 + 5) * 4, which is 20.
  for (const std::int64_t count :
       {std::int64_t{1} << 30, (std::int64_t{1} << 32) + 5, k32Bits / 4 + 1, std::int64_t{-1}})
    CHECK_THROWS(OutOfMemory, checked_size("the ids", count, 4, k32Bits));
  CHECK_THROWS(OutOfMemory, checked_size("the ids", PTRDIFF_MAX, 2));
}

void test_row_ids_that_do_not_fit_are_refused() {
  CHECK_THROWS(OutOfMemory, RowIds(std::int64_t{1} << 62, 4));
  CHECK_THROWS(OutOfMemory, RowIds(std::int64_t{1} << 61, 8));
  if (sizeof(std::size_t) > 4) return;
  CHECK_THROWS(OutOfMemory, RowIds(std::int64_t{1} << 30, 4));
  CHECK_THROWS(OutOfMemory, RowIds((std::int64_t{1} << 32) + 5, 4));
}

/// Allocator of a limited number of bytes, which counts them.
class Arena {
 public:
  explicit Arena(std::size_t limit) : free_(limit) { set_allocator(&allocator_); }
  ~Arena() { set_allocator(nullptr); }
  Arena(const Arena&) = delete;
  Arena& operator=(const Arena&) = delete;

  [[nodiscard]] std::size_t free() const { return free_; }

 private:
  static void* allocate(void* user, std::size_t size, std::size_t alignment) {
    auto& arena = *static_cast<Arena*>(user);
    CHECK(alignment >= 64 && (alignment & (alignment - 1)) == 0);
    if (size > arena.free_) return nullptr;
    arena.free_ -= size;
    return std::aligned_alloc(alignment, (size + alignment - 1) / alignment * alignment);
  }
  static void give_back(void* user, void* memory, std::size_t size, std::size_t /*alignment*/) {
    static_cast<Arena*>(user)->free_ += size;
    std::free(memory);
  }

  std::size_t free_;
  const Allocator allocator_{allocate, give_back, this};
};

void test_row_ids_and_blocks_use_the_allocator_that_is_set() {
  Arena outer(1000);
  RowIds ids(100, 4);
  CHECK(outer.free() == 600);
  auto pool = std::make_shared<HeapPool>(300, 2);
  {
    const Arena inner(64);
    const Block block = pool->take();  // from the allocator of the pool
    CHECK(outer.free() == 300 && inner.free() == 64);
    CHECK_THROWS(OutOfMemory, RowIds(100, 4));
    const RowIds few(10, 2);
    CHECK(inner.free() == 0);
    ids = RowIds();  // returns to its allocator
    CHECK(outer.free() == 700);
  }
  const Block first = pool->take(), second = pool->take();
  CHECK(outer.free() == 400);
  CHECK(pool->take().data() != nullptr && outer.free() == 100);  // kept by the pool
  const Block third = pool->take();
  CHECK_THROWS(std::bad_alloc, pool->take());
}

void test_memory_moves() {
  const Arena arena(1000);
  Memory first(64, 64), second(128, 64);
  const std::byte* const data = second.data();
  first = std::move(second);
  CHECK(first.data() == data && arena.free() == 1000 - 192);
  second = Memory();
  CHECK(arena.free() == 1000 - 128);
  const Memory third = std::move(first);
  CHECK(third.data() == data && first.data() == nullptr);
}

}  // namespace
}  // namespace l2m::test

int main() {
  using namespace l2m::test;
  test_sizes_are_checked_in_64_bits();
  test_row_ids_that_do_not_fit_are_refused();
  test_row_ids_and_blocks_use_the_allocator_that_is_set();
  test_memory_moves();
}
