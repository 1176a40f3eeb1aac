#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <span>
#include <vector>

#include "l2m/plan/apportion.hpp"

namespace l2m {

/// Row of a batch, by its id in the data.
struct PlannedRow {
  std::int64_t row;
  std::int32_t class_id;

  bool operator==(const PlannedRow&) const = default;
};

/// Rows of one batch on this rank.
using BatchPlan = std::span<const PlannedRow>;

/// Read position in the pass of a class: the next row is the first held one, else pass[position].
struct Cursor {
  std::uint64_t pass = 0;
  std::int64_t position = 0;  ///< in [0, class size]

  bool operator==(const Cursor&) const = default;
};

/// Rows of the current pass, by class, that were skipped because their batch already had them. They come first next
/// time.
using HeldRows = std::map<std::int64_t, std::vector<std::int64_t>>;

/// State on which the next batch depends, apart from the options: O(K + held rows).
struct SamplerState {
  std::uint64_t total_step = 0;     ///< batches since the beginning of training
  std::vector<double> proportions;  ///< [K] for the next batch; the due times are relative to them
  DueTimes due;                     ///< [K]
  std::vector<Cursor> cursors;      ///< [K]
  HeldRows held;                    ///< by class, without empty entries
  std::vector<std::int64_t> drawn;  ///< [K] rows drawn since the beginning of training

  bool operator==(const SamplerState&) const = default;
};

/// Plans of consecutive batches of one epoch, and the state changes that each of them makes.
///
/// They are planned together because the rows that a class contributes to many batches are adjacent in its pass, and
/// because the state of a class is then updated once for all of them.
class BatchPlans {
 public:
  [[nodiscard]] std::int64_t size() const { return quotas_.num_batches; }

  /// Return the rows of a batch, grouped by class until Sampler::arrange() has reordered them.
  [[nodiscard]] std::span<PlannedRow> rows(std::int64_t batch) const {
    return rows_of_batch_[static_cast<std::size_t>(batch)];
  }

  /// Advance a state from before batch `from` to before batch `to`. O(classes in the batches).
  void advance(SamplerState& state, std::int64_t from, std::int64_t to) const;

 private:
  friend class RowDrawer;
  friend class Sampler;

  /// State of a class after a batch that did more than draw the next rows of its pass.
  struct Turn {
    std::int64_t class_id;
    std::int64_t batch;
    Cursor cursor;
    std::size_t held_begin, held_end;  // its held rows, in held_
  };

  Quotas quotas_;
  std::vector<PlannedRow> rows_;  // by batch
  std::vector<std::span<PlannedRow>> rows_of_batch_;
  std::vector<Turn> turns_;  // by class, then by batch
  std::vector<std::int64_t> held_;
  std::optional<std::uint64_t> pass_;  // pass that class 0 starts at the first batch
};

}  // namespace l2m
