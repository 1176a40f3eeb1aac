#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include "l2m/apportion.hpp"
#include "l2m/class_index.hpp"
#include "l2m/shuffle.hpp"
#include "l2m/thread_pool.hpp"

namespace l2m {

/// How far a class has been drawn: the next row is the first held one, else pass[position].
struct Cursor {
  std::uint64_t pass = 0;
  std::int64_t position = 0;  ///< in [0, class size]

  bool operator==(const Cursor&) const = default;
};

/// Rows of the current pass that were passed over because their batch already had them; they come first next time.
using HeldRows = std::map<std::int64_t, std::vector<std::int64_t>>;

/// All that the next batch depends on, besides the settings: O(K + held rows).
struct SamplerState {
  std::uint64_t total_step = 0;     ///< batches since the beginning of training
  std::vector<double> proportions;  ///< [K] of the next batch; the due times are relative to them
  std::vector<DueTime> due;         ///< [K]
  std::vector<Cursor> cursors;      ///< [K]
  HeldRows held;                    ///< by class, no empty entries

  bool operator==(const SamplerState&) const = default;
};

/// What one batch changed in the state: the new values of the classes it touched.
struct StateChange {
  struct Class {
    std::int64_t class_id;
    Cursor cursor;
    DueTime due;
  };
  std::vector<Class> classes;
  std::vector<std::pair<std::int64_t, std::vector<std::int64_t>>> held;

  void apply_to(SamplerState& state) const;
};

/// The rows of one batch, as this rank gets them.
struct BatchPlan {
  std::vector<std::int64_t> rows;
  std::vector<std::int32_t> classes;  ///< class of each row
};

struct SamplerOptions {
  std::uint64_t seed = 0;
  std::int64_t global_batch = 1;  ///< rows of a full batch over all ranks, in [1, 2^31)
  std::int64_t rank = 0;
  std::int64_t world_size = 1;
  bool shuffle = true;   ///< a fresh random order of every class each pass; else rows ascend, and batches are grouped
  bool grouped = false;  ///< rows of a batch stay grouped by class
  bool epoch_is_pass = false;  ///< epoch e starts at the beginning of pass e
};

/// Plans batches: apportions the rows of each batch to classes and draws them from the passes.
///
/// A pure function of settings and state; neither thread count nor timing matters. Without replacement inside a class,
/// over epochs too; a row that the batch already has is held for the class's next batch, unless the class is smaller
/// than its quota. One thread at a time.
class Sampler {
 public:
  /// @param queue  prepares the next passes; must be cancelled before the sampler dies.
  Sampler(std::shared_ptr<const ClassIndex> index, const SamplerOptions& options, TaskQueue& queue);

  /// The state at the beginning of training. @param proportions  [K] normalised.
  [[nodiscard]] SamplerState initial_state(std::vector<double> proportions) const;

  /// Takes new proportions for the batches from state.total_step on.
  void change_proportions(SamplerState& state, std::vector<double> proportions) const;

  /// Refuses a state that cannot be one of this sampler, since it would lead outside the data.
  /// @throws std::invalid_argument
  void check(const SamplerState& state) const;

  /// Goes on from `state`.
  void restore(const SamplerState& state);
  [[nodiscard]] const SamplerState& state() const { return state_; }
  void change_proportions(std::vector<double> proportions);

  /// Starts on the permutations that the first batches of `epoch` need.
  void prepare(std::uint64_t epoch);

  /// Plans the batch of (epoch, step), which is to have `global_rows` rows over all ranks; fewer than
  /// options.global_batch only where there is one class.
  void plan(std::uint64_t epoch, std::uint64_t step, std::int64_t global_rows, BatchPlan& plan, StateChange& change);

 private:
  void draw(std::int64_t class_id, std::int64_t count, BatchPlan& global, StateChange& change);
  void draw_one_by_one(std::int64_t class_id, std::int64_t count, Cursor& cursor, std::int64_t* rows,
                       StateChange& change);
  void take_share_of_rank(std::uint64_t epoch, std::uint64_t step, BatchPlan& plan) const;

  const std::shared_ptr<const ClassIndex> index_;
  const SamplerOptions options_;
  Passes passes_;
  Apportioner apportioner_;
  SamplerState state_;
  BatchPlan global_;  // the batch under way, of all ranks, grouped by class; where there are several
};

}  // namespace l2m
