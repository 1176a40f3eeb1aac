#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "l2m/loss/window.hpp"
#include "l2m/plan/batch_plan.hpp"

namespace l2m {

/// All that a run goes on from, besides its data and settings: O(K + held rows).
struct LoaderState {
  static constexpr std::int64_t kVersion = 4;  // 3: without lookahead, memory of policies and rows drawn

  std::uint64_t seed = 0;
  std::int64_t rank = 0;
  std::int64_t world_size = 1;
  std::uint64_t epoch = 0;
  std::optional<std::uint64_t> next_epoch;  ///< asked for by set_epoch() while an epoch runs
  std::int64_t step = 0;                    ///< batches of the epoch
  bool updated =
      false;  ///< the window of the epoch that runs, or before its first batch of the one before, was closed already
  std::int64_t windows = 0;  ///< of update_every steps that acted
  SamplerState sampler;
  std::vector<double> next_proportions;  ///< [K] the newest
  std::vector<double> class_losses;      ///< [K] last known mean loss; NaN: none yet
  std::vector<LossSums> losses;          ///< recorded in each window from `windows` on that has begun
  std::vector<double> memory;            ///< [memory_rows, K] of the policy
};

/// The state with which this rank goes on.
///
/// @param states  one, or those of all ranks, whose pending losses add up: rank 0 takes them.
/// @throws std::invalid_argument  ranks are missing, states are not of one moment, or pending losses would be lost.
LoaderState merged(std::vector<LoaderState> states, std::int64_t rank, std::int64_t world_size);

}  // namespace l2m
