#include "l2m/run/prefetcher.hpp"

#include <algorithm>
#include <ranges>
#include <stdexcept>
#include <utility>

#include "l2m/run/thread_pool.hpp"

namespace l2m {

class Prefetcher::Use {
 public:
  explicit Use(Prefetcher& prefetcher) : prefetcher_(prefetcher) {
    const int before = prefetcher.forks_.exchange(forks());
    const bool forked = before != forks();
    if (prefetcher.in_use_.exchange(true) && !forked) {
      throw std::runtime_error(prefetcher.closed_ ? "the loader is closed"
                                                  : "a loader has one consumer: another thread is using it");
    }
    try {
      if (prefetcher.closed_) throw std::runtime_error("the loader is closed");
      if (forked) {
        prefetcher.suspended_ = true;
        auto pipeline = std::make_unique<Pipeline>(prefetcher.options_);
        std::swap(prefetcher.pipeline_, pipeline);
        (void)pipeline.release();  // its locks and threads belong to the parent
      }
    } catch (...) {
      if (forked) prefetcher.forks_ = before;  // the next call tries again
      prefetcher.in_use_ = false;
      throw;
    }
  }
  ~Use() { prefetcher_.in_use_ = false; }
  Use(const Use&) = delete;
  Use& operator=(const Use&) = delete;

 private:
  Prefetcher& prefetcher_;
};

Prefetcher::Prefetcher(PipelineOptions options, std::vector<double> proportions, std::int64_t lookahead,
                       bool before_changes)
    : options_(std::move(options)),
      pipeline_(std::make_unique<Pipeline>(options_)),
      lookahead_(static_cast<std::uint64_t>(lookahead)),
      before_changes_(before_changes),
      forks_(forks()),
      state_(pipeline_->sampler().initial_state(proportions)),
      proportions_(std::make_shared<const std::vector<double>>(std::move(proportions))) {}

Prefetcher::~Prefetcher() { close(); }

void Prefetcher::begin(const EpochRange& range, std::uint64_t plan_until) {
  const Use use(*this);
  range_ = range;
  plan_until_ = plan_until;
  restart();
}

void Prefetcher::restart() {
  suspended_ = true;
  advance_state(oldest());
  if (state_.total_step == total_step_ && changed_.empty()) {
    pipeline_->start(range_, state_, schedule_, plan_until_);
  } else {
    SamplerState state = state_;
    advance(state, total_step_, true);
    pipeline_->start(range_, state, schedule_, plan_until_);
  }
  suspended_ = false;
}

/// Advance state_ to `total_step`, and drop the history before it.
void Prefetcher::advance_state(std::uint64_t total_step) {
  advance(state_, total_step, !before_changes_);
  const auto kept = std::ranges::find_if(consumed_, [&](const Consumed& batches) { return batches.end > total_step; });
  unneeded_.reserve(unneeded_.size() + static_cast<std::size_t>(kept - consumed_.begin()));  // the last that may fail
  for (auto batches = consumed_.begin(); batches != kept; ++batches)
    if (batches->plans) unneeded_.push_back(std::move(batches->plans));
  consumed_.erase(consumed_.begin(), kept);
  while (!changed_.empty() && changed_.front().step < total_step + (before_changes_ ? 0 : 1)) changed_.pop_front();
}

/// Advance a copy of state_ (or state_ itself) to `to`. If memory runs out, it stops in between and can be resumed.
/// @param changes  include proportions that take effect at `to`.
void Prefetcher::advance(SamplerState& state, std::uint64_t to, bool changes) const {
  auto change = std::ranges::find_if(changed_, [&](const Scheduled& of) { return of.step >= state.total_step; });
  const auto apply_changes = [&] {
    for (; change != changed_.end() && change->step <= state.total_step && (changes || change->step < to); ++change)
      pipeline_->sampler().change_proportions(state, *change->proportions);
  };
  apply_changes();
  for (const Consumed& batches : consumed_) {
    while (state.total_step < std::min(to, batches.end)) {
      std::uint64_t next = std::min(to, batches.end);
      if (change != changed_.end()) next = std::min(next, change->step);
      if (batches.plans) {
        const auto index = [&](std::uint64_t step) {
          return batches.index + static_cast<std::int64_t>(step - batches.begin);
        };
        batches.plans->advance(state, index(state.total_step), index(next));
      } else {
        ++state.total_step;
        if (batches.pass) state.cursors[0] = {.pass = *batches.pass, .position = 0};
        state.cursors[0].position += batches.global_rows;
        state.drawn[0] += batches.global_rows;
      }
      apply_changes();
    }
  }
}

void Prefetcher::schedule(std::uint64_t step, std::vector<double> proportions, std::uint64_t plan_until) {
  const Use use(*this);
  pipeline_->sampler().check_proportions(proportions);
  schedule_.push_back({step, std::make_shared<const std::vector<double>>(std::move(proportions))});
  plan_until_ = plan_until;
  pipeline_->extend_schedule(schedule_.back(), plan_until);
  apply_schedule();
}

void Prefetcher::apply_schedule() {
  while (!schedule_.empty() && schedule_.front().step <= total_step_) {
    if (*schedule_.front().proportions == *proportions_) {
      schedule_.pop_front();
      continue;
    }
    changed_.splice(changed_.end(), schedule_, schedule_.begin());
    proportions_ = changed_.back().proportions;
  }
}

bool Prefetcher::wait(std::chrono::milliseconds timeout) {
  const Use use(*this);
  if (suspended_) restart();
  return pipeline_->wait(timeout);
}

bool Prefetcher::ready(std::int64_t ahead) {
  const Use use(*this);
  return pipeline_->ready(ahead);
}

std::vector<Block> Prefetcher::take_blocks(std::int64_t ahead, std::vector<Block> spare) {
  const Use use(*this);
  Pipeline::Batch& batch = pipeline_->due(ahead);
  if (batch.error) {
    const std::exception_ptr error = batch.error;
    restart();  // at the same batch
    std::rethrow_exception(error);
  }
  spare.clear();
  return std::exchange(batch.blocks, std::move(spare));
}

std::int64_t Prefetcher::num_rows(std::int64_t ahead) {
  const Use use(*this);
  const Pipeline::Batch& batch = pipeline_->due(ahead);
  return batch.error ? 0 : std::ssize(batch.plans->rows(batch.index));
}

BatchPlan Prefetcher::due() {
  const Use use(*this);
  const Pipeline::Batch& batch = pipeline_->due(0);
  return batch.plans->rows(batch.index);
}

void Prefetcher::suspend() {
  const Use use(*this);
  pipeline_->stop();
  suspended_ = true;
}

void Prefetcher::commit() {
  const Use use(*this);
  const Pipeline::Batch& batch = pipeline_->due(0);
  const std::int64_t index = batch.index;
  if (consumed_.empty() || consumed_.back().plans != batch.plans) {
    advance_state(oldest());
    // For a batch of other ranks too, so that commit_empty() cannot fail.
    if (consumed_.capacity() < consumed_.size() + 2) consumed_.reserve(2 * consumed_.size() + 2);
    consumed_.push_back({total_step_, total_step_, batch.plans, index});
  }
  if (!batch.plans->rows(index).empty()) {
    if (yielded_.size() > lookahead_) {
      unneeded_.push_back(std::move(yielded_.front().plans));
      std::ranges::move(yielded_ | std::views::drop(1), yielded_.begin());
      yielded_.pop_back();
    }
    yielded_.push_back({total_step_, batch.plans, index, proportions_});
  }
  pipeline_->next(unneeded_);
  consumed_.back().end = ++total_step_;
  ++range_.first_step;
  apply_schedule();
}

void Prefetcher::commit_empty(std::int64_t global_rows, std::optional<std::uint64_t> pass) {
  const Use use(*this);
  consumed_.push_back({total_step_, total_step_ + 1, nullptr, 0, global_rows, pass});
  ++total_step_;
  apply_schedule();
}

const Prefetcher::Yielded* Prefetcher::yielded(std::optional<std::uint64_t> step) const {
  for (const Yielded& batch : std::ranges::reverse_view(yielded_))
    if (!step || batch.step == *step) return &batch;
  return nullptr;
}

std::optional<BatchPlan> Prefetcher::plan(std::optional<std::uint64_t> step) const {
  const Yielded* const batch = yielded(step);
  return batch == nullptr ? std::nullopt : std::optional<BatchPlan>(batch->plans->rows(batch->index));
}

std::span<const double> Prefetcher::proportions_of(std::optional<std::uint64_t> step) const {
  const Yielded* const batch = yielded(step);
  return batch == nullptr ? std::span<const double>() : *batch->proportions;
}

SamplerState Prefetcher::state_at(std::uint64_t total_step) {
  const Use use(*this);
  SamplerState state = state_;
  advance(state, total_step, !before_changes_);
  return state;
}

std::uint64_t Prefetcher::oldest() const {
  return std::max(state_.total_step, total_step_ - std::min(total_step_, lookahead_));
}

void Prefetcher::set_state(SamplerState state) {
  const Use use(*this);
  suspended_ = true;
  pipeline_->check(state);
  proportions_ = std::make_shared<const std::vector<double>>(state.proportions);
  state_ = std::move(state);
  total_step_ = state_.total_step;
  consumed_.clear();
  changed_.clear();
  schedule_.clear();
  yielded_.clear();
}

void Prefetcher::release_passes() {
  const Use use(*this);
  pipeline_->release_passes();
}

void Prefetcher::drop_history() {
  const Use use(*this);
  advance(state_, total_step_, true);
  consumed_.clear();
  changed_.clear();
}

void Prefetcher::start_passes(std::uint64_t pass) {
  const Use use(*this);
  pipeline_->stop();
  suspended_ = true;
  advance_state(total_step_);
  for (Cursor& cursor : state_.cursors) cursor = {.pass = pass, .position = 0};
  state_.held.clear();
}

void Prefetcher::close() {
  closed_ = true;
  if (forks_.exchange(forks()) != forks()) {
    (void)pipeline_.release();
    in_use_ = false;
  }
  while (in_use_.exchange(true)) sleep_for(std::chrono::milliseconds(1));
  pipeline_.reset();
  in_use_ = false;
}

}  // namespace l2m
