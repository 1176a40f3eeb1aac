#pragma once

#include <cstddef>
#include <cstdint>
#include <limits>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "l2m/base/max_count.hpp"
#include "l2m/loss/window.hpp"
#include "l2m/plan/batch_plan.hpp"

namespace l2m {

/// Data, options and policy of a loader by value, as (name, value): what its states have in common.
using Fingerprint = std::vector<std::pair<std::string, std::string>>;

/// State from which a run resumes: O(K + held rows).
struct LoaderState {
  static constexpr std::int64_t kVersion = 6;  // version 5 had rounded sums of losses

  Fingerprint fingerprint;
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

/// Numbers that a member of a state may have. Integers are >= 0; doubles are finite.
struct Allowed {
  std::uint64_t max = std::uint64_t{kMaxCount};  ///< of integers
  bool nan = false;                              ///< doubles may be NaN
};

/// Call visit(name, member, allowed) for each member of a state, in the order of its saved forms. The only list of them.
///
/// A vector of structs is saved as two lists: visit(name, member, other_name, other_member, structs, allowed).
template <class State, class Visit>
void visit_members(State& state, Visit&& visit) {
  constexpr Allowed kCount, kEpoch{.max = kMaxEpoch}, kAny{.max = std::numeric_limits<std::uint64_t>::max()};
  constexpr Allowed kOffset{.max = std::numeric_limits<std::uint16_t>::max()}, kMayBeUnknown{.nan = true};
  visit("fingerprint", state.fingerprint, kAny);
  visit("seed", state.seed, kAny);
  visit("rank", state.rank, kCount);
  visit("world_size", state.world_size, kCount);
  visit("epoch", state.epoch, kCount);
  visit("next_epoch", state.next_epoch, kEpoch);
  visit("step", state.step, kCount);
  visit("total_step", state.sampler.total_step, kCount);
  visit("updated", state.updated, kAny);
  visit("windows", state.windows, kCount);
  visit("passes", &Cursor::pass, "positions", &Cursor::position, state.sampler.cursors, kCount);
  visit("drawn", state.sampler.drawn, kCount);
  visit("visits", state.sampler.due.visits, kCount);
  visit("offsets", state.sampler.due.offsets, kOffset);
  visit("due", state.sampler.due.due, kCount);
  visit("held", state.sampler.held, kCount);
  visit("proportions", state.sampler.proportions, kCount);
  visit("next_proportions", state.next_proportions, kCount);
  visit("class_losses", state.class_losses, kMayBeUnknown);
  visit("window_sums", &LossSums::sum, "window_counts", &LossSums::count, state.losses, kCount);
  visit("memory", state.memory, kCount);
}

/// Add the held rows of one class to a state that is read.
/// @throws std::invalid_argument  there are none, or the class does not follow those before it.
void add_held(HeldRows& held, std::int64_t class_id, std::vector<std::int64_t> rows);

/// Return a sum that is read as its terms.
/// @throws std::invalid_argument  a term is not finite, or too large.
ExactSum sum_of_terms(const char* name, std::span<const double> terms);

/// Return the names of the members that differ between the states of two ranks after the same batch; empty if they
/// agree.
std::string differing_members(const LoaderState& a, const LoaderState& b);

// The bytes of a state are the same on all machines: little-endian words of 64 bits, see loader_state_bytes.cpp.

/// Return the number of bytes of a state.
std::size_t encoded_size(const LoaderState& state);
/// Write the bytes of a state. @param bytes  exactly encoded_size(state) of them.
void encode(const LoaderState& state, std::span<std::byte> bytes);
/// Return the state of some bytes. @throws std::invalid_argument  they are not those of a state of this version.
LoaderState decode(std::span<const std::byte> bytes);

/// Return the state with which this rank resumes.
///
/// @param states  one state, or those of all ranks. Pending losses are added up and given to rank 0.
/// @throws std::invalid_argument  ranks are missing, states differ, or pending losses would be lost.
LoaderState merge_states(std::vector<LoaderState> states, std::int64_t rank, std::int64_t world_size);

}  // namespace l2m
