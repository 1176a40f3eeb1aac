#include "l2m/run/block_pool.hpp"

#include <stdexcept>

namespace l2m {
namespace {

constexpr std::size_t kAlignment = 64;

}  // namespace

HeapPool::~HeapPool() {
  for (std::byte* data : idle_) allocator_.free(allocator_.user, data, block_size_, kAlignment);
}

std::byte* HeapPool::take_memory() {
  {
    const Lock lock(mutex_);
    if (!idle_.empty()) {
      std::byte* const data = idle_.back();
      idle_.pop_back();
      return data;
    }
    idle_.reserve(max_idle_);  // so that give_back() cannot fail
  }
  return allocator_.take(block_size_, kAlignment);
}

void HeapPool::give_back(std::byte* data) noexcept {
  // Does not block: in a forked child, the lock may be held forever by a thread that does not exist there.
  if (mutex_.try_lock()) {
    const bool keep = idle_.size() < max_idle_;
    if (keep) idle_.push_back(data);
    mutex_.unlock();
    if (keep) return;
  }
  allocator_.free(allocator_.user, data, block_size_, kAlignment);
}

void LentPool::lend(std::byte* data) {
  const Lock lock(mutex_);
  if (lent_ == idle_.capacity()) idle_.reserve(2 * lent_ + 1);  // so that give_back() cannot fail
  idle_.push_back(data);
  ++lent_;
}

std::size_t LentPool::lent() {
  const Lock lock(mutex_);
  return lent_;
}

std::byte* LentPool::take_memory() {
  const Lock lock(mutex_);
  if (idle_.empty())
    throw std::logic_error("all pinned memory is in use: a forked child cannot use the memory that its parent pinned");
  std::byte* const data = idle_.back();
  idle_.pop_back();
  return data;
}

void LentPool::give_back(std::byte* data) noexcept {
  const Lock lock(mutex_);
  idle_.push_back(data);
}

void LentPool::forget() {
  const Lock lock(mutex_);
  --lent_;
}

}  // namespace l2m
