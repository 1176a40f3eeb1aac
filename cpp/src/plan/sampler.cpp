#include "l2m/plan/sampler.hpp"

#include <algorithm>
#include <cmath>
#include <stdexcept>
#include <utility>

#include "l2m/base/errors.hpp"
#include "l2m/base/random.hpp"
#include "l2m/base/sums.hpp"

namespace l2m {
namespace {

constexpr std::uint64_t kMaxCount = std::uint64_t{1} << 53;
constexpr double kMaxDue = 0x1p512;  // fractions are at least 2^-500

constexpr std::size_t kAhead = 16;  // classes whose cursor is fetched ahead of their turn

// Rows planned together: some of every class where there are not too many, and few enough to stay in a cache until they
// are copied.
constexpr std::int64_t kRowsOfClass = 16;
constexpr std::int64_t kFewestRows = 8192;
constexpr std::int64_t kMostRows = 131072;

std::int64_t batches_at_once(std::int64_t num_classes, std::int64_t global_rows) {
  const std::int64_t rows = std::clamp(kRowsOfClass * std::min(num_classes, kMostRows), kFewestRows, kMostRows);
  return std::max<std::int64_t>(rows / global_rows, 1);
}

/// Rows from a batch to the next in the memory of plans: an odd number of cache lines, since all batches are written to
/// at once, and at a power of two they would drive each other out of the cache.
std::size_t rows_apart(std::int64_t most_rows) {
  constexpr std::size_t kRowsOfLine = 64 / sizeof(PlannedRow);
  return ((static_cast<std::size_t>(most_rows) + kRowsOfLine - 1) / kRowsOfLine | 1) * kRowsOfLine;
}

}  // namespace

/// Gives the rows of each batch to the ranks in turn, and keeps those of this rank.
class Sampler::Dealer {
 public:
  Dealer(std::int64_t rank, std::int64_t world_size) : rank_(rank), world_size_(world_size) {}

  void begin(std::size_t num_batches) {
    next_.resize(num_batches);
    next_rank_.assign(num_batches, 0);
  }
  /// @param rows  where the rows of this rank go.   @param rank  gets the first row.
  void begin_batch(std::size_t batch, PlannedRow* rows, std::int64_t rank) {
    next_[batch] = rows;
    next_rank_[batch] = rank;
  }

  /// Deals the next `count` rows of a class, row_at(0) to row_at(count - 1).
  template <class RowAt>
  void deal(std::int64_t batch, std::int64_t class_id, std::int64_t count, RowAt&& row_at) {
    const auto b = static_cast<std::size_t>(batch);
    const auto k = static_cast<std::int32_t>(class_id);
    PlannedRow* out = next_[b];
    if (world_size_ == 1) {
      for (std::int64_t i = 0; i < count; ++i) out[i] = {row_at(i), k};
      next_[b] = out + count;
      return;
    }
    const std::int64_t first = (rank_ - next_rank_[b] + world_size_) % world_size_;
    for (std::int64_t i = first; i < count; i += world_size_) *out++ = {row_at(i), k};
    next_[b] = out;
    next_rank_[b] = (next_rank_[b] + count) % world_size_;
  }

  /// Deals the next row of a class.
  void deal(std::int64_t batch, std::int64_t class_id, std::int64_t row) {
    const auto b = static_cast<std::size_t>(batch);
    if (world_size_ > 1) {
      const std::int64_t rank = next_rank_[b];
      next_rank_[b] = rank + 1 == world_size_ ? 0 : rank + 1;
      if (rank != rank_) return;
    }
    *next_[b]++ = {row, static_cast<std::int32_t>(class_id)};
  }

  [[nodiscard]] PlannedRow* end_of(std::size_t batch) const { return next_[batch]; }

 private:
  const std::int64_t rank_, world_size_;
  // Of each batch:
  std::vector<PlannedRow*> next_;
  std::vector<std::int64_t> next_rank_;
};

void BatchPlans::advance(SamplerState& state, std::int64_t from, std::int64_t to) const {
  if (from == to) return;
  state.total_step += static_cast<std::uint64_t>(to - from);
  if (pass_ && from == 0) {
    state.cursors[0] = {.pass = *pass_, .position = 0};
    state.held.erase(0);
  }
  auto turn = turns_.begin();
  for (const auto& [class_id, whole, begin, end] : quotas_.classes) {
    const auto k = static_cast<std::size_t>(class_id);
    const auto extra_at = [&, extras = std::span(quotas_.batch).subspan(begin, end - begin)](std::int64_t batch) {
      return std::ranges::lower_bound(extras, batch) - extras.begin();
    };
    const std::ptrdiff_t first = extra_at(from), last = extra_at(to);
    if (first != last) {
      state.due.visits[k] += static_cast<std::uint64_t>(last - first);
      state.due.due[k] = quotas_.due[begin + static_cast<std::size_t>(last)];
      state.due.offsets[k] = quotas_.offset[begin + static_cast<std::size_t>(last)];
    }
    std::int64_t since = from;
    for (; turn != turns_.end() && turn->class_id == class_id; ++turn) {
      if (turn->batch < from || turn->batch >= to) continue;
      since = turn->batch + 1;
      state.cursors[k] = turn->cursor;
      if (turn->held.empty()) {
        state.held.erase(class_id);
      } else {
        state.held[class_id] = turn->held;
      }
    }
    state.cursors[k].position += whole * (to - since) + (last - extra_at(since));
  }
}

Sampler::Sampler(std::shared_ptr<const ClassIndex> index, const SamplerOptions& options, bool in_background)
    : index_(std::move(index)),
      options_(options),
      passes_(index_, options.seed, options.shuffle, in_background),
      apportioner_(options.seed, options.global_batch),
      dealer_(std::make_unique<Dealer>(options.rank, options.world_size)) {}

Sampler::~Sampler() = default;

SamplerState Sampler::initial_state(std::vector<double> proportions) const {
  check_proportions(proportions);
  SamplerState state;
  state.proportions = std::move(proportions);
  state.cursors.resize(static_cast<std::size_t>(index_->num_classes()));
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
  if (std::ssize(proportions) != index_->num_classes())
    throw std::invalid_argument(
        message("there must be ", index_->num_classes(), " proportions (got ", proportions.size(), ")"));
  for (std::size_t k = 0; k < proportions.size(); ++k) {
    const double p = proportions[k];
    const std::int64_t size = index_->size(static_cast<std::int64_t>(k));
    if (!(p >= 0) || (p > 0 && size == 0))
      throw std::invalid_argument(
          message("proportions must be >= 0, and 0 without rows (got ", p, " for class ", k, " of ", size, " rows)"));
  }
  // Normalized ones do so to the last bits; far from that the quotas of a large batch would not add up.
  const double sum = compensated_sum(proportions);
  if (!(std::abs(sum - 1) <= 1e-12))
    throw std::invalid_argument(message("proportions must sum to 1 within 1e-12 (got ", sum, ")"));
}

namespace {

template <class... Parts>
[[noreturn]] void refuse(const Parts&... parts) {
  throw std::invalid_argument(message("the state is broken: ", parts...));
}

}  // namespace

void Sampler::check(const SamplerState& state) {
  const auto num_classes = static_cast<std::size_t>(index_->num_classes());
  if (state.proportions.size() != num_classes || state.due.visits.size() != num_classes ||
      state.due.offsets.size() != num_classes || state.due.due.size() != num_classes ||
      state.cursors.size() != num_classes)
    refuse("it must have ", num_classes, " classes");
  check_proportions(state.proportions);
  for (std::size_t k = 0; k < num_classes; ++k) {
    const std::int64_t size = index_->size(static_cast<std::int64_t>(k));
    const std::int64_t position = state.cursors[k].position;
    if (position < 0 || position > size)
      refuse("positions must be in [0, ", size, "] for class ", k, " (got ", position, ")");
    // Far from where pass + 1 and the like would wrap.
    if (state.cursors[k].pass > kMaxCount || state.due.visits[k] > kMaxCount || state.total_step > kMaxCount)
      refuse("passes, visits and total_step must be at most ", kMaxCount);
    if (!(std::abs(state.due.due[k]) <= kMaxDue))
      refuse("due must be within ", kMaxDue, " (got ", state.due.due[k], ")");
  }
  for (const auto& [class_id, rows] : state.held) {
    if (class_id < 0 || class_id >= index_->num_classes()) refuse("rows are held of class ", class_id);
    check_held(class_id, rows, state.cursors[static_cast<std::size_t>(class_id)]);
  }
}

/// Refuses held rows that are not among the rows of the pass that were passed over.
void Sampler::check_held(std::int64_t class_id, std::span<const std::int64_t> held, const Cursor& cursor) {
  for (const std::int64_t row : held)
    if (!index_->contains(class_id, row)) refuse("row ", row, " is held, which is not of class ", class_id);
  std::vector<std::int64_t> sorted(held.begin(), held.end());
  std::ranges::sort(sorted);
  if (std::ranges::adjacent_find(sorted) != sorted.end()) refuse("a row of class ", class_id, " is held twice");
  if (std::ssize(held) > cursor.position)
    refuse(held.size(), " rows of class ", class_id, " are held after ", cursor.position, " of its pass");
  passes_.visit(class_id, cursor.pass, [&](auto row_at) {
    for (std::int64_t i = cursor.position; i < index_->size(class_id); ++i)
      if (std::ranges::binary_search(sorted, row_at(i)))
        refuse("row ", row_at(i), " of class ", class_id, " is held and still to come");
  });
}

void Sampler::restore(const SamplerState& state) {
  state_ = state;
  apportioner_.set(state_.proportions);
}

void Sampler::prepare(std::uint64_t epoch) {
  if (options_.epoch_is_pass) {
    passes_.prepare(0, epoch);
    return;
  }
  for (std::size_t k = 0; k < state_.cursors.size(); ++k)
    passes_.prepare(static_cast<std::int64_t>(k), state_.cursors[k].pass);
}

void Sampler::plan(std::uint64_t epoch, std::uint64_t step, std::int64_t most_batches, std::int64_t global_rows,
                   BatchPlans& plans) {
  plans.turns_.clear();
  plans.pass_.reset();
  if (options_.epoch_is_pass && step == 0) {
    plans.pass_ = epoch;
    state_.cursors[0] = {.pass = epoch, .position = 0};
    state_.held.erase(0);
  }

  most_batches = std::min(most_batches, batches_at_once(index_->num_classes(), global_rows));
  Quotas& quotas = plans.quotas_;
  if (index_->num_classes() == 1) {
    quotas.clear();
    quotas.num_batches = most_batches;
    quotas.classes.push_back({0, global_rows, 0, 0});
  } else {
    apportioner_.next(state_.total_step, most_batches, state_.due, quotas);
  }
  const auto num_batches = static_cast<std::size_t>(quotas.num_batches);
  const std::size_t stride = rows_apart((global_rows + options_.world_size - 1) / options_.world_size);
  plans.rows_.resize(num_batches * stride);
  dealer_->begin(num_batches);
  for (std::size_t i = 0; i < num_batches; ++i) {
    std::int64_t rank = 0;
    if (options_.world_size > 1 && !options_.in_order) {
      Sfc64 random(RandomStream(options_.seed, Purpose::kRankOffset, epoch, step + i));
      rank = throw_dice<1>(static_cast<std::uint32_t>(options_.world_size), random)[0];
    }
    dealer_->begin_batch(i, &plans.rows_[i * stride], rank);
  }

  const auto class_at = [&](std::size_t i) { return quotas.classes[std::min(i, quotas.classes.size() - 1)].class_id; };
  for (std::size_t i = 0; i < quotas.classes.size(); ++i) {
    const std::int64_t far = class_at(i + 2 * kAhead);
    __builtin_prefetch(&state_.cursors[static_cast<std::size_t>(far)], 1);
    passes_.prefetch_class(far);
    const std::int64_t near = class_at(i + kAhead);
    const Cursor& cursor = state_.cursors[static_cast<std::size_t>(near)];
    passes_.prefetch_rows(near, cursor.pass, cursor.position);
    draw(quotas.classes[i], plans);
  }
  plans.rows_of_batch_.clear();
  for (std::size_t i = 0; i < num_batches; ++i)
    plans.rows_of_batch_.emplace_back(&plans.rows_[i * stride], dealer_->end_of(i));
  state_.total_step += num_batches;
}

/// Draws what a class gives to the batches.
void Sampler::draw(const Quotas::Class& quota, BatchPlans& plans) {
  quota.whole == 0 ? draw_extras(quota, plans) : draw_wholes(quota, plans);
}

/// Of a class that has one row in some batches: no batch can have a row twice, so passes simply follow each other.
void Sampler::draw_extras(const Quotas::Class& quota, BatchPlans& plans) {
  const std::vector<std::int32_t>& batch_of = plans.quotas_.batch;
  Cursor& cursor = state_.cursors[static_cast<std::size_t>(quota.class_id)];
  const std::int64_t size = index_->size(quota.class_id);
  for (std::size_t i = quota.begin; i < quota.end;) {
    if (holds(quota.class_id)) {  // from when it had more
      draw_for_batch(quota.class_id, 1, batch_of[i++], plans);
      continue;
    }
    if (cursor.position == size) {
      cursor = {.pass = cursor.pass + 1, .position = 0};
      plans.turns_.push_back({quota.class_id, batch_of[i], {.pass = cursor.pass, .position = 1}, {}});
    }
    passes_.visit(quota.class_id, cursor.pass, [&](auto row_at) {
      const std::size_t end = i + std::min(quota.end - i, static_cast<std::size_t>(size - cursor.position));
      std::int64_t position = cursor.position;
      for (; i < end; ++i) dealer_->deal(batch_of[i], quota.class_id, row_at(position++));
      cursor.position = position;
    });
  }
}

/// Of a class that has rows in every batch.
void Sampler::draw_wholes(const Quotas::Class& quota, BatchPlans& plans) {
  const std::vector<std::int32_t>& batch_of = plans.quotas_.batch;
  Cursor& cursor = state_.cursors[static_cast<std::size_t>(quota.class_id)];
  const std::int64_t size = index_->size(quota.class_id);
  std::size_t extra = quota.begin;
  const auto rows_in = [&](std::int64_t batch) {
    return quota.whole + (extra < quota.end && batch_of[extra] == batch ? 1 : 0);
  };
  for (std::int64_t batch = 0; batch < plans.size(); ++batch) {
    std::int64_t rows = rows_in(batch);
    if (cursor.position + rows <= size && !holds(quota.class_id)) {
      passes_.visit(quota.class_id, cursor.pass, [&](auto row_at) {
        while (cursor.position + rows <= size) {
          dealer_->deal(batch, quota.class_id, rows, [&](std::int64_t i) { return row_at(cursor.position + i); });
          cursor.position += rows;
          extra += static_cast<std::size_t>(rows - quota.whole);
          if (++batch == plans.size()) return;
          rows = rows_in(batch);
        }
      });
      if (batch == plans.size()) return;
    }
    draw_for_batch(quota.class_id, rows, batch, plans);
    extra += static_cast<std::size_t>(rows - quota.whole);
  }
}

/// Draws the next `count` rows of a class for one batch, whatever may happen on the way.
void Sampler::draw_for_batch(std::int64_t class_id, std::int64_t count, std::int64_t batch, BatchPlans& plans) {
  Cursor& cursor = state_.cursors[static_cast<std::size_t>(class_id)];
  std::vector<std::int64_t> held;
  if (holds(class_id)) {
    held = std::move(state_.held[class_id]);
    state_.held.erase(class_id);
  }
  drawn_.clear();
  draw_one_by_one(class_id, count, cursor, held);
  dealer_->deal(batch, class_id, count, [&](std::int64_t i) { return drawn_[static_cast<std::size_t>(i)]; });
  plans.turns_.push_back({class_id, batch, cursor, held});
  if (!held.empty()) state_.held[class_id] = std::move(held);
}

/// The general case: rows are held over, or a pass ends in this batch.
void Sampler::draw_one_by_one(std::int64_t class_id, std::int64_t count, Cursor& cursor,
                              std::vector<std::int64_t>& held) {
  const std::int64_t size = index_->size(class_id);
  // A round takes every row of the class at most once; a quota larger than the class takes several rounds.
  std::size_t round = 0;                                        // where it began in drawn_
  std::vector<std::int64_t> waiting = std::exchange(held, {});  // held from before the round
  std::size_t waited = 0;                                       // of those, how many have been drawn
  std::vector<std::int64_t> tail;  // what the round had when the pass ended, sorted: the new pass may repeat it
  while (std::ssize(drawn_) < count) {
    if (std::ssize(drawn_) - static_cast<std::int64_t>(round) == size) {
      round = drawn_.size();
      waiting = std::exchange(held, {});
      waited = 0;
      tail.clear();
    }
    if (waited < waiting.size()) {
      drawn_.push_back(waiting[waited++]);
      continue;
    }
    if (cursor.position == size) {
      cursor = {.pass = cursor.pass + 1, .position = 0};
      tail.assign(drawn_.begin() + static_cast<std::ptrdiff_t>(round), drawn_.end());
      std::ranges::sort(tail);
    }
    passes_.visit(class_id, cursor.pass, [&](auto row_at) {
      const std::int64_t most = std::min(size - cursor.position, count - std::ssize(drawn_));
      if (tail.empty()) {
        for (std::int64_t i = 0; i < most; ++i) drawn_.push_back(row_at(cursor.position++));
        return;
      }
      const std::int64_t row = row_at(cursor.position++);
      (std::ranges::binary_search(tail, row) ? held : drawn_).push_back(row);
    });
  }
  held.insert(held.begin(), waiting.begin() + static_cast<std::ptrdiff_t>(waited), waiting.end());
}

void Sampler::arrange(std::uint64_t epoch, std::uint64_t step, std::span<PlannedRow> rows) const {
  if (!options_.shuffle || options_.grouped || index_->num_classes() == 1) return;
  fisher_yates(rows, Sfc64(RandomStream(options_.seed, Purpose::kBatchOrder, epoch, step,
                                        static_cast<std::uint64_t>(options_.rank))));
}

}  // namespace l2m
