#pragma once

#include <cstdint>
#include <vector>

#include "l2m/plan/batch_plan.hpp"

namespace l2m {

/// Distributor of the rows of each batch over the ranks, round-robin. It stores those of this rank.
class Dealer {
 public:
  Dealer(std::int64_t rank, std::int64_t world_size) : rank_(rank), world_size_(world_size) {}

  void begin(std::size_t num_batches) {
    next_.resize(num_batches);
    next_rank_.assign(num_batches, 0);
  }
  /// @param rows  output for the rows of this rank.   @param rank  rank that gets the first row.
  void begin_batch(std::size_t batch, PlannedRow* rows, std::int64_t rank) {
    next_[batch] = rows;
    next_rank_[batch] = rank;
  }

  /// Deal the next `count` rows of a class: row_at(0) .. row_at(count - 1).
  template <class RowAt>
  void deal(std::int64_t batch, std::int64_t class_id, std::int64_t count, RowAt&& row_at) {
    const auto b = static_cast<std::size_t>(batch);
    const auto k = static_cast<std::int32_t>(class_id);
    PlannedRow* out = next_[b];
    if (world_size_ == 1) {
      for (std::int64_t i = 0; i < count; ++i) out[i] = {row_at(i), k};
      next_[b] = out + count;
      return;
    }
    const std::int64_t first = (rank_ - next_rank_[b] + world_size_) % world_size_;
    for (std::int64_t i = first; i < count; i += world_size_) *out++ = {row_at(i), k};
    next_[b] = out;
    next_rank_[b] = (next_rank_[b] + count) % world_size_;
  }

  /// Deal the next row of a class.
  void deal(std::int64_t batch, std::int64_t class_id, std::int64_t row) {
    const auto b = static_cast<std::size_t>(batch);
    if (world_size_ > 1) {
      const std::int64_t rank = next_rank_[b];
      next_rank_[b] = rank + 1 == world_size_ ? 0 : rank + 1;
      if (rank != rank_) return;
    }
    *next_[b]++ = {row, static_cast<std::int32_t>(class_id)};
  }

  [[nodiscard]] PlannedRow* end_of(std::size_t batch) const { return next_[batch]; }

 private:
  const std::int64_t rank_, world_size_;
  // For each batch:
  std::vector<PlannedRow*> next_;
  std::vector<std::int64_t> next_rank_;
};

}  // namespace l2m
