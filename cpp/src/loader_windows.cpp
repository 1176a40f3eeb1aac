#include <algorithm>
#include <cmath>
#include <exception>
#include <limits>
#include <new>
#include <stdexcept>

#include "l2m/base/errors.hpp"
#include "l2m/base/max_count.hpp"
#include "l2m/loader.hpp"
#include "l2m/mixing/proportions.hpp"

// Members of Loader for losses, loss windows and updates of the proportions.

namespace l2m {
namespace {

constexpr std::uint64_t kAllSteps = std::uint64_t{1} << 63;     // no limit
constexpr double kLargest = std::numeric_limits<float>::max();  // of losses

}  // namespace

// ---- recording

/// Return the batch whose losses are recorded, and check it if `step` is given.
std::int64_t Loader::batch_of(std::optional<std::uint64_t> step) const {
  const auto last = static_cast<std::int64_t>(total_step()) - 1;
  if (!step) return prefetcher_->newest() ? static_cast<std::int64_t>(*prefetcher_->newest()) : last;
  if (!prefetcher_->plan(step)) {
    throw_error<std::runtime_error>("step must be that of one of the last ", options_.lookahead + 1,
                                    " batches yielded since the loader was made or its state loaded (got ", *step,
                                    ", and ", last + 1, " were yielded in all)");
  }
  const auto batch = static_cast<std::int64_t>(*step);
  const bool too_late = options_.update_every ? !windows_.accepts(batch) : *step < open_from_;
  if (too_late) throw_error<std::runtime_error>("the window of step ", *step, " is closed: its losses come too late");
  return batch;
}

std::span<const std::int32_t> Loader::classes_of(std::optional<std::uint64_t> step, std::size_t num_losses) {
  check_usable();
  if (step) (void)batch_of(step);
  const std::optional<BatchPlan> plan = prefetcher_->plan(step);
  if (!plan)
    throw std::runtime_error(
        "no batch has been yielded since the loader was made or its state loaded: iterate over the loader first, or pass "
        "classes");
  if (plan->size() != num_losses)
    refuse("losses must have one value for each of the ", plan->size(), " rows of ",
           step ? "the batch" : "the last batch", " (got ", num_losses, ")");
  classes_.clear();
  for (const PlannedRow& planned : *plan) classes_.push_back(planned.class_id);
  return classes_;
}

LossSlot& Loader::slot(std::optional<std::uint64_t> step) {
  check_usable();
  return windows_.slot(batch_of(step));
}

void Loader::recorded(std::optional<std::uint64_t> step, bool all_finite) {
  // A trailing batch with rows on other ranks only is covered by the losses of the batch before it.
  windows_.added(static_cast<std::int64_t>(step.value_or(total_step() - 1)));
  may_miss_losses_ = false;
  if (!all_finite) warn_once(kNonFinite, kNonFiniteText);
}

void Loader::record(const LossSums& sums, std::optional<std::uint64_t> step) {
  LossSums& to = slot(step).host;
  if (sums.sum.size() != to.sum.size() || sums.count.size() != to.sum.size())
    refuse("a ClassLoss must have sum and count of ", to.sum.size(), " classes (got ", sums.sum.size(), " and ",
           sums.count.size(), ")");
  for (std::size_t k = 0; k < to.sum.size(); ++k) {
    if (sums.count[k] < 0 || sums.count[k] > kMaxCount)
      refuse("the counts of a ClassLoss must be in [0, 2**53] (got ", sums.count[k], " for class ", k, ")");
    if (sums.count[k] == 0 && sums.sum[k] != ExactSum{})
      refuse("a class without losses must have sum 0 (got ", sums.sum[k].nearest(), " for class ", k, ")");
    if (to.count[k] + sums.count[k] > kMaxCount)
      refuse("the counts of a window must stay in [0, 2**53] (got ", to.count[k] + sums.count[k], ")");
  }
  to.add(sums);
  recorded(step, true);
}

void Loader::record_sums(std::span<const double> sum, std::span<const std::int64_t> count,
                         std::optional<std::uint64_t> step) {
  check_usable();
  LossSums sums(sum.size());
  sums.count.assign(count.begin(), count.end());
  bool all_finite = true;
  for (std::size_t k = 0; k < std::min(sum.size(), count.size()); ++k) {
    const double largest = kLargest * static_cast<double>(std::clamp<std::int64_t>(count[k], 1, kMaxCount));
    if (std::abs(sum[k]) <= std::min(largest, ExactSum::kLargest)) {
      sums.sum[k].add(sum[k]);
      sums.sum[k].carry();
    } else {
      sums.count[k] = 0;
      all_finite = false;
    }
  }
  record(sums, step);
  if (!all_finite) warn_once(kNonFinite, kNonFiniteText);
}

void Loader::warn_if_losses_are_missing() {
  if (!may_miss_losses_) return;
  const bool should_take_effect = options_.update_every
                                      ? total_step() >= static_cast<std::uint64_t>(2 * *options_.update_every)
                                      : epoch_ > 0 || epoch_began_ > 0;
  if (!should_take_effect) return;
  may_miss_losses_ = false;
  if (std::ranges::all_of(class_losses_, [](double loss) { return std::isnan(loss); }) && !windows_.has_losses())
    warn(
        options_.mixing_name +
        " follows losses, and none was recorded: call loader.record(losses) in the loop, with the loss of each row of the "
        "batch");
}

// ---- windows

void Loader::update() {
  check_usable();
  if (options_.update_every)
    throw_error<std::runtime_error>("update() requires update_every=None (got ", *options_.update_every, ")");
  draw_seed();
  const bool running = iterating_ || step_in_epoch() > 0;
  apply_window(!running);
  earliest_ = total_step();  // the window held losses of all earlier batches
  if (running) {
    updated_ = true;
  } else if (window_stays_open()) {
    prefetcher_->drop_history();  // so that states have the new proportions
  }
  report_applied();
}

/// Close the windows that are due before a batch is requested, or at the end of the epoch.
void Loader::close_windows() {
  if (!options_.update_every) return;
  const std::int64_t every = *options_.update_every;
  const auto total = static_cast<std::int64_t>(total_step());
  const std::int64_t requested = step_in_epoch() < rank_steps_ ? total : total - 1;
  for (;;) {
    const std::int64_t due = (windows_.applied() + (windows_.has_pending() ? 2 : 1)) * every + options_.lookahead;
    if (windows_.has_pending()) {
      if (total_step() < apply_by_ && requested < due) return;
      apply_pending();
    } else if (requested < due) {
      return;
    } else if (arrives_later()) {
      // Half a window, unless the new proportions are needed earlier.
      if (options_.start_all_reduce) options_.start_all_reduce(reductions_, windows_.total().to_values());
      apply_by_ = static_cast<std::uint64_t>(std::min(due + every / 2, (windows_.applied() + 2) * every - 1));
      windows_.close_oldest();
      pending_epoch_ = epoch_;
    } else {
      apply_window(false);
      report_applied();
    }
  }
}

/// Return whether the sums of the oldest window should get time to arrive: from a device, or from other ranks.
bool Loader::arrives_later() const {
  if (options_.mixing->uses_rows()) return false;  // those drawn until the window is applied
  return options_.all_reduce ? options_.start_all_reduce && !windows_.is_on_device() : windows_.is_on_device();
}

void Loader::apply_pending() {
  if (windows_.has_pending()) apply_window(false);
  report_applied();
}

/// Apply the oldest window. Nothing changes if this throws.
///
/// @param at_once  whether the new proportions take effect with the next batch; otherwise as scheduled for the window.
///
/// If the policy fails twice on the same window, the proportions stay and a warning is given, so that losses that a
/// policy cannot handle do not end the run.
void Loader::apply_window(bool at_once) {
  LossSums sums = windows_.total();
  const bool all_finite = windows_.all_finite();
  if (options_.all_reduce) {
    std::vector<double> values = sums.to_values();
    if (options_.start_all_reduce) options_.start_all_reduce(reductions_, values);
    options_.all_reduce(values);
    sums = LossSums::from_values(values);
  }
  std::vector<double> class_losses = class_losses_;
  bool recorded = false, negative = false;
  for (std::size_t k = 0; k < class_losses.size(); ++k) {
    if (sums.count[k] == 0 || class_sizes_[k] == 0) continue;
    const double mean = sums.sum[k].nearest() / static_cast<double>(sums.count[k]);
    negative = negative || mean < 0;
    recorded = true;
    class_losses[k] = std::max(mean, 0.0);
  }
  const bool updates = kind_ == Policy::Kind::kSchedule || (kind_ == Policy::Kind::kFollowsLosses && recorded);
  std::vector<double> proportions = next_proportions_, memory = memory_;
  AppliedWindow applied{
      windows_.has_pending() ? pending_epoch_ : epoch_, total_step(), {}, {}, updates, all_finite, negative, {}};
  if (updates) {
    applied.class_losses = class_losses;
    if (std::ranges::any_of(class_losses, [](double loss) { return !std::isnan(loss); }))
      fill_gaps(applied.class_losses, class_sizes_);
    else
      std::ranges::fill(applied.class_losses, 0.0);
    try {
      run_policy(sums, applied.class_losses, proportions, memory);
    } catch (const std::bad_alloc&) {
      throw;  // not related to the losses
    } catch (const std::exception& error) {
      if (!policy_failed_) {
        policy_failed_ = true;
        throw;
      }
      proportions = next_proportions_;
      memory = memory_;
      applied.updated = false;
      const std::string what = error.what();
      applied.failure = shortened(what.substr(0, what.find('\n')));
    }
  }
  if (options_.update_every) {
    const std::int64_t count = windows_.applied() + 1;
    applied.total_step = static_cast<std::uint64_t>(count * *options_.update_every + options_.lookahead);
    schedule(count, proportions);
  } else if (at_once) {
    apply_proportions(proportions);
  }
  applied.counts = std::move(sums.count);
  next_proportions_ = std::move(proportions);
  class_losses_ = std::move(class_losses);
  memory_ = std::move(memory);
  policy_failed_ = false;
  ++reductions_;
  windows_.drop(options_.update_every.has_value());
  unreported_ = std::move(applied);
}

/// Call the observer and give the warnings of the last window applied. They may throw, so everything else comes first.
void Loader::report_applied() {
  if (!unreported_) return;
  const AppliedWindow applied = std::move(*unreported_);
  unreported_.reset();
  if (applied.updated && options_.observe)
    options_.observe({applied.epoch, applied.total_step, next_proportions_, applied.class_losses, applied.counts});
  if (!applied.all_finite) warn_once(kNonFinite, kNonFiniteText);
  if (applied.negative) warn_once(kNegative, "the mean loss of a class is negative; it counts as 0");
  if (!applied.failure.empty())
    warn(options_.mixing_name + " failed again on the same losses; the proportions stay unchanged: " + applied.failure);
}

/// Let the policy replace the proportions and the memory, and check them.
void Loader::run_policy(const LossSums& sums, std::span<const double> known, std::span<double> proportions,
                        std::span<double> memory) {
  Window window;
  window.proportions = next_proportions_;
  window.class_losses = known;
  window.class_sizes = class_sizes_;
  window.counts = sums.count;
  window.step = total_step();
  if (options_.update_every)
    window.step = static_cast<std::uint64_t>((windows_.applied() + 1) * *options_.update_every);
  window.total_steps = options_.total_steps;
  window.memory = memory_;
  SamplerState drawn;
  std::vector<std::uint64_t> passes;
  // Losses are not reduced for a schedule, so each rank knows only its own, and its proportions would differ.
  const bool has_losses = kind_ != Policy::Kind::kSchedule || num_ranks() == 1;
  const std::vector<double> no_losses(has_losses ? 0 : known.size());
  const std::vector<std::int64_t> no_counts(no_losses.size());
  if (!has_losses) {
    window.class_losses = no_losses;
    window.counts = no_counts;
  }
  if (options_.mixing->uses_rows()) {
    drawn = prefetcher_->state_at(total_step());
    for (const Cursor& cursor : drawn.cursors) passes.push_back(cursor.pass);
    window.rows_drawn = drawn.drawn;
    window.passes = passes;
  }
  options_.mixing->update(window, proportions, memory);
  normalize(proportions, class_sizes_);
  for (const double value : memory)
    if (!std::isfinite(value)) refuse("the memory of a policy must be finite (got ", value, ")");
}

/// Use proportions from the next batch on.
void Loader::apply_proportions(const std::vector<double>& proportions) {
  if (kind_ != Policy::Kind::kFixed) prefetcher_->schedule(total_step(), proportions, kAllSteps);
}

/// Schedule proportions for the window after the next, if they have not taken effect yet.
void Loader::schedule(std::int64_t applied, const std::vector<double>& proportions) {
  if (closed_ || kind_ == Policy::Kind::kFixed) return;
  const auto every = static_cast<std::uint64_t>(*options_.update_every);
  const std::uint64_t effective_from = (static_cast<std::uint64_t>(applied) + 1) * every;
  if (total_step() <= effective_from) prefetcher_->schedule(effective_from, proportions, effective_from + every);
}

/// Return the total step from which proportions are unknown.
std::uint64_t Loader::plan_until() const {
  if (!options_.update_every || kind_ == Policy::Kind::kFixed) return kAllSteps;
  return static_cast<std::uint64_t>((windows_.applied() + 2) * *options_.update_every);
}

}  // namespace l2m
