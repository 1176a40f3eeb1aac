#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "l2m/plan/apportion.hpp"
#include "l2m/plan/batch_plan.hpp"
#include "l2m/plan/class_index.hpp"
#include "l2m/plan/dealer.hpp"
#include "l2m/plan/passes.hpp"

namespace l2m {

/// Source of rows for quotas, drawn from the passes of the classes.
///
/// Draws without replacement within a class, across epochs too. A row that the batch already has is held for the next
/// batch of its class, unless the class is smaller than its quota. Not thread-safe, except passes().
class RowDrawer {
 public:
  /// @param in_background  other threads work on the passes.   @param max_slices  of the passes; 0: by number of rows.
  RowDrawer(std::shared_ptr<const ClassIndex> index, std::uint64_t seed, bool shuffle, bool in_background,
            std::int64_t max_slices, std::int64_t rank, std::int64_t world_size)
      : index_(std::move(index)),
        passes_(index_, seed, shuffle, in_background, max_slices),
        dealer_(rank, world_size) {}

  [[nodiscard]] const ClassIndex& index() const { return *index_; }
  [[nodiscard]] Passes& passes() { return passes_; }
  /// Return the dealer that collects the rows of this rank.
  [[nodiscard]] Dealer& dealer() { return dealer_; }

  /// Draw the rows of a class for all batches and advance the state.
  void draw(const Quotas::Class& quota, SamplerState& state, BatchPlans& plans);

 private:
  void draw_extras(const Quotas::Class& quota, SamplerState& state, BatchPlans& plans);
  void draw_wholes(const Quotas::Class& quota, SamplerState& state, BatchPlans& plans);
  void draw_for_batch(std::int64_t class_id, std::int64_t count, std::int64_t batch, SamplerState& state,
                      BatchPlans& plans);
  void draw_one_by_one(std::int64_t class_id, std::int64_t count, Cursor& cursor);

  const std::shared_ptr<const ClassIndex> index_;
  Passes passes_;
  Dealer dealer_;
  // Scratch of draw_for_batch():
  std::vector<std::int64_t> drawn_;
  std::vector<std::int64_t> held_;     // rows to be held after the batch
  std::vector<std::int64_t> waiting_;  // rows held since before the current round
  std::vector<std::int64_t> tail_;     // sorted rows of the round when the pass ended, which the new pass may repeat
};

}  // namespace l2m
