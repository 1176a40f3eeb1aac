#pragma once

#include <cstddef>
#include <memory>
#include <utility>
#include <vector>

#include "l2m/base/memory.hpp"
#include "l2m/base/threads.hpp"

namespace l2m {

/// Source of batch memory, in blocks of one size.
class BlockPool : public std::enable_shared_from_this<BlockPool> {
 public:
  virtual ~BlockPool() = default;

  /// Owner of one block. It may outlive the creator of the pool and be destroyed on any thread.
  class Block {
   public:
    Block() = default;
    Block(Block&& other) noexcept : data_(std::exchange(other.data_, nullptr)), pool_(std::move(other.pool_)) {}
    Block& operator=(Block&& other) noexcept {
      std::swap(data_, other.data_);
      std::swap(pool_, other.pool_);
      return *this;
    }
    ~Block() {
      if (data_ != nullptr) pool_->give_back(data_);
    }
    [[nodiscard]] std::byte* data() const { return data_; }
    /// Detach the memory from its pool and return it.
    std::byte* release() {
      pool_->forget();
      return std::exchange(data_, nullptr);
    }

   private:
    friend class BlockPool;
    Block(std::byte* data, std::shared_ptr<BlockPool> pool) : data_(data), pool_(std::move(pool)) {}
    std::byte* data_ = nullptr;
    std::shared_ptr<BlockPool> pool_;
  };

  /// Take a block with unspecified content.
  /// @throws std::bad_alloc
  Block take() { return {take_memory(), shared_from_this()}; }

 protected:
  virtual std::byte* take_memory() = 0;
  virtual void give_back(std::byte* data) noexcept = 0;
  virtual void forget() {}
};

using Block = BlockPool::Block;

/// Host memory, aligned to 64 bytes, from the allocator that was set when the pool was created. Blocks are reused when
/// their last user is gone, because fresh memory costs page faults.
class HeapPool final : public BlockPool {
 public:
  /// @param block_size  bytes.
  /// @param max_idle    unused blocks to keep; others are freed.
  HeapPool(std::size_t block_size, std::size_t max_idle) : block_size_(block_size), max_idle_(max_idle) {}
  ~HeapPool() override;
  HeapPool(const HeapPool&) = delete;
  HeapPool& operator=(const HeapPool&) = delete;

 private:
  std::byte* take_memory() override;
  void give_back(std::byte* data) noexcept override;

  const std::size_t block_size_;
  const std::size_t max_idle_;
  const Allocator allocator_ = allocator();
  Mutex mutex_;
  std::vector<std::byte*> idle_;
};

/// Memory lent by the caller, such as pinned memory. Each block is used once and leaves the pool with its last user.
class LentPool final : public BlockPool {
 public:
  /// Lend memory for one batch, which must outlive the pool unless it is released before.
  void lend(std::byte* data);
  /// Return the number of blocks that are lent and not released.
  std::size_t lent();

 private:
  /// @throws std::logic_error  all lent memory is in use.
  std::byte* take_memory() override;
  void give_back(std::byte* data) noexcept override;
  void forget() override;

  Mutex mutex_;
  std::vector<std::byte*> idle_;
  std::size_t lent_ = 0;
};

}  // namespace l2m
