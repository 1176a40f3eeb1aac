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
  /// Ranks whose rows a batch lists, one rank after the other, as each of them would have them. Needs world_size 1.
  std::int64_t listed_ranks = 1;
  bool shuffle = true;          ///< new random order of every class in each pass; false: index order, grouped batches
  bool grouped = false;         ///< keep the rows of a batch grouped by class
  bool epoch_is_pass = false;   ///< epoch e starts at the beginning of pass e
  std::int64_t max_slices = 0;  ///< slices in which passes of large classes are computed; 0: by the number of rows
  bool in_order = false;        ///< rank r gets the rows r, r + world_size, ... of every global batch
};

/// Planner of batches: an Apportioner converts proportions to quotas, and a RowDrawer draws the rows.
///
/// Plans are a pure function of options and state: they do not depend on the thread count, the timing or the
/// number of batches planned together. Not thread-safe, except arrange() and passes().
class Sampler {
 public:
  /// @param in_background  other threads work on the passes.
  Sampler(std::shared_ptr<const ClassIndex> index, const SamplerOptions& options, bool in_background);
  Sampler(const Sampler&) = delete;
  Sampler& operator=(const Sampler&) = delete;

  /// Return the state at the beginning of training. @param proportions  [K] normalized.
  [[nodiscard]] SamplerState initial_state(std::vector<double> proportions) const;

  /// Set the proportions of the batches from state.total_step on.
  void change_proportions(SamplerState& state, std::vector<double> proportions) const;

  /// Check that proportions are finite, >= 0 and 0 for empty classes, and sum to 1.
  /// @throws std::invalid_argument  they are not.
  void check_proportions(std::span<const double> proportions) const;

  /// Check that a state is valid for this sampler: rows within the data, no row twice, valid proportions.
  /// Computes the current pass of each class that has held rows.
  /// @throws std::invalid_argument  it is not.
  void check(const SamplerState& state);

  /// Resume from `state`.
  void restore(const SamplerState& state);
  [[nodiscard]] const SamplerState& state() const { return state_; }
  void change_proportions(std::vector<double> proportions);

  /// Start computing the permutations that the first batches of `epoch` need.
  void prepare(std::uint64_t epoch);

  /// Plan between one and `max_batches` batches of an epoch from `step` on, each of `global_rows` rows over all ranks.
  /// `global_rows` may be less than options.global_batch only with one class.
  void plan(std::uint64_t epoch, std::uint64_t step, std::int64_t max_batches, std::int64_t global_rows,
            BatchPlans& plans);

  /// Order the rows of the batch of (epoch, step) as the options request. Thread-safe.
  void arrange(std::uint64_t epoch, std::uint64_t step, std::span<PlannedRow> rows) const;

  /// Return the passes, so that idle threads can call Passes::work().
  [[nodiscard]] Passes& passes() { return drawer_.passes(); }

 private:
  [[nodiscard]] std::int64_t first_rank(std::uint64_t epoch, std::uint64_t step, std::int64_t num_ranks) const;
  void check_held(std::int64_t class_id, std::span<const std::int64_t> held, const Cursor& cursor);

  const SamplerOptions options_;
  RowDrawer drawer_;
  Apportioner apportioner_;
  SamplerState state_;
};

}  // namespace l2m
