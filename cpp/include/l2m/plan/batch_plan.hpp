#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <span>
#include <vector>

#include "l2m/plan/apportion.hpp"

namespace l2m {

/// A row of a batch, by its id in the data.
struct PlannedRow {
  std::int64_t row;
  std::int32_t class_id;

  bool operator==(const PlannedRow&) const = default;
};

/// The rows of one batch, as this rank gets them.
using BatchPlan = std::span<const PlannedRow>;

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
  DueTimes due;                     ///< [K]
  std::vector<Cursor> cursors;      ///< [K]
  HeldRows held;                    ///< by class, no empty entries
  std::vector<std::int64_t> drawn;  ///< [K] rows drawn since the beginning of training

  bool operator==(const SamplerState&) const = default;
};

/// Consecutive batches of one epoch, planned together, and what each of them changes in the state.
///
/// Together, because the rows that a class gives to many batches lie side by side in its pass, and because the state of
/// a class is then touched once for all of them.
class BatchPlans {
 public:
  [[nodiscard]] std::int64_t size() const { return quotas_.num_batches; }

  /// The rows of a batch; grouped by class until the sampler has put them in order.
  [[nodiscard]] std::span<PlannedRow> rows(std::int64_t batch) const {
    return rows_of_batch_[static_cast<std::size_t>(batch)];
  }

  /// Moves a state from before batch `from` to before batch `to`. O(classes in the batches).
  void advance(SamplerState& state, std::int64_t from, std::int64_t to) const;

 private:
  friend class RowDrawer;
  friend class Sampler;

  /// Where a batch left a class in which it did more than draw the next rows of a pass.
  struct Turn {
    std::int64_t class_id;
    std::int64_t batch;
    Cursor cursor;
    std::vector<std::int64_t> held;
  };

  Quotas quotas_;
  std::vector<PlannedRow> rows_;  // batch after batch
  std::vector<std::span<PlannedRow>> rows_of_batch_;
  std::vector<Turn> turns_;            // by class, then by batch
  std::optional<std::uint64_t> pass_;  // at whose beginning the first batch puts class 0
};

}  // namespace l2m
