#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "l2m/plan/apportion.hpp"
#include "l2m/plan/batch_plan.hpp"
#include "l2m/plan/class_index.hpp"
#include "l2m/plan/dealer.hpp"
#include "l2m/plan/permutation.hpp"

namespace l2m {

/// Draws the rows of quotas from the passes of the classes.
///
/// Without replacement inside a class, over epochs too; a row that the batch already has is held for the class's next batch,
/// unless the class is smaller than its quota. One thread at a time, but for passes().
class RowDrawer {
 public:
  /// @param in_background  whether other threads work on the passes.
  RowDrawer(std::shared_ptr<const ClassIndex> index, std::uint64_t seed, bool shuffle, bool in_background,
            std::int64_t rank, std::int64_t world_size)
      : index_(std::move(index)), passes_(index_, seed, shuffle, in_background), dealer_(rank, world_size) {}

  [[nodiscard]] const ClassIndex& index() const { return *index_; }
  [[nodiscard]] Passes& passes() { return passes_; }
  /// Where the rows of this rank go.
  [[nodiscard]] Dealer& dealer() { return dealer_; }

  /// Draws what a class gives to the batches, and moves the state on.
  void draw(const Quotas::Class& quota, SamplerState& state, BatchPlans& plans);

 private:
  void draw_extras(const Quotas::Class& quota, SamplerState& state, BatchPlans& plans);
  void draw_wholes(const Quotas::Class& quota, SamplerState& state, BatchPlans& plans);
  void draw_for_batch(std::int64_t class_id, std::int64_t count, std::int64_t batch, SamplerState& state,
                      BatchPlans& plans);
  void draw_one_by_one(std::int64_t class_id, std::int64_t count, Cursor& cursor, std::vector<std::int64_t>& held);

  const std::shared_ptr<const ClassIndex> index_;
  Passes passes_;
  Dealer dealer_;
  std::vector<std::int64_t> drawn_;  // by draw_for_batch()
};

}  // namespace l2m
