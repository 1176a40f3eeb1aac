#pragma once

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <map>
#include <memory>
#include <numeric>
#include <optional>
#include <set>
#include <span>
#include <utility>
#include <vector>

#include "l2m/base/random.hpp"
#include "l2m/plan/class_index.hpp"
#include "l2m/plan/permutation.hpp"
#include "l2m/plan/sampler.hpp"

/// Reference implementation of the planning stages in slow, obvious, single-threaded C++.
namespace l2m::test {

/// Numbers of threads that must all give the same results.
inline constexpr int kThreadCounts[] = {0, 1, 2, 3, 8};

/// Return the sizes of ids that can be used for `num_rows` rows.
inline std::vector<int> id_sizes(std::int64_t num_rows) {
  std::vector<int> sizes;
  for (int bytes = RowIds::bytes_for(num_rows); bytes <= RowIds::kMaxBytes; bytes *= 2) sizes.push_back(bytes);
  return sizes;
}

using Proportions = std::vector<double>;

/// Rows of each class, ascending.
using ClassRows = std::vector<std::vector<std::int64_t>>;

inline ClassRows rows_of_classes(const std::vector<std::int32_t>& classes, std::int64_t num_classes) {
  ClassRows result(static_cast<std::size_t>(num_classes));
  for (std::size_t row = 0; row < classes.size(); ++row)
    result[static_cast<std::size_t>(classes[row])].push_back(static_cast<std::int64_t>(row));
  return result;
}

/// Return the 16-bit chunk `index` of a stream, lowest first, as a double in [0, 1).
inline double uniform(const RandomStream& stream, std::uint64_t index) {
  return std::ldexp(static_cast<double>((stream.word(index / 4) >> (16 * (index % 4))) & 0xFFFFU), -16);
}

/// Return unbiased integers below each of `sides`: the digits of a word in that mixed base.
inline std::vector<std::uint64_t> reference_dice(const std::vector<std::uint64_t>& sides, Sfc64& random) {
  std::uint64_t all_sides = 1;
  for (const std::uint64_t n : sides) all_sides *= n;
  for (;;) {
    std::uint64_t rest = random();
    std::vector<std::uint64_t> dice;
    for (const std::uint64_t n : sides) {
      const Product die = portable_product(rest, n);
      dice.push_back(die.high);
      rest = die.low;
    }
    if (rest >= (0 - all_sides) % all_sides) return dice;  // 2^64 modulo all_sides
  }
}

template <class T>
void reference_fisher_yates(std::span<T> items, Sfc64 random) {
  for (std::size_t bound = items.size(); bound > 1;) {
    std::size_t count = std::clamp<std::size_t>(58 / static_cast<std::size_t>(std::bit_width(bound)), 1, 8);
    if (count >= bound) count = 1;
    std::vector<std::uint64_t> sides;
    for (std::size_t i = 0; i < count; ++i) sides.push_back(bound - i);
    for (const std::uint64_t die : reference_dice(sides, random)) {
      --bound;
      std::swap(items[bound], items[static_cast<std::size_t>(die)]);
    }
  }
}

/// Return a generator for use in tests.
inline Sfc64 some_randomness(std::uint64_t number) { return Sfc64(RandomStream(number, Purpose::kBatchOrder, number)); }

/// Return random proportions; 0 for empty classes.
inline Proportions random_proportions(const std::vector<std::int64_t>& sizes, std::uint64_t number) {
  const RandomStream random(number, Purpose::kBatchOrder, sizes.size());
  Proportions proportions;
  for (std::size_t k = 0; k < sizes.size(); ++k) proportions.push_back(sizes[k] > 0 ? uniform(random, k) + 1e-3 : 0.0);
  const double sum = std::accumulate(proportions.begin(), proportions.end(), 0.0);
  for (double& p : proportions) p /= sum;
  return proportions;
}

/// Return the order of a pass of a class with the given rows.
inline std::vector<std::int64_t> reference_permutation(const std::vector<std::int64_t>& rows, std::uint64_t seed,
                                                       std::uint64_t class_id, std::uint64_t pass) {
  const auto size = static_cast<std::uint64_t>(rows.size());
  int bits = 0;
  if (std::ssize(rows) > Permutation::kUnsplitRows)
    while (bits < 16 && (std::uint64_t{Permutation::kBucketRows} << bits) < size) ++bits;
  std::vector<std::vector<std::int64_t>> buckets(std::size_t{1} << bits);
  for (std::uint64_t part = 0; part * Permutation::kPartRows < size; ++part) {
    Sfc64 random(RandomStream(seed, Purpose::kBucket, class_id, pass, part));
    std::uint64_t word = 0;
    for (std::uint64_t i = 0; i < Permutation::kPartRows && part * Permutation::kPartRows + i < size; ++i) {
      if (i % 4 == 0) word = random();
      const auto bucket = static_cast<std::size_t>((word & 0xFFFF) >> (16 - bits));
      buckets[bucket].push_back(rows[static_cast<std::size_t>(part * Permutation::kPartRows + i)]);
      word >>= 16;
    }
  }
  std::vector<std::int64_t> result;
  for (std::size_t b = 0; b < buckets.size(); ++b) {
    reference_fisher_yates(std::span(buckets[b]), Sfc64(RandomStream(seed, Purpose::kShuffle, class_id, pass, b)));
    result.insert(result.end(), buckets[b].begin(), buckets[b].end());
  }
  return result;
}

/// Apportioner that sorts all classes for each batch.
class ReferenceApportioner {
 public:
  ReferenceApportioner(std::uint64_t seed, std::int64_t batch_size) : seed_(seed), batch_size_(batch_size) {}

  [[nodiscard]] DueTimes start(const Proportions& proportions, std::uint64_t step) const {
    DueTimes due;
    for (std::size_t k = 0; k < proportions.size(); ++k) {
      due.visits.push_back(0);
      due.offsets.push_back(static_cast<std::uint16_t>(quarter(k, 0)));
      due.due.push_back(std::ldexp(quarter(k, 0), -16));
    }
    change(Proportions(proportions.size(), 0.0), proportions, step, due);
    return due;
  }

  void change(const Proportions& from, const Proportions& to, std::uint64_t step, DueTimes& due) const {
    const auto now = static_cast<double>(step);
    for (std::size_t k = 0; k < to.size(); ++k) {
      const double before = fraction(from[k]);
      const double after = fraction(to[k]);
      if (after == before) continue;
      const double missing = before == 0 ? due.due[k] : (due.due[k] - now) * before;
      due.due[k] = after == 0 ? missing : now + missing / after;
    }
  }

  /// Return the rows of each class in the next batch.
  [[nodiscard]] std::vector<std::int64_t> next(const Proportions& proportions, DueTimes& due) const {
    std::vector<std::int64_t> quotas;
    std::vector<std::pair<double, std::size_t>> waiting;
    std::int64_t extra = batch_size_;
    for (std::size_t k = 0; k < proportions.size(); ++k) {
      quotas.push_back(whole(proportions[k]));
      extra -= quotas.back();
      if (fraction(proportions[k]) > 0) waiting.emplace_back(due.due[k], k);
    }
    std::ranges::sort(waiting);
    for (std::size_t i = 0; i < static_cast<std::size_t>(extra); ++i) {
      const std::size_t k = waiting.at(i).second;
      ++quotas[k];
      const int before = due.offsets[k];
      int after = before + quarter(k, ++due.visits[k]) - 32768;
      if (after < 0) after = -1 - after;
      if (after > 65535) after = 131071 - after;
      due.offsets[k] = static_cast<std::uint16_t>(after);
      due.due[k] += std::ldexp(65536 + after - before, -16) * (1.0 / fraction(proportions[k]));
    }
    return quotas;
  }

 private:
  [[nodiscard]] std::int64_t whole(double proportion) const {
    return static_cast<std::int64_t>(std::floor(proportion * static_cast<double>(batch_size_)));
  }
  [[nodiscard]] double fraction(double proportion) const {
    const double rows = proportion * static_cast<double>(batch_size_) - static_cast<double>(whole(proportion));
    return rows < std::ldexp(1.0, -500) ? 0.0 : rows;
  }
  [[nodiscard]] int quarter(std::size_t k, std::uint64_t visit) const {
    return static_cast<int>(std::ldexp(uniform(RandomStream(seed_, Purpose::kDue, k), visit), 16));
  }

  std::uint64_t seed_;
  std::int64_t batch_size_;
};

/// Sampler that draws one row after the other.
class ReferenceSampler {
 public:
  ReferenceSampler(ClassRows class_rows, const SamplerOptions& options, Proportions proportions)
      : class_rows_(std::move(class_rows)), options_(options), apportioner_(options.seed, options.global_batch) {
    state_.due = apportioner_.start(proportions, 0);
    state_.cursors.resize(class_rows_.size());
    state_.drawn.resize(class_rows_.size());
    state_.proportions = std::move(proportions);
  }

  [[nodiscard]] const SamplerState& state() const { return state_; }

  void change_proportions(const Proportions& proportions) {
    apportioner_.change(state_.proportions, proportions, state_.total_step, state_.due);
    state_.proportions = proportions;
  }

  std::vector<PlannedRow> plan(std::uint64_t epoch, std::uint64_t step, std::int64_t global_rows) {
    if (options_.epoch_is_pass && step == 0) {
      state_.cursors[0] = {.pass = epoch, .position = 0};
      state_.held.clear();
    }
    const bool one_class = class_rows_.size() == 1;
    const auto quotas = one_class ? std::vector{global_rows} : apportioner_.next(state_.proportions, state_.due);
    std::vector<PlannedRow> global;
    for (std::size_t k = 0; k < quotas.size(); ++k) state_.drawn[k] += quotas[k];
    for (std::size_t k = 0; k < quotas.size(); ++k)
      for (const std::int64_t row : draw(k, quotas[k])) global.push_back({row, static_cast<std::int32_t>(k)});
    ++state_.total_step;

    const auto world_size = static_cast<std::uint64_t>(options_.world_size);
    std::uint64_t offset = 0;
    if (world_size > 1 && !options_.in_order) {
      Sfc64 random(RandomStream(options_.seed, Purpose::kRankOffset, epoch, step));
      offset = reference_dice({world_size}, random)[0];
    }
    std::vector<PlannedRow> local;
    for (std::size_t i = 0; i < global.size(); ++i)
      if ((i + offset) % world_size == static_cast<std::uint64_t>(options_.rank)) local.push_back(global[i]);
    if (options_.shuffle && !options_.grouped && !one_class)
      reference_fisher_yates(std::span(local), Sfc64(RandomStream(options_.seed, Purpose::kBatchOrder, epoch, step,
                                                                  static_cast<std::uint64_t>(options_.rank))));
    return local;
  }

 private:
  std::vector<std::int64_t> draw(std::size_t k, std::int64_t count) {
    const auto size = class_rows_[k].size();
    const auto class_id = static_cast<std::int64_t>(k);
    Cursor& cursor = state_.cursors[k];
    std::vector<std::int64_t> rows;
    std::set<std::int64_t> round;
    std::vector<std::int64_t> waiting = state_.held[class_id];
    std::vector<std::int64_t> held;
    while (std::ssize(rows) < count) {
      if (round.size() == size) {
        round.clear();
        waiting = std::exchange(held, {});
      }
      std::int64_t row = -1;
      if (!waiting.empty()) {
        row = waiting.front();
        waiting.erase(waiting.begin());
      } else {
        do {
          if (row >= 0) held.push_back(row);
          if (cursor.position == std::ssize(class_rows_[k])) cursor = {.pass = cursor.pass + 1, .position = 0};
          row = order(k, cursor.pass)[static_cast<std::size_t>(cursor.position++)];
        } while (round.contains(row));
      }
      round.insert(row);
      rows.push_back(row);
    }
    waiting.insert(waiting.end(), held.begin(), held.end());
    state_.held[class_id] = waiting;
    if (waiting.empty()) state_.held.erase(class_id);
    return rows;
  }

  const std::vector<std::int64_t>& order(std::size_t k, std::uint64_t pass) {
    if (!options_.shuffle) return class_rows_[k];
    auto& [made, permutation] = orders_[k];
    if (permutation.empty() || made != pass) {
      made = pass;
      permutation = reference_permutation(class_rows_[k], options_.seed, k, pass);
    }
    return permutation;
  }

  ClassRows class_rows_;
  SamplerOptions options_;
  ReferenceApportioner apportioner_;
  SamplerState state_;
  std::map<std::size_t, std::pair<std::uint64_t, std::vector<std::int64_t>>> orders_;  // newest pass of each class
};

/// Return an index whose ids are not packed.
inline std::shared_ptr<const ClassIndex> index_of(std::span<const std::int32_t> classes, std::int64_t num_classes,
                                                  bool shuffle, int min_id_bytes = 2) {
  return std::make_shared<const ClassIndex>(classes, num_classes, std::ssize(classes), std::nullopt, 2, shuffle,
                                            min_id_bytes);
}

/// Return an index whose ids are packed, like those of many rows, if that halves their memory.
inline std::shared_ptr<const ClassIndex> packed_index_of(std::span<const std::int32_t> classes,
                                                         std::int64_t num_classes) {
  return std::make_shared<const ClassIndex>(classes, num_classes, std::ssize(classes), std::nullopt, 2, true, 4,
                                            /*max_plain_rows=*/0);
}

/// Options and expected results of a run of some epochs.
struct Run {
  std::vector<std::int64_t> sizes;  // rows of each class
  Proportions proportions;
  SamplerOptions options;
  std::uint64_t epochs = 1;
  std::uint64_t steps = 1;  // per epoch
  std::int64_t last_batch_rows = options.global_batch;
  std::map<std::uint64_t, Proportions> changes{};  // new proportions, by total step

  [[nodiscard]] std::vector<std::int32_t> classes() const {
    std::vector<std::int32_t> classes;
    for (std::size_t k = 0; k < sizes.size(); ++k)
      classes.insert(classes.end(), static_cast<std::size_t>(sizes[k]), static_cast<std::int32_t>(k));
    reference_fisher_yates(std::span(classes), some_randomness(1));
    return classes;
  }

  [[nodiscard]] ClassRows rows() const { return rows_of_classes(classes(), std::ssize(sizes)); }

  [[nodiscard]] std::shared_ptr<const ClassIndex> index(int min_id_bytes = 2) const {
    if (sizes.size() == 1 && min_id_bytes == 2) return std::make_shared<const ClassIndex>(sizes[0]);
    return index_of(classes(), std::ssize(sizes), options.shuffle, min_id_bytes);
  }
  [[nodiscard]] std::shared_ptr<const ClassIndex> packed_index() const {
    return packed_index_of(classes(), std::ssize(sizes));
  }

  [[nodiscard]] std::int64_t rows_of_batch(std::uint64_t step) const {
    return step + 1 == steps ? last_batch_rows : options.global_batch;
  }
};

struct Batch {
  SamplerState before;  // after the changes of proportions at its step
  std::vector<PlannedRow> rows;
  SamplerState after;
};

inline std::vector<Batch> reference_batches_of(const Run& run) {
  ReferenceSampler reference(run.rows(), run.options, run.proportions);
  std::vector<Batch> batches;
  for (std::uint64_t total = 0; total < run.epochs * run.steps; ++total) {
    const auto changed = run.changes.find(total);
    if (changed != run.changes.end()) reference.change_proportions(changed->second);
    const std::uint64_t step = total % run.steps;
    SamplerState before = reference.state();
    auto rows = reference.plan(total / run.steps, step, run.rows_of_batch(step));
    batches.push_back({std::move(before), std::move(rows), reference.state()});
  }
  return batches;
}

}  // namespace l2m::test
