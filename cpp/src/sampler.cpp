#include "l2m/sampler.hpp"

#include <algorithm>
#include <cmath>
#include <deque>
#include <stdexcept>

#include "l2m/errors.hpp"
#include "l2m/philox.hpp"
#include "l2m/sum.hpp"

namespace l2m {
namespace {

constexpr std::size_t kAhead = 8;  // classes whose cursor is fetched ahead of their turn

}  // namespace

void StateChange::apply_to(SamplerState& state) const {
  ++state.total_step;
  for (const Class& changed : classes) {
    const auto k = static_cast<std::size_t>(changed.class_id);
    state.cursors[k] = changed.cursor;
    state.due[k] = changed.due;
  }
  for (const auto& [class_id, rows] : held) {
    if (rows.empty()) {
      state.held.erase(class_id);
    } else {
      state.held[class_id] = rows;
    }
  }
}

Sampler::Sampler(std::shared_ptr<const ClassIndex> index, const SamplerOptions& options, TaskQueue& queue)
    : index_(std::move(index)),
      options_(options),
      passes_(index_, options.seed, options.shuffle, queue),
      apportioner_(options.seed, options.global_batch) {}

SamplerState Sampler::initial_state(std::vector<double> proportions) const {
  const auto num_classes = static_cast<std::size_t>(index_->num_classes());
  SamplerState state;
  state.proportions = std::move(proportions);
  state.due.resize(num_classes);
  state.cursors.resize(num_classes);
  apportioner_.start(state.proportions, 0, state.due);
  return state;
}

void Sampler::change_proportions(SamplerState& state, std::vector<double> proportions) const {
  apportioner_.change(state.proportions, proportions, state.total_step, state.due);
  state.proportions = std::move(proportions);
}

void Sampler::change_proportions(std::vector<double> proportions) {
  change_proportions(state_, std::move(proportions));
  apportioner_.set(state_.proportions, state_.due);
}

void Sampler::check(const SamplerState& state) const {
  const auto refuse = [](const auto&... parts) {
    throw std::invalid_argument(message("the state is broken: ", parts...));
  };
  const auto num_classes = static_cast<std::size_t>(index_->num_classes());
  if (state.proportions.size() != num_classes || state.due.size() != num_classes || state.cursors.size() != num_classes)
    refuse("it must have ", num_classes, " classes");
  for (std::size_t k = 0; k < num_classes; ++k) {
    const std::int64_t size = index_->size(static_cast<std::int64_t>(k));
    const double p = state.proportions[k];
    const std::int64_t position = state.cursors[k].position;
    if (position < 0 || position > size)
      refuse("positions must be in [0, ", size, "] for class ", k, " (got ", position, ")");
    constexpr std::uint64_t kMost = std::uint64_t{1} << 62;  // far from where pass + 1 and the like would wrap
    if (state.cursors[k].pass > kMost || state.due[k].visit > kMost || state.total_step > kMost)
      refuse("passes, visits and total_step must be at most 2^62");
    if (!std::isfinite(state.due[k].due)) refuse("due must be finite (got ", state.due[k].due, ")");
    if (!(p >= 0) || (p > 0 && size == 0)) refuse("proportion ", p, " of class ", k, ", which has ", size, " rows");
  }
  // Normalised ones do so to the last bits; far from that the quotas of a large batch would not add up.
  const double sum = compensated_sum(state.proportions);
  if (!(std::abs(sum - 1) <= 1e-12)) refuse("proportions must sum to 1 within 1e-12 (got ", sum, ")");
  for (const auto& [class_id, rows] : state.held) {
    if (class_id < 0 || class_id >= index_->num_classes()) refuse("rows are held of class ", class_id);
    std::vector<std::int64_t> sorted = rows;
    std::ranges::sort(sorted);
    if (std::ranges::adjacent_find(sorted) != sorted.end()) refuse("a row of class ", class_id, " is held twice");
    for (const std::int64_t row : rows)
      if (!index_->contains(class_id, row)) refuse("row ", row, " is held, which is not of class ", class_id);
  }
}

void Sampler::restore(const SamplerState& state) {
  state_ = state;
  apportioner_.set(state_.proportions, state_.due);
}

void Sampler::prepare(std::uint64_t epoch) {
  if (options_.epoch_is_pass) {
    passes_.prepare(0, epoch);
    return;
  }
  for (std::size_t k = 0; k < state_.cursors.size(); ++k)
    passes_.prepare(static_cast<std::int64_t>(k), state_.cursors[k].pass);
}

void Sampler::plan(std::uint64_t epoch, std::uint64_t step, std::int64_t global_rows, BatchPlan& plan,
                   StateChange& change) {
  change.classes.clear();
  change.held.clear();
  if (options_.epoch_is_pass && step == 0) {
    state_.cursors[0] = {.pass = epoch, .position = 0};
    if (state_.held.erase(0) > 0) change.held.emplace_back(0, std::vector<std::int64_t>{});
  }

  BatchPlan& global = options_.world_size == 1 ? plan : global_;
  global.rows.clear();
  global.classes.clear();
  if (index_->num_classes() == 1) {
    draw(0, global_rows, global, change);
  } else {
    const auto quotas = apportioner_.next(state_.due);
    const auto class_at = [&](std::size_t i) { return quotas[std::min(i, quotas.size() - 1)].class_id; };
    for (std::size_t i = 0; i < quotas.size(); ++i) {
      const std::int64_t far = class_at(i + 2 * kAhead);
      __builtin_prefetch(&state_.cursors[static_cast<std::size_t>(far)], 1);
      passes_.prefetch_class(far);
      const std::int64_t near = class_at(i + kAhead);
      const Cursor& cursor = state_.cursors[static_cast<std::size_t>(near)];
      passes_.prefetch_rows(near, cursor.pass, cursor.position);
      draw(quotas[i].class_id, quotas[i].rows, global, change);
    }
  }
  ++state_.total_step;

  if (options_.world_size > 1) take_share_of_rank(epoch, step, plan);
  if (options_.shuffle && !options_.grouped && index_->num_classes() > 1) {
    fisher_yates(
        static_cast<std::uint32_t>(plan.rows.size()),
        RandomStream(options_.seed, Purpose::kBatchOrder, epoch, step, static_cast<std::uint64_t>(options_.rank)),
        [&plan](std::uint32_t i, std::uint32_t j) {
          std::swap(plan.rows[i], plan.rows[j]);
          std::swap(plan.classes[i], plan.classes[j]);
        });
  }
}

/// Appends the next `count` rows of a class to the global plan and moves its cursor on.
void Sampler::draw(std::int64_t class_id, std::int64_t count, BatchPlan& global, StateChange& change) {
  const auto k = static_cast<std::size_t>(class_id);
  const std::size_t begin = global.rows.size();
  global.rows.resize(begin + static_cast<std::size_t>(count));
  global.classes.resize(begin + static_cast<std::size_t>(count), static_cast<std::int32_t>(class_id));
  Cursor& cursor = state_.cursors[k];
  if (cursor.position + count <= index_->size(class_id) && (state_.held.empty() || !state_.held.contains(class_id))) {
    passes_.copy(class_id, cursor.pass, cursor.position, count, &global.rows[begin]);
    cursor.position += count;
  } else {
    draw_one_by_one(class_id, count, cursor, &global.rows[begin], change);
  }
  change.classes.push_back({class_id, cursor, state_.due[k]});
}

/// The general case: rows are held over, or a pass ends in this batch.
void Sampler::draw_one_by_one(std::int64_t class_id, std::int64_t count, Cursor& cursor, std::int64_t* rows,
                              StateChange& change) {
  const std::int64_t size = index_->size(class_id);
  // A round takes every row of the class at most once; a quota larger than the class takes several rounds.
  std::int64_t* round = rows;
  std::deque<std::int64_t> waiting;  // held from before the round
  std::vector<std::int64_t> held;    // in this round
  std::vector<std::int64_t>
      tail;  // what the round had when the pass ended, sorted: a row of the new pass may be one of them
  const auto had = state_.held.find(class_id);
  const bool had_held = had != state_.held.end();
  if (had_held) {
    waiting.assign(had->second.begin(), had->second.end());
    state_.held.erase(had);
  }
  for (std::int64_t* const end = rows + count; rows != end;) {
    if (rows - round == size) {
      round = rows;
      waiting.assign(held.begin(), held.end());
      held.clear();
      tail.clear();
    }
    if (!waiting.empty()) {
      *rows++ = waiting.front();
      waiting.pop_front();
      continue;
    }
    if (cursor.position == size) {
      cursor = {.pass = cursor.pass + 1, .position = 0};
      tail.assign(round, rows);
      std::ranges::sort(tail);
    }
    const std::int64_t some = tail.empty() ? std::min<std::int64_t>(end - rows, size - cursor.position) : 1;
    passes_.copy(class_id, cursor.pass, cursor.position, some, rows);
    cursor.position += some;
    if (!tail.empty() && std::ranges::binary_search(tail, *rows)) {
      held.push_back(*rows);
    } else {
      rows += some;
    }
  }
  held.insert(held.begin(), waiting.begin(), waiting.end());
  if (had_held || !held.empty()) change.held.emplace_back(class_id, held);
  if (!held.empty()) state_.held[class_id] = std::move(held);
}

/// Row i of the global plan belongs to rank (i + offset) mod world_size.
void Sampler::take_share_of_rank(std::uint64_t epoch, std::uint64_t step, BatchPlan& plan) const {
  BoundedIntegers bounded(RandomStream(options_.seed, Purpose::kRankOffset, epoch, step));
  const std::int64_t offset = bounded(static_cast<std::uint32_t>(options_.world_size));
  plan.rows.clear();
  plan.classes.clear();
  for (std::int64_t i = (options_.rank - offset + options_.world_size) % options_.world_size;
       i < std::ssize(global_.rows); i += options_.world_size) {
    plan.rows.push_back(global_.rows[static_cast<std::size_t>(i)]);
    plan.classes.push_back(global_.classes[static_cast<std::size_t>(i)]);
  }
}

}  // namespace l2m
