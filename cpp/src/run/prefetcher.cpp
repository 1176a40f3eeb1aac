#include "l2m/run/prefetcher.hpp"

#include <stdexcept>
#include <thread>
#include <utility>

#include "l2m/run/thread_pool.hpp"

namespace l2m {

class Prefetcher::Use {
 public:
  explicit Use(Prefetcher& prefetcher) : prefetcher_(prefetcher) {
    const bool forked = prefetcher.forks_.exchange(forks()) != forks();
    if (prefetcher.in_use_.exchange(true) && !forked) {
      throw std::runtime_error(prefetcher.closed_ ? "the loader is closed"
                                                  : "a loader has one consumer: another thread is using it");
    }
    try {
      if (prefetcher.closed_) throw std::runtime_error("the loader is closed");
      if (forked) {
        (void)prefetcher.pipeline_.release();  // its locks and threads are the parent's
        prefetcher.pipeline_ = std::make_unique<Pipeline>(prefetcher.settings_);
        prefetcher.restart();
      }
    } catch (...) {
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

Prefetcher::Prefetcher(PipelineSettings settings, std::vector<double> proportions)
    : settings_(std::move(settings)),
      pipeline_(std::make_unique<Pipeline>(settings_)),
      forks_(forks()),
      state_(pipeline_->sampler().initial_state(std::move(proportions))) {}

Prefetcher::~Prefetcher() { close(); }

void Prefetcher::reseed(std::uint64_t seed) {
  const Use use(*this);
  pipeline_.reset();
  settings_.sampler.seed = seed;
  pipeline_ = std::make_unique<Pipeline>(settings_);
  state_ = pipeline_->sampler().initial_state(std::move(state_.proportions));
}

void Prefetcher::begin(const EpochRange& range, std::uint64_t plan_until) {
  const Use use(*this);
  range_ = range;
  plan_until_ = plan_until;
  restart();
}

void Prefetcher::restart() {
  settle();
  suspended_ = false;
  pipeline_->start(range_, state_, schedule_, plan_until_);
}

/// Brings state_ up to what was consumed.
void Prefetcher::settle() {
  if (settled_ < consumed_) plans_->advance(state_, settled_, consumed_);
  settled_ = consumed_;
}

void Prefetcher::schedule(std::uint64_t step, std::vector<double> proportions, std::uint64_t plan_until) {
  const Use use(*this);
  pipeline_->sampler().check_proportions(proportions);
  schedule_.push_back({step, std::move(proportions)});
  plan_until_ = plan_until;
  pipeline_->extend_schedule(schedule_.back(), plan_until);
  apply_schedule();
}

void Prefetcher::apply_schedule() {
  while (!schedule_.empty() && schedule_.front().step == total_step()) {
    settle();
    pipeline_->sampler().change_proportions(state_, std::move(schedule_.front().proportions));
    schedule_.pop_front();
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

std::vector<Block> Prefetcher::take_blocks(std::int64_t ahead) {
  const Use use(*this);
  Pipeline::Batch& batch = pipeline_->due(ahead);
  if (batch.error) {
    const std::exception_ptr error = batch.error;
    restart();  // at the same batch
    std::rethrow_exception(error);
  }
  return std::move(batch.blocks);
}

std::int64_t Prefetcher::num_rows(std::int64_t ahead) {
  const Use use(*this);
  const Pipeline::Batch& batch = pipeline_->due(ahead);
  return batch.error ? 0 : std::ssize(batch.plans->rows(batch.index));
}

void Prefetcher::retry() {
  const Use use(*this);
  restart();
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
  if (batch.plans != plans_) {
    settle();
    settled_ = index;
  }
  pipeline_->next(plans_);
  consumed_ = index + 1;
  if (!plans_->rows(index).empty()) {
    yielded_ = plans_;
    yielded_index_ = index;
  }
  ++range_.first_step;
  apply_schedule();
}

BatchPlan Prefetcher::plan() const { return yielded_ ? BatchPlan(yielded_->rows(yielded_index_)) : BatchPlan(); }

const SamplerState& Prefetcher::state() {
  settle();
  return state_;
}

void Prefetcher::set_state(SamplerState state) {
  const Use use(*this);
  suspended_ = true;
  pipeline_->check(state);
  state_ = std::move(state);
  schedule_.clear();
  settled_ = consumed_;
}

void Prefetcher::close() {
  closed_ = true;
  if (forks_.exchange(forks()) != forks()) {
    (void)pipeline_.release();
    in_use_ = false;
  }
  while (in_use_.exchange(true)) std::this_thread::sleep_for(std::chrono::milliseconds(1));
  pipeline_.reset();
  in_use_ = false;
}

}  // namespace l2m
