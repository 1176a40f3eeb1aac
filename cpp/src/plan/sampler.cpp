#include "l2m/plan/sampler.hpp"

#include <algorithm>
#include <cmath>
#include <stdexcept>
#include <utility>

#include "l2m/base/compact.hpp"
#include "l2m/base/errors.hpp"
#include "l2m/base/max_count.hpp"
#include "l2m/base/memory.hpp"
#include "l2m/base/random.hpp"
#include "l2m/base/sums.hpp"
#include "l2m/base/threads.hpp"

namespace l2m {
namespace {

constexpr double kMaxDue = 0x1p512;  // fractions are at least 2^-500

constexpr std::size_t kAhead = 16;  // classes whose cursor is prefetched before their turn

// Rows planned together: several per class unless there are many classes, and few enough to stay in a cache until they
// are copied. Where there are no threads, their memory matters more.
constexpr std::int64_t kRowsPerClass = 32;
constexpr std::int64_t kMinRows = kHasThreads ? 8192 : 256;
constexpr std::int64_t kMaxRows = kHasThreads ? 131072 : 256;

std::int64_t batches_at_once(std::int64_t num_classes, std::int64_t global_rows) {
  const std::int64_t rows = std::clamp(kRowsPerClass * std::min(num_classes, kMaxRows), kMinRows, kMaxRows);
  return std::max<std::int64_t>(rows / global_rows, 1);
}

/// Return the distance between batches in the memory of plans, in rows. It is an odd number of cache lines: all batches
/// are written at once, and would evict each other from the cache at a power of two.
std::int64_t row_stride(std::int64_t max_rows) {
  constexpr std::int64_t kRowsPerLine = 64 / sizeof(PlannedRow);
  return ((max_rows + kRowsPerLine - 1) / kRowsPerLine | 1) * kRowsPerLine;
}

}  // namespace

Sampler::Sampler(std::shared_ptr<const ClassIndex> index, const SamplerOptions& options, bool in_background)
    : options_(options),
      drawer_(std::move(index), options.seed, options.shuffle, in_background, options.max_slices, options.rank,
              options.world_size),
      apportioner_(options.seed, options.global_batch) {}

SamplerState Sampler::initial_state(std::vector<double> proportions) const {
  check_proportions(proportions);
  SamplerState state;
  state.proportions = std::move(proportions);
  state.cursors.resize(static_cast<std::size_t>(drawer_.index().num_classes()));
  state.drawn.resize(state.cursors.size());
  apportioner_.start(state.proportions, 0, state.due);
  return state;
}

void Sampler::change_proportions(SamplerState& state, std::vector<double> proportions) const {
  apportioner_.change(state.proportions, proportions, state.total_step, state.due);
  state.proportions = std::move(proportions);
}

void Sampler::change_proportions(std::vector<double> proportions) {
  change_proportions(state_, std::move(proportions));
  apportioner_.set(state_.proportions);
}

void Sampler::check_proportions(std::span<const double> proportions) const {
  if (std::ssize(proportions) != drawer_.index().num_classes())
    refuse("proportions must have ", drawer_.index().num_classes(), " values (got ", proportions.size(), ")");
  for (std::size_t k = 0; k < proportions.size(); ++k) {
    const double p = proportions[k];
    const std::int64_t size = drawer_.index().size(static_cast<std::int64_t>(k));
    if (!(p >= 0) || (p > 0 && size == 0))
      refuse("proportions must be >= 0, and 0 without rows (got ", p, " for class ", k, " of ", size, " rows)");
  }
  // Normalized proportions sum to 1 within rounding. Otherwise, the quotas of a large batch would not add up.
  const double sum = compensated_sum(proportions);
  if (!(std::abs(sum - 1) <= 1e-12)) refuse("proportions must sum to 1 within 1e-12 (got ", sum, ")");
}

namespace {

template <class... Parts>
[[noreturn]] void refuse_state(const Parts&... parts) {
  refuse("the state is invalid: ", parts...);
}

}  // namespace

void Sampler::check(const SamplerState& state) {
  const auto num_classes = static_cast<std::size_t>(drawer_.index().num_classes());
  if (state.proportions.size() != num_classes || state.due.visits.size() != num_classes ||
      state.due.offsets.size() != num_classes || state.due.due.size() != num_classes ||
      state.cursors.size() != num_classes || state.drawn.size() != num_classes)
    refuse_state("it must have ", num_classes, " classes");
  check_proportions(state.proportions);
  for (std::size_t k = 0; k < num_classes; ++k) {
    const std::int64_t size = drawer_.index().size(static_cast<std::int64_t>(k));
    const std::int64_t position = state.cursors[k].position;
    if (position < 0 || position > size)
      refuse_state("positions must be in [0, ", size, "] for class ", k, " (got ", position, ")");
    if (state.drawn[k] < 0 || state.drawn[k] > kMaxCount)
      refuse_state("drawn must be in [0, ", kMaxCount, "] for class ", k, " (got ", state.drawn[k], ")");
    // Far below the point where pass + 1 and the like overflow.
    if (std::max({state.cursors[k].pass, state.due.visits[k], state.total_step}) > std::uint64_t{kMaxCount})
      refuse_state("passes, visits and total_step must be at most ", kMaxCount);
    if (!(std::abs(state.due.due[k]) <= kMaxDue))
      refuse_state("due must be within ", kMaxDue, " (got ", state.due.due[k], ")");
  }
  for (const auto& [class_id, rows] : state.held) {
    if (class_id < 0 || class_id >= drawer_.index().num_classes())
      refuse_state("class ", class_id, " holds rows, but does not exist");
    check_held(class_id, rows, state.cursors[static_cast<std::size_t>(class_id)]);
  }
}

/// Check that held rows belong to the class and were skipped in its current pass.
void Sampler::check_held(std::int64_t class_id, std::span<const std::int64_t> held, const Cursor& cursor) {
  for (const std::int64_t row : held)
    if (!drawer_.index().contains(class_id, row)) refuse_state("row ", row, " is held, but not of class ", class_id);
  std::vector<std::int64_t> sorted(held.begin(), held.end());
  sort_items(std::span(sorted));
  if (std::ranges::adjacent_find(sorted) != sorted.end()) refuse_state("a row of class ", class_id, " is held twice");
  if (std::ssize(held) > cursor.position)
    refuse_state("class ", class_id, " holds ", held.size(), " rows after drawing ", cursor.position,
                 " rows of its pass");
  for (std::int64_t i = cursor.position; i < drawer_.index().size(class_id);) {
    drawer_.passes().visit(class_id, cursor.pass, i, [&](auto row_at, std::int64_t end) {
      for (; i < end; ++i)
        if (std::ranges::binary_search(sorted, row_at(i)))
          refuse_state("row ", row_at(i), " of class ", class_id, " is held, but not drawn yet");
    });
  }
}

void Sampler::restore(const SamplerState& state) {
  state_ = state;
  apportioner_.set(state_.proportions);
}

void Sampler::prepare(std::uint64_t epoch) {
  if (!kHasThreads) return;
  if (options_.epoch_is_pass) {
    drawer_.passes().prepare(0, epoch, state_.cursors[0].pass == epoch ? state_.cursors[0].position : 0);
    return;
  }
  for (std::size_t k = 0; k < state_.cursors.size(); ++k)
    drawer_.passes().prepare(static_cast<std::int64_t>(k), state_.cursors[k].pass, state_.cursors[k].position);
}

void Sampler::plan(std::uint64_t epoch, std::uint64_t step, std::int64_t max_batches, std::int64_t global_rows,
                   BatchPlans& plans) {
  plans.turns_.clear();
  plans.held_.clear();
  plans.pass_.reset();
  if (options_.epoch_is_pass && step == 0) {
    plans.pass_ = epoch;
    state_.cursors[0] = {.pass = epoch, .position = 0};
    state_.held.erase(0);
  }

  max_batches = std::min(max_batches, batches_at_once(drawer_.index().num_classes(), global_rows));
  Quotas& quotas = plans.quotas_;
  if (drawer_.index().num_classes() == 1) {
    quotas.clear();
    quotas.num_batches = max_batches;
    quotas.classes.push_back({0, global_rows, 0, 0});
  } else {
    apportioner_.next(state_.total_step, max_batches, state_.due, quotas);
  }
  const auto num_batches = static_cast<std::size_t>(quotas.num_batches);
  const std::int64_t max_rows = row_stride((global_rows + options_.world_size - 1) / options_.world_size);
  plans.rows_.resize(checked_size("the plan of a batch", quotas.num_batches * max_rows, sizeof(PlannedRow)));
  const auto stride = static_cast<std::size_t>(max_rows);
  drawer_.dealer().begin(num_batches);
  for (std::size_t i = 0; i < num_batches; ++i) {
    drawer_.dealer().begin_batch(i, &plans.rows_[i * stride], first_rank(epoch, step + i, options_.world_size));
  }

  const auto class_at = [&](std::size_t i) { return quotas.classes[std::min(i, quotas.classes.size() - 1)].class_id; };
  for (std::size_t i = 0; i < quotas.classes.size(); ++i) {
    const std::int64_t far = class_at(i + 2 * kAhead);
    __builtin_prefetch(&state_.cursors[static_cast<std::size_t>(far)], 1);
    drawer_.passes().prefetch_class(far);
    const std::int64_t near = class_at(i + kAhead);
    const Cursor& cursor = state_.cursors[static_cast<std::size_t>(near)];
    drawer_.passes().prefetch_rows(near, cursor.pass, cursor.position);
    drawer_.draw(quotas.classes[i], state_, plans);
  }
  plans.rows_of_batch_.clear();
  for (std::size_t i = 0; i < num_batches; ++i)
    plans.rows_of_batch_.emplace_back(&plans.rows_[i * stride], drawer_.dealer().end_of(i));
  state_.total_step += num_batches;
}

/// Return the rank that gets the first row of a batch.
std::int64_t Sampler::first_rank(std::uint64_t epoch, std::uint64_t step, std::int64_t num_ranks) const {
  if (num_ranks == 1 || options_.in_order) return 0;
  Sfc64 random(RandomStream(options_.seed, Purpose::kRankOffset, epoch, step));
  return throw_dice<1>(static_cast<std::uint32_t>(num_ranks), random)[0];
}

void Sampler::arrange(std::uint64_t epoch, std::uint64_t step, std::span<PlannedRow> rows) const {
  const bool shuffled = options_.shuffle && !options_.grouped && drawer_.index().num_classes() > 1;
  const auto shuffle = [&](std::span<PlannedRow> of_rank, std::int64_t rank) {
    if (!shuffled) return;
    const auto c = static_cast<std::uint64_t>(rank);
    fisher_yates(of_rank, Sfc64(RandomStream(options_.seed, Purpose::kBatchOrder, epoch, step, c)));
  };
  const std::int64_t num_ranks = options_.listed_ranks;
  if (num_ranks == 1) return shuffle(rows, options_.rank);
  const std::vector<PlannedRow> dealt(rows.begin(), rows.end());
  const std::int64_t first = first_rank(epoch, step, num_ranks);
  std::size_t end = 0;
  for (std::int64_t rank = 0; rank < num_ranks; ++rank) {
    const std::size_t begin = end;
    for (std::int64_t i = (rank - first + num_ranks) % num_ranks; i < std::ssize(dealt); i += num_ranks)
      rows[end++] = dealt[static_cast<std::size_t>(i)];
    shuffle(rows.subspan(begin, end - begin), rank);
  }
}

}  // namespace l2m
