#pragma once

#include <cstddef>
#include <memory>
#include <mutex>
#include <utility>
#include <vector>

namespace l2m {

/// Memory blocks of one size that are used again when their last user is gone, since fresh ones cost page faults. Or, of
/// memory that is lent, blocks for one use each: their last user takes them away.
class BlockPool : public std::enable_shared_from_this<BlockPool> {
 public:
  /// @param max_idle  blocks kept while nobody uses them; those beyond are freed.
  BlockPool(std::size_t block_size, std::size_t max_idle) : block_size_(block_size), max_idle_(max_idle) {}
  /// Of lent memory.
  BlockPool() = default;
  ~BlockPool();
  BlockPool(const BlockPool&) = delete;
  BlockPool& operator=(const BlockPool&) = delete;

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
    /// Takes the memory away from the pool that it was lent to.
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

  /// A block, aligned to 64 bytes where it is not lent, with any content.
  /// @throws std::bad_alloc  @throws std::logic_error  all that was lent is in use.
  Block take();
  /// Lends memory, of the size of a block, that outlives the pool or is released before.
  void lend(std::byte* data);

 private:
  void give_back(std::byte* data) noexcept;
  void forget();

  const std::size_t block_size_ = 0;  // 0: memory is lent
  const std::size_t max_idle_ = 0;
  std::mutex mutex_;
  std::vector<std::byte*> idle_;
  std::size_t lent_ = 0;  // and not taken away
};

using Block = BlockPool::Block;

}  // namespace l2m
