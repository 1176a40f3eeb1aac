#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "l2m/plan/apportion.hpp"
#include "l2m/plan/batch_plan.hpp"
#include "l2m/plan/class_index.hpp"
#include "l2m/plan/row_drawer.hpp"

namespace l2m {

struct SamplerOptions {
  std::uint64_t seed = 0;
  std::int64_t global_batch = 1;  ///< rows of a full batch over all ranks, in [1, 2^31)
  std::int64_t rank = 0;
  std::int64_t world_size = 1;
  bool shuffle = true;   ///< a fresh random order of every class each pass; else rows ascend, and batches are grouped
  bool grouped = false;  ///< rows of a batch stay grouped by class
  bool epoch_is_pass = false;  ///< epoch e starts at the beginning of pass e
  bool in_order = false;       ///< rank r gets the rows r, r + world_size, ... of every global batch
};

/// Plans batches: an Apportioner turns proportions into quotas, which need no rows, and a RowDrawer draws the rows.
///
/// A pure function of settings and state; neither thread count nor timing matters, nor how many batches are planned
/// together. One thread at a time, but for arrange() and passes().
class Sampler {
 public:
  /// @param in_background  whether other threads work on the passes.
  Sampler(std::shared_ptr<const ClassIndex> index, const SamplerOptions& options, bool in_background);
  Sampler(const Sampler&) = delete;
  Sampler& operator=(const Sampler&) = delete;

  /// The state at the beginning of training. @param proportions  [K] normalised.
  [[nodiscard]] SamplerState initial_state(std::vector<double> proportions) const;

  /// Takes new proportions for the batches from state.total_step on.
  void change_proportions(SamplerState& state, std::vector<double> proportions) const;

  /// Refuses proportions that are negative or not finite, do not sum to 1, or give a class without rows a share.
  /// @throws std::invalid_argument
  void check_proportions(std::span<const double> proportions) const;

  /// Refuses a state that cannot be one of this sampler: one that would lead outside the data, give a row twice, or plan from
  /// proportions that are none. Makes the pass of each class that has rows held.
  /// @throws std::invalid_argument
  void check(const SamplerState& state);

  /// Goes on from `state`.
  void restore(const SamplerState& state);
  [[nodiscard]] const SamplerState& state() const { return state_; }
  void change_proportions(std::vector<double> proportions);

  /// Starts on the permutations that the first batches of `epoch` need.
  void prepare(std::uint64_t epoch);

  /// Plans batches of an epoch from `step` on, at least one and at most `most_batches`, of `global_rows` rows over all
  /// ranks each; fewer than options.global_batch only where there is one class.
  void plan(std::uint64_t epoch, std::uint64_t step, std::int64_t most_batches, std::int64_t global_rows,
            BatchPlans& plans);

  /// Puts the rows of the batch of (epoch, step) in the order that the options ask for. Any thread may call.
  void arrange(std::uint64_t epoch, std::uint64_t step, std::span<PlannedRow> rows) const;

  /// For threads that have nothing better to do: see Passes::work().
  [[nodiscard]] Passes& passes() { return drawer_.passes(); }

 private:
  void check_held(std::int64_t class_id, std::span<const std::int64_t> held, const Cursor& cursor);

  const SamplerOptions options_;
  RowDrawer drawer_;
  Apportioner apportioner_;
  SamplerState state_;
};

}  // namespace l2m
