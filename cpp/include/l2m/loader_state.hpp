#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "l2m/loss/window.hpp"
#include "l2m/plan/batch_plan.hpp"

namespace l2m {

/// State from which a run resumes, apart from its data and options: O(K + held rows).
struct LoaderState {
  static constexpr std::int64_t kVersion = 4;  // version 3 had no lookahead, policy memory or drawn rows

  std::uint64_t seed = 0;
  std::int64_t rank = 0;
  std::int64_t world_size = 1;
  std::uint64_t epoch = 0;
  std::optional<std::uint64_t> next_epoch;  ///< set by set_epoch() during an epoch
  std::int64_t step = 0;                    ///< batches consumed in the epoch
  bool updated = false;  ///< update() has closed the window of this epoch (before its first batch: of the previous one)
  std::int64_t windows = 0;  ///< windows of update_every steps applied so far
  SamplerState sampler;
  std::vector<double> next_proportions;  ///< [K] the newest proportions
  std::vector<double> class_losses;      ///< [K] last known mean loss; NaN if unknown
  std::vector<LossSums> losses;          ///< one entry for each window that has begun, from number `windows` on
  std::vector<double> memory;            ///< [memory_rows, K] memory of the policy
};

/// Return the state with which this rank resumes.
///
/// @param states  one state, or those of all ranks. Pending losses are added up and given to rank 0.
/// @throws std::invalid_argument  ranks are missing, states differ, or pending losses would be lost.
LoaderState merge_states(std::vector<LoaderState> states, std::int64_t rank, std::int64_t world_size);

}  // namespace l2m
