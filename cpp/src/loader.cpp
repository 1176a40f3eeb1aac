#include "l2m/loader.hpp"

#include <algorithm>
#include <limits>
#include <stdexcept>
#include <utility>

#include "l2m/base/errors.hpp"
#include "l2m/mixing/fixed.hpp"
#include "l2m/mixing/proportions.hpp"

namespace l2m {
namespace {

constexpr std::int64_t kMaxGlobalBatch = std::numeric_limits<std::int32_t>::max();

std::vector<std::int64_t> sizes_of(const ClassIndex& index) {
  std::vector<std::int64_t> sizes;
  for (std::int64_t k = 0; k < index.num_classes(); ++k) sizes.push_back(index.size(k));
  return sizes;
}

}  // namespace

Loader::Loader(LoaderOptions options)
    : options_(std::move(options)),
      class_sizes_(sizes_of(*options_.index)),
      windows_(class_sizes_.size(), options_.update_every, options_.lookahead) {
  if (!options_.mixing) options_.mixing = std::make_shared<Proportional>();
  kind_ = options_.mixing->kind();
  check_options();
  set_steps();
  if (kind_ != Policy::Kind::kFollowsLosses || num_ranks() == 1) {
    options_.all_reduce = nullptr;
    options_.start_all_reduce = nullptr;
  }
  may_miss_losses_ = kind_ == Policy::Kind::kFollowsLosses;
  next_proportions_ = options_.mixing->initial(class_sizes_);
  normalize(next_proportions_, class_sizes_);
  class_losses_.assign(class_sizes_.size(), std::numeric_limits<double>::quiet_NaN());
  memory_.assign(static_cast<std::size_t>(options_.mixing->memory_rows()) * class_sizes_.size(), 0.0);
  if (options_.destination) {
    for (std::size_t f = 0; f < options_.fields.size(); ++f) pools_.push_back(std::make_shared<LentPool>());
    lend_memory(static_cast<std::size_t>(std::max(options_.prefetch, 1)));
  }
  prefetcher_ = make_prefetcher(next_proportions_);
}

Loader::~Loader() { close(); }

void Loader::check_options() const {
  const LoaderOptions& o = options_;
  check_range("world_size", o.world_size, 1, kMaxGlobalBatch);
  check_range("rank", o.rank, 0, o.world_size - 1);
  check_range("batch_size * world_size", o.batch_size, 1, kMaxGlobalBatch / o.world_size);
  if (o.steps_per_epoch) check_range("steps_per_epoch", *o.steps_per_epoch, 1, kMaxCount);
  if (o.update_every) check_range("update_every", *o.update_every, 1, kMaxCount);
  check_range("lookahead", o.lookahead, 0, o.update_every.value_or(1 << 16));
  check_range("memory_rows of the policy", o.mixing->memory_rows(), 0,
              std::numeric_limits<std::ptrdiff_t>::max() / std::ssize(class_sizes_) / std::int64_t{sizeof(double)});
  if (kind_ == Policy::Kind::kFollowsLosses && !o.has_classes)
    refuse("classes must be given, because ", o.mixing_name, " follows class losses (got none)");
  if (o.mixing->needs_total_steps() && !o.total_steps)
    refuse("total_steps must be given for ", o.mixing_name,
           ", as the number of steps of the whole training (got none)");
  if (o.listed_ranks < 1 || (o.listed_ranks > 1 && (o.world_size > 1 || o.batch_size % o.listed_ranks != 0)))
    refuse("listed_ranks must divide batch_size, ", o.batch_size, ", and be 1 for several ranks (got ", o.listed_ranks,
           ")");
  if (kind_ == Policy::Kind::kFollowsLosses && num_ranks() > 1 && !o.all_reduce)
    refuse("all_reduce must be given for ", o.mixing_name, " on ", num_ranks(), " ranks (got none)");
  if (!o.seed && !o.draw_seed) throw std::invalid_argument("seed or draw_seed must be set (got neither)");
}

/// Set the number of batches per epoch and the size of the last one.
void Loader::set_steps() {
  const LoaderOptions& o = options_;
  const std::int64_t num_rows = o.index->num_rows(), global_batch = o.batch_size * o.world_size;
  const std::int64_t full = num_rows / global_batch, rest = num_rows % global_batch;
  last_batch_rows_ = global_batch;
  if (o.steps_per_epoch) {
    steps_ = *o.steps_per_epoch;
  } else if (o.has_classes) {
    steps_ = std::max<std::int64_t>(full, 1);
  } else if (rest >= (o.shuffle ? o.world_size : 1) && !o.drop_last) {
    // In dataset order every row is delivered; in training, a remainder smaller than world_size is dropped.
    steps_ = full + 1;
    last_batch_rows_ = rest;
  } else if (full == 0) {
    refuse(o.drop_last ? "with drop_last, batch_size * world_size" : "world_size",
           " must be at most the number of rows, ", num_rows, " (got ", o.drop_last ? global_batch : o.world_size, ")");
  } else {
    steps_ = full;
    dropped_step_ = rest > 0 && !o.drop_last;
  }
  rank_steps_ = steps_ - (last_batch_rows_ <= o.rank ? 1 : 0);
}

std::unique_ptr<Prefetcher> Loader::make_prefetcher(std::vector<double> proportions) const {
  const LoaderOptions& o = options_;
  PipelineOptions pipeline;
  pipeline.index = o.index;
  pipeline.fields = o.fields;
  pipeline.sampler = {.seed = o.seed.value_or(0),
                      .global_batch = o.batch_size * o.world_size,
                      .rank = o.rank,
                      .world_size = o.world_size,
                      .listed_ranks = o.listed_ranks,
                      .shuffle = o.shuffle,
                      .grouped = o.grouped,
                      .epoch_is_pass = !o.has_classes && !o.steps_per_epoch,
                      .in_order = !o.has_classes && !o.shuffle};
  pipeline.prefetch = o.prefetch;
  pipeline.num_threads = o.num_threads;
  pipeline.team = o.team;
  if (o.destination)
    pipeline.taken_ahead = static_cast<int>(std::min<std::int64_t>(o.destination->ahead(), o.prefetch));
  pipeline.pools.assign(pools_.begin(), pools_.end());
  return std::make_unique<Prefetcher>(std::move(pipeline), std::move(proportions), o.lookahead, applies_on_request());
}

/// Borrow memory from the destination until each field has `blocks` blocks.
void Loader::lend_memory(std::size_t blocks) {
  for (std::size_t f = 0; f < pools_.size(); ++f)
    while (pools_[f]->lent() < blocks) pools_[f]->lend(options_.destination->lend(f));
}

void Loader::draw_seed() {
  if (options_.seed) return;
  const std::uint64_t seed = options_.draw_seed();
  check_usable();  // it may have been closed meanwhile
  options_.seed = seed;
  prefetcher_->release_passes();
  try {
    prefetcher_ = make_prefetcher(prefetcher_->proportions());
  } catch (...) {
    options_.seed.reset();
    throw;
  }
}

// ---- iteration

Iteration Loader::iterate(bool forever) {
  check_usable();
  if (forever && window_stays_open())
    refuse("forever() with lookahead=", options_.lookahead, " needs update_every (got None)");
  if (forever && rank_steps_ == 0)
    refuse("forever() needs a batch for this rank in each epoch (got none for rank ", options_.rank, ")");
  return {++iterations_, forever};
}

bool Loader::prepare(const Iteration& iteration) {
  if (iteration.number == newest_ && total_step() < run_until_) return true;
  check_usable();
  if (iteration.number < newest_ || iteration.number > iterations_)
    throw std::runtime_error("this iterator has ended: a newer one, load_state_dict() or end_epoch() replaced it");
  const bool failed_to_begin = iteration.forever && !iterating_;  // the epoch after one that ended
  if (iteration.number > newest_ || failed_to_begin) {
    begin();
    newest_ = iteration.number;
    iterating_ = true;
  }
  while (iterating_) {
    close_windows();
    if (step_in_epoch() == rank_steps_ && rank_steps_ < steps_) {
      consume_empty();
    } else if (step_in_epoch() < steps_) {
      break;
    } else {
      if (!window_stays_open()) finish_epoch();
      iterating_ = false;
      run_until_ = 0;
      report_applied();
      if (!iteration.forever) return false;
      begin();
      iterating_ = true;
    }
  }
  if (!iterating_) return false;
  check_counts();
  run_until_ = std::min(epoch_began_ + static_cast<std::uint64_t>(rank_steps_), counted_until_);
  if (options_.update_every) {
    const auto due = [&](std::int64_t steps) { run_until_ = std::min(run_until_, static_cast<std::uint64_t>(steps)); };
    due((windows_.applied() + (windows_.has_pending() ? 2 : 1)) * *options_.update_every + options_.lookahead);
    if (windows_.has_pending()) due(static_cast<std::int64_t>(apply_by_));
  }
  warn_if_losses_are_missing();
  return true;
}

/// Throw if a state could not hold the counts after another batch.
void Loader::check_counts() const {
  if (epoch_ >= std::uint64_t{kMaxCount} || total_step() >= counted_until_)
    throw_error<std::runtime_error>("the loader cannot count further: its state holds counts up to ", kMaxCount,
                                    " (epoch is ", epoch_, ", total_step ", total_step(), ")");
}

void Loader::begin() {
  check_counts();
  draw_seed();
  if (iterating_ || step_in_epoch() == steps_) finish_epoch();
  report_applied();
  if (window_stays_open() && step_in_epoch() == 0) apply_proportions(next_proportions_);
  if (options_.check) options_.check();
  sent_ = 0;
  run_until_ = 0;
  ++epochs_begun_;
  if (options_.destination) options_.destination->drop();
  const std::int64_t last_rows = rank_steps_ < steps_ ? options_.batch_size * options_.world_size : last_batch_rows_;
  prefetcher_->begin({epoch_, step_in_epoch(), rank_steps_, last_rows}, plan_until());
}

void Loader::finish_epoch() {
  if (!options_.update_every) {
    if (!updated_) apply_window(true);
    updated_ = true;  // if something below fails, the window is not closed again
    apply_proportions(next_proportions_);
    earliest_ = open_from_ = total_step();
  }
  run_until_ = 0;
  if (next_epoch_) {
    if (!options_.update_every) prefetcher_->drop_history();  // states have the new proportions
    prefetcher_->start_passes(*next_epoch_);
    earliest_ = total_step();
    epochs_.clear();
  } else {
    epochs_.push_back({epoch_, epoch_began_});
    while (epochs_.size() > 1 && epochs_[1].began <= prefetcher_->oldest()) epochs_.erase(epochs_.begin());
  }
  updated_ = iterating_ = ended_ = false;
  epoch_ = next_epoch_.value_or(epoch_ + 1);
  epoch_began_ = total_step();
  next_epoch_.reset();
}

void Loader::end_epoch() {
  check_usable();
  if (step_in_epoch() == 0) return;
  draw_seed();
  finish_epoch();
  earliest_ = total_step();  // no state resumes in the epoch
  newest_ = ++iterations_;   // ends existing iterators
  report_applied();
}

std::optional<FilledBatch> Loader::take() {
  lend_memory(static_cast<std::size_t>(std::max(options_.prefetch, 1)) + 1);
  if (!options_.destination || options_.destination->ahead() == 0) {
    FilledBatch batch{{}, prefetcher_->num_rows()};
    batch.blocks = prefetcher_->take_blocks(0, std::move(spare_));
    return batch;
  }
  if (send_ahead()) return FilledBatch{{}, prefetcher_->num_rows()};
  return {};
}

void Loader::reuse(FilledBatch batch) {
  batch.blocks.clear();
  spare_ = std::move(batch.blocks);
}

/// Send ready batches to the destination: at least the next one, and later ones too if there is memory for them. Return
/// false if the next batch is being prepared again.
bool Loader::send_ahead() {
  BatchDestination& destination = *options_.destination;
  if (sent_ >= destination.refill()) return true;
  const std::int64_t max_sent = send_singly_ ? sent_ + 1 : destination.ahead();
  std::vector<FilledBatch> batches;
  try {
    for (std::int64_t ahead = sent_; ahead == 0 || (ahead < max_sent && prefetcher_->ready(ahead)); ++ahead) {
      lend_memory(static_cast<std::size_t>(std::max(options_.prefetch, 1)) + 1 + batches.size());
      batches.push_back({{}, prefetcher_->num_rows(ahead)});
      batches.back().blocks = prefetcher_->take_blocks(ahead);
    }
    if (batches.empty()) return true;
    const std::int64_t count = std::ssize(batches);
    const bool must = sent_ == 0;
    if (destination.send(batches, must)) {
      sent_ += count;
      return true;
    }
  } catch (...) {
    send_singly_ = true;
    retry();
    throw;
  }
  send_singly_ = true;
  retry();
  return false;
}

void Loader::commit() {
  try {
    prefetcher_->commit();
  } catch (const std::bad_alloc&) {
    retry();  // its memory was taken
    throw;
  }
  if (sent_ > 0) {
    --sent_;
    options_.destination->handed_over();
  }
  if (step_in_epoch() < rank_steps_ || rank_steps_ == steps_) return;
  try {
    consume_empty();
  } catch (const std::bad_alloc&) {  // prepare() will do it; this batch is not lost
  }
}

/// Consume the last batch of the epoch, which has rows on other ranks only.
void Loader::consume_empty() {
  const bool begins_pass = step_in_epoch() == 0;
  prefetcher_->commit_empty(last_batch_rows_, begins_pass ? std::optional(epoch_) : std::nullopt);
}

void Loader::retry() { prefetcher_->suspend(); }

void Loader::suspend() {
  prefetcher_->suspend();
  sent_ = 0;
  if (options_.destination) options_.destination->drop();
}

std::optional<FilledBatch> Loader::next(const Iteration& iteration) {
  using namespace std::chrono_literals;
  if (!prepare(iteration)) return {};
  for (;;) {
    while (!wait(1s)) continue;
    std::optional<FilledBatch> batch = take();
    if (!batch) continue;
    commit();
    return batch;
  }
}

void Loader::set_epoch(std::uint64_t epoch) {
  check_usable();
  if (epoch > kMaxEpoch) refuse("epoch must be at most ", kMaxEpoch, " (got ", epoch, ")");
  const bool ends = iterating_ || step_in_epoch() == steps_;  // an epoch ends before the next one begins
  if (epoch == epoch_ + (ends ? 1 : 0)) {
    next_epoch_.reset();
    return;
  }
  if (iterating_ || (window_stays_open() && step_in_epoch() > 0)) {
    next_epoch_ = epoch;
    ended_ = !iterating_;
    return;
  }
  draw_seed();
  const std::optional<std::uint64_t> before = next_epoch_;
  if (step_in_epoch() > 0) {
    next_epoch_ = epoch;
    try {
      finish_epoch();  // end the restored epoch where it was consumed
    } catch (...) {
      next_epoch_ = before;
      throw;
    }
    report_applied();
  } else {
    apply_pending();
    prefetcher_->start_passes(epoch);
    earliest_ = total_step();
    epochs_.clear();
    epoch_ = epoch;
    next_epoch_.reset();
  }
}

// ---- inspection

std::uint64_t Loader::epoch() const { return epoch_has_ended() ? next_epoch_.value_or(epoch_ + 1) : epoch_; }

std::int64_t Loader::step() const { return epoch_has_ended() ? 0 : step_in_epoch(); }

void Loader::close() {
  closed_ = true;
  run_until_ = 0;
  prefetcher_->close();
}

void Loader::check_usable() const {
  if (closed_) throw std::runtime_error("the loader is closed");
}

void Loader::warn(const std::string& what) const {
  if (options_.warn) options_.warn(what);
}

void Loader::warn_once(Warning warning, const std::string& what) {
  if ((warned_ & warning) != 0) return;
  warned_ |= warning;
  warn(what);
}

}  // namespace l2m
