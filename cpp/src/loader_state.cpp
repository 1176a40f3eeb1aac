#include "l2m/loader_state.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <ranges>
#include <stdexcept>

#include "l2m/base/errors.hpp"
#include "l2m/base/max_count.hpp"
#include "l2m/base/sums.hpp"
#include "l2m/base/text.hpp"
#include "l2m/loader.hpp"
#include "l2m/mixing/proportions.hpp"

namespace l2m {
namespace {

void check_member(const char* name, std::int64_t value, std::int64_t low, std::int64_t high) {
  if (value < low || value > high) refuse(name, " of the state must be in [", low, ", ", high, "] (got ", value, ")");
}

void check_length(const char* name, std::size_t size, std::size_t wanted) {
  if (size != wanted) refuse(name, " of the state must have ", wanted, " values (got ", size, ")");
}

void check_sums(const LossSums& sums) {
  for (std::size_t k = 0; k < std::min(sums.sum.size(), sums.count.size()); ++k)
    if (sums.count[k] == 0 && sums.sum[k] != ExactSum{})
      refuse("window_sums of the state must be 0 for a class without losses (got ", sums.sum[k].nearest(),
             " for class ", k, ")");
}

}  // namespace

LoaderState merge_states(std::vector<LoaderState> states, std::int64_t rank, std::int64_t world_size) {
  if (states.empty()) refuse("a list of states must hold one state per rank (got an empty list)");
  for (const LoaderState& state : states) {
    check_member("world_size", state.world_size, 1, kMaxCount);
    check_member("rank", state.rank, 0, state.world_size - 1);
  }
  std::ranges::sort(states, {}, &LoaderState::rank);
  LoaderState first = std::move(states.front());
  const auto has_losses = [](const LoaderState& state) {
    return std::ranges::any_of(state.losses, [](const LossSums& sums) { return !sums.empty(); });
  };
  if (states.size() == 1) {
    if (first.rank == rank && first.world_size == world_size) return first;
    if (first.world_size > 1 && has_losses(first))
      refuse("a state with losses recorded since the last update, of rank ", first.rank, " of ", first.world_size,
             ", cannot resume as rank ", rank, " of ", world_size, " alone: pass the list of the states of all ",
             first.world_size, " ranks");
  }
  std::vector<std::int64_t> ranks{first.rank};
  for (const LoaderState& state : states | std::views::drop(1)) ranks.push_back(state.rank);
  if (states.size() > 1) {
    bool complete = std::ssize(ranks) == first.world_size;
    for (std::size_t i = 0; i < ranks.size() && complete; ++i) complete = ranks[i] == static_cast<std::int64_t>(i);
    if (!complete) {
      std::string got;
      for (std::size_t i = 0; i < std::min<std::size_t>(ranks.size(), 20); ++i)
        got += (i > 0 ? ", " : "") + std::to_string(ranks[i]);
      refuse("a list of states must hold each of the ", first.world_size, " ranks once (got ranks [", got,
             ranks.size() > 20 ? ", ...])" : "])");
    }
    for (const LoaderState& state : states | std::views::drop(1))
      if (const std::string names = differing_members(first, state); !names.empty())
        refuse("rank states were saved at different steps: ", names, " differ");
  }
  for (std::size_t w = 0; w < first.losses.size(); ++w) {
    LossSums& sums = first.losses[w];
    check_sums(sums);
    for (const LoaderState& state : states | std::views::drop(1)) {
      check_sums(state.losses[w]);
      check_length("window_counts", state.losses[w].count.size(), sums.count.size());
      check_length("window_sums", state.losses[w].sum.size(), sums.sum.size());
      for (std::size_t k = 0; k < sums.count.size(); ++k)
        check_member("window_counts", sums.count[k] + state.losses[w].count[k], 0, kMaxCount);
      sums.add(state.losses[w]);
    }
    if (rank != 0) sums = LossSums(sums.sum.size());
  }
  // Without all_reduce, with a policy that does not follow losses, each rank knows those of its own rows.
  if (rank > 0 && rank < std::ssize(states) && first.world_size == world_size)
    first.class_losses = std::move(states[static_cast<std::size_t>(rank)].class_losses);
  first.rank = rank;
  first.world_size = world_size;
  return first;
}

// ---- Loader

namespace {

/// Return the total step up to which all counts of the sampler fit in a state. A batch increases each count by at most
/// one per row, and by one for a change of proportions.
std::uint64_t step_of_largest_count(const SamplerState& state, std::int64_t rows_of_batch) {
  std::uint64_t largest = state.total_step;
  for (std::size_t k = 0; k < state.drawn.size(); ++k)
    largest =
        std::max({largest, state.cursors[k].pass, state.due.visits[k], static_cast<std::uint64_t>(state.drawn[k])});
  return state.total_step +
         (kMaxCount - std::min(largest, std::uint64_t{kMaxCount})) / static_cast<std::uint64_t>(rows_of_batch + 1);
}

std::string to_text(const std::optional<std::int64_t>& number) { return number ? std::to_string(*number) : "none"; }
std::string to_text(bool value) { return value ? "true" : "false"; }

/// Check that a state was saved by a loader with the same data, options and policy.
void check_fingerprint(const Fingerprint& theirs, const Fingerprint& ours) {
  std::string differences;
  const auto compare = [&](const std::string& name, const std::string& in_state, const std::string& here) {
    if (in_state == here) return;
    differences += (differences.empty() ? "" : "; ") + name + ": " + shortened(in_state) + " in the state, " +
                   shortened(here) + " here";
  };
  for (const auto& [name, value] : ours) {
    const auto entry = std::ranges::find(theirs, name, &Fingerprint::value_type::first);
    compare(name, entry == theirs.end() ? "nothing" : entry->second, value);
  }
  compare("entries", std::to_string(theirs.size()), std::to_string(ours.size()));
  if (!differences.empty())
    refuse("the state must be from a loader with the same data and options (got ", differences, ")");
}

}  // namespace

const Fingerprint& Loader::fingerprint() {
  if (!fingerprint_.empty()) return fingerprint_;
  const LoaderOptions& o = options_;
  std::string fields = o.described_fields;
  if (fields.empty()) fields = describe(o.fields);
  // The index is hashed only on request, because that reads the class of every row.
  const std::string classes = to_hex(o.index->fingerprint(num_threads()));
  Fingerprint all = {
      {"rows", std::to_string(o.index->num_rows())},
      {"num_classes", std::to_string(o.index->num_classes())},
      {"classes", o.has_classes ? classes : "none, rows " + classes},
      {"fields", fields},
      {"global_batch", std::to_string(o.batch_size * o.world_size)},
      {"order", o.grouped ? "grouped" : "shuffled"},
      {"shuffle", to_text(o.shuffle)},
      {"drop_last", to_text(o.drop_last)},
      {"steps_per_epoch", to_text(o.steps_per_epoch)},
      {"update_every", to_text(o.update_every)},
      {"lookahead", std::to_string(o.lookahead)},
      {"mixing", o.mixing->describe()},
  };
  return fingerprint_ = std::move(all);
}

LoaderState Loader::state(std::optional<std::uint64_t> step) {
  check_usable();
  draw_seed();
  if (rank_steps_ < steps_ && step_in_epoch() == steps_)
    close_windows();  // as the ranks with rows in the last batch did
  apply_pending();
  const std::uint64_t low = std::max(prefetcher_->oldest(), earliest_), high = total_step();
  std::uint64_t at = low;
  if (step) {
    if (*step + 1 < low || *step >= high)
      refuse("step must be in [", static_cast<std::int64_t>(low) - 1, ", ", static_cast<std::int64_t>(high) - 1,
             "], the batches after which the state of this loader is known (got ", *step, ")");
    at = *step + 1;
  } else if (windows_.newest()) {
    at = std::clamp(static_cast<std::uint64_t>(*windows_.newest() + 1), low, high);
  }
  LoaderState state;
  state.fingerprint = fingerprint();
  state.seed = *options_.seed;
  state.rank = options_.rank;
  state.world_size = options_.world_size;
  Epoch of{epoch_, epoch_began_};
  if (at >= epoch_began_) {
    state.next_epoch = next_epoch_;
  } else {
    of = *std::ranges::find_if(std::ranges::reverse_view(epochs_), [&](const Epoch& e) { return e.began <= at; });
  }
  state.epoch = of.number;
  state.step = at == high ? step_in_epoch() : static_cast<std::int64_t>(at - of.began);
  state.updated = updated_;
  state.windows = windows_.applied();
  state.sampler = prefetcher_->state_at(at);
  state.next_proportions = next_proportions_;
  state.class_losses = class_losses_;
  state.losses = windows_.as_of(static_cast<std::int64_t>(at));
  state.memory = memory_;
  if (!windows_.all_finite()) warn_once(kNonFinite, kNonFiniteText);
  return state;
}

/// Check that a state fits this loader. The sampler checks its own part.
void Loader::check(const LoaderState& state) const {
  const std::size_t num_classes = class_sizes_.size();
  const auto total = static_cast<std::int64_t>(state.sampler.total_step);
  if (std::max(state.sampler.total_step, state.epoch) > std::uint64_t{kMaxCount})
    refuse("epoch and total_step of the state must be in [0, ", kMaxCount, "] (got ", state.epoch, " and ",
           state.sampler.total_step, ")");
  if (state.next_epoch.value_or(0) > kMaxEpoch)
    refuse("next_epoch of the state must be in [0, ", kMaxEpoch, "] (got ", *state.next_epoch, ")");
  check_member("rank", state.rank, 0, state.world_size - 1);
  const std::int64_t max_step = steps_ + (dropped_step_ ? 1 : 0);
  const bool epoch_ended = window_stays_open() && state.step >= steps_;
  if (state.step < 0 || state.step > max_step || (state.step > total && !epoch_ended))
    refuse("step of the state must be at most ", max_step, ", and total_step (got step ", state.step, ", total_step ",
           total, ")");
  const std::int64_t every = options_.update_every.value_or(0);
  if (every == 0) {
    check_member("windows", state.windows, 0, 0);
  } else {
    // As many windows as have closed; the newest may be pending, and the next one may be due.
    const std::int64_t min_windows = std::max<std::int64_t>((total - options_.lookahead - 1 + every) / every - 1, 0);
    check_member("windows", state.windows, total <= options_.lookahead ? 0 : min_windows, total / every);
  }
  const std::int64_t begun = every == 0 ? 1 : std::max<std::int64_t>(total - 1, 0) / every - state.windows + 1;
  check_length("window_sums", state.losses.size(), static_cast<std::size_t>(std::max<std::int64_t>(begun, 1)));
  for (const LossSums& sums : state.losses) {
    check_length("window_sums", sums.sum.size(), num_classes);
    check_length("window_counts", sums.count.size(), num_classes);
    for (const std::int64_t count : sums.count) check_member("window_counts", count, 0, kMaxCount);
    check_sums(sums);
  }
  check_length("class_losses", state.class_losses.size(), num_classes);
  for (const double loss : state.class_losses)
    if (loss < 0 || std::isinf(loss)) refuse("class_losses of the state must be finite and >= 0 (got ", loss, ")");
  check_length("next_proportions", state.next_proportions.size(), num_classes);
  check_proportions(state.next_proportions, class_sizes_);
  if (const double sum = compensated_sum(state.next_proportions); !(std::abs(sum - 1) <= 1e-12))
    refuse("next_proportions of the state must sum to 1 within 1e-12 (got ", sum, ")");
  check_length("memory", state.memory.size(), memory_.size());
  for (const double value : state.memory)
    if (!std::isfinite(value)) refuse("memory of the state must be finite (got ", value, ")");
}

void Loader::load(LoaderState state) {
  std::vector<LoaderState> states;
  states.push_back(std::move(state));
  load(std::move(states));
}

void Loader::load(std::vector<LoaderState> states) {
  check_usable();
  for (const LoaderState& state : states) check_fingerprint(state.fingerprint, fingerprint());
  LoaderState state = merge_states(std::move(states), options_.rank, options_.world_size);
  check(state);
  const std::optional<std::uint64_t> seed = std::exchange(options_.seed, state.seed);
  std::uint64_t counted_until = 0;
  std::unique_ptr<Prefetcher> prefetcher;
  OpenWindows windows = windows_;
  try {
    prefetcher_->release_passes();  // for those of the new run
    prefetcher = make_prefetcher(state.next_proportions);
    prefetcher->set_state(state.sampler);
    counted_until = step_of_largest_count(state.sampler, options_.batch_size * options_.world_size);
    windows.restore(state.windows, std::move(state.losses));
    const std::uint64_t total = prefetcher->total_step();
    if (options_.update_every && kind_ != Policy::Kind::kFixed) {
      const auto every = static_cast<std::uint64_t>(*options_.update_every);
      const std::uint64_t effective_from = (static_cast<std::uint64_t>(state.windows) + 1) * every;
      if (total < effective_from || (total == effective_from && applies_on_request()))
        prefetcher->schedule(effective_from, state.next_proportions, effective_from + every);
    }
  } catch (...) {
    options_.seed = seed;
    throw;
  }
  prefetcher_.swap(prefetcher);
  windows_ = std::move(windows);
  if (options_.destination) options_.destination->drop();
  sent_ = 0;
  epoch_ = state.epoch;
  const auto step = static_cast<std::uint64_t>(std::min(state.step, steps_));
  epoch_began_ = total_step() - std::min(total_step(), step);
  ended_ = window_stays_open() && state.step >= steps_;
  epochs_.clear();
  next_epoch_ = state.next_epoch;
  updated_ = state.updated;
  earliest_ = open_from_ = total_step();
  counted_until_ = counted_until;
  next_proportions_ = std::move(state.next_proportions);
  class_losses_ = std::move(state.class_losses);
  memory_ = std::move(state.memory);
  policy_failed_ = false;
  unreported_.reset();
  ++reductions_;            // a pending window was dropped, whose sum may have been started
  newest_ = ++iterations_;  // ends existing iterators
  iterating_ = false;
  run_until_ = 0;
}

}  // namespace l2m
