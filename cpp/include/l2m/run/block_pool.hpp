#pragma once

#include <cstddef>
#include <memory>
#include <mutex>
#include <utility>
#include <vector>

namespace l2m {

/// Where the memory of batches comes from: blocks of one size.
class BlockPool : public std::enable_shared_from_this<BlockPool> {
 public:
  virtual ~BlockPool() = default;

  /// A block's single owner; it may outlive whoever made the pool, and die on any thread.
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
    /// Takes the memory away from its pool.
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

  /// A block with any content.
  /// @throws std::bad_alloc
  Block take() { return {take_memory(), shared_from_this()}; }

 protected:
  virtual std::byte* take_memory() = 0;
  virtual void give_back(std::byte* data) noexcept = 0;
  virtual void forget() {}
};

using Block = BlockPool::Block;

/// Memory of the process, aligned to 64 bytes, that is used again when its last user is gone: fresh memory costs page faults.
class HeapPool final : public BlockPool {
 public:
  /// @param block_size  bytes.
  /// @param max_idle    blocks kept while nobody uses them; those beyond are freed.
  HeapPool(std::size_t block_size, std::size_t max_idle) : block_size_(block_size), max_idle_(max_idle) {}
  ~HeapPool() override;
  HeapPool(const HeapPool&) = delete;
  HeapPool& operator=(const HeapPool&) = delete;

 private:
  std::byte* take_memory() override;
  void give_back(std::byte* data) noexcept override;

  const std::size_t block_size_;
  const std::size_t max_idle_;
  std::mutex mutex_;
  std::vector<std::byte*> idle_;
};

/// Memory that somebody lends, such as pinned memory: a block is for one use, and its last user takes it away.
class LentPool final : public BlockPool {
 public:
  /// Lends memory that has room for a batch, and outlives the pool or is released before.
  void lend(std::byte* data);
  /// Blocks that were lent and not taken away.
  std::size_t lent();

 private:
  /// @throws std::logic_error  all that was lent is in use.
  std::byte* take_memory() override;
  void give_back(std::byte* data) noexcept override;
  void forget() override;

  std::mutex mutex_;
  std::vector<std::byte*> idle_;
  std::size_t lent_ = 0;
};

}  // namespace l2m
