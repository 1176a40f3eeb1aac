#include "l2m/run/block_pool.hpp"

#include <cstdint>
#include <cstring>
#include <memory>
#include <new>
#include <set>
#include <thread>
#include <utility>
#include <vector>

#include "block_memory.hpp"
#include "check.hpp"

namespace l2m::test {
namespace {

void fill(const Block& block, std::size_t size, int value) { std::memset(block.data(), value, size); }

bool is_filled(const Block& block, std::size_t size, int value) {
  for (std::size_t i = 0; i < size; ++i)
    if (block.data()[i] != static_cast<std::byte>(value)) return false;
  return true;
}

void test_blocks_are_aligned_and_disjoint() {
  for (const std::size_t size : {1U, 63U, 64U, 100U, 4097U}) {
    const auto pool = std::make_shared<HeapPool>(size, 3);
    std::vector<Block> blocks;
    for (int i = 0; i < 10; ++i) {
      blocks.push_back(pool->take());
      CHECK(reinterpret_cast<std::uintptr_t>(blocks.back().data()) % 64 == 0);
      fill(blocks.back(), size, i);
    }
    for (int i = 0; i < 10; ++i) CHECK(is_filled(blocks[static_cast<std::size_t>(i)], size, i));
  }
  CHECK(blocks_alive == 0);
}

void test_blocks_are_reused() {
  const auto pool = std::make_shared<HeapPool>(1000, 2);
  std::set<const std::byte*> seen;
  for (int i = 0; i < 100; ++i) {
    const Block one = pool->take(), other = pool->take();
    seen.insert(one.data());
    seen.insert(other.data());
  }
  CHECK(seen.size() == 2);
  CHECK(blocks_alive == 2);
}

void test_at_most_max_idle_blocks_are_kept() {
  for (const int max_idle : {0, 1, 4}) {
    const auto pool = std::make_shared<HeapPool>(10, static_cast<std::size_t>(max_idle));
    {
      std::vector<Block> blocks;
      for (int i = 0; i < 6; ++i) blocks.push_back(pool->take());
      CHECK(blocks_alive == 6);
    }
    CHECK(blocks_alive == max_idle);
  }
  CHECK(blocks_alive == 0);
}

void test_blocks_may_outlive_the_creator_of_the_pool() {
  auto pool = std::make_shared<HeapPool>(100, 2);
  const std::weak_ptr<BlockPool> watched = pool;
  Block kept = pool->take();
  {
    const Block idle = pool->take();
  }
  fill(kept, 100, 7);
  pool.reset();
  CHECK(!watched.expired());
  CHECK(is_filled(kept, 100, 7));
  kept = Block();
  CHECK(watched.expired());
  CHECK(blocks_alive == 0);
}

void test_blocks_move() {
  const auto pool = std::make_shared<HeapPool>(100, 0);
  Block one = pool->take();
  const std::byte* const data = one.data();
  Block other(std::move(one));
  CHECK(other.data() == data && one.data() == nullptr);  // NOLINT: a moved-from block is documented to be empty
  Block third;
  CHECK(third.data() == nullptr);
  third = std::move(other);
  CHECK(third.data() == data);
  CHECK(blocks_alive == 1);
  Block& same = third;
  third = std::move(same);
  CHECK(third.data() == data && blocks_alive == 1);
  third = pool->take();
  CHECK(third.data() != nullptr && blocks_alive == 1);
}

void test_blocks_are_returned_on_any_thread() {
  const auto pool = std::make_shared<HeapPool>(64, 4);
  std::vector<std::thread> threads;
  for (int thread = 0; thread < 4; ++thread) {
    threads.emplace_back([&pool, thread] {
      std::vector<Block> mine;
      for (int i = 0; i < 500; ++i) {
        mine.push_back(pool->take());
        fill(mine.back(), 64, thread);
        if (mine.size() == 5) {
          for (const Block& block : mine) CHECK(is_filled(block, 64, thread));
          std::thread([taken = std::move(mine)] {}).join();
          mine.clear();
        }
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  CHECK(blocks_alive <= 4);
}

void test_out_of_memory_is_reported() {
  const auto pool = std::make_shared<HeapPool>(64, 4);
  {
    const Block idle = pool->take();
  }
  blocks_until_failure = 0;
  const Block again = pool->take();  // needs no new memory
  CHECK_THROWS(std::bad_alloc, pool->take());
  const Block fresh = pool->take();
  CHECK(fresh.data() != nullptr);
}

void test_lent_memory_is_reused_until_it_is_released() {
  std::byte memory[3][8];
  const auto pool = std::make_shared<LentPool>();
  CHECK_THROWS(std::logic_error, pool->take());
  pool->lend(memory[0]);
  pool->lend(memory[1]);
  {
    const Block first = pool->take();
    Block second = pool->take();
    CHECK(first.data() != second.data());
    CHECK_THROWS(std::logic_error, pool->take());
    std::byte* const taken = second.data();
    CHECK(second.release() == taken && second.data() == nullptr);
  }
  pool->lend(memory[2]);
  const Block again = pool->take();
  const Block lent = pool->take();
  CHECK(again.data() != lent.data());
  CHECK_THROWS(std::logic_error, pool->take());
}

}  // namespace
}  // namespace l2m::test

int main() {
  using namespace l2m::test;
  test_blocks_are_aligned_and_disjoint();
  test_blocks_are_reused();
  test_at_most_max_idle_blocks_are_kept();
  test_blocks_may_outlive_the_creator_of_the_pool();
  test_blocks_move();
  if (l2m::kHasThreads) test_blocks_are_returned_on_any_thread();
  test_out_of_memory_is_reported();
  test_lent_memory_is_reused_until_it_is_released();
  CHECK(blocks_alive == 0);
}
