#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <map>
#include <memory>
#include <numeric>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "check.hpp"
#include "l2m/data/dense.hpp"
#include "l2m/loader.hpp"
#include "l2m/mixing/fixed.hpp"
#include "l2m/mixing/proportions.hpp"
#include "reference.hpp"

/// Training runs of a few short epochs, and a trainer that checks each batch of a Loader.
namespace l2m::test {

/// Policy that follows the losses and remembers them.
class Following : public Policy {
 public:
  [[nodiscard]] std::string describe() const override { return "Following()"; }
  [[nodiscard]] std::int64_t memory_rows() const override { return 1; }
  [[nodiscard]] std::vector<double> initial(std::span<const std::int64_t> class_sizes) const override {
    return Proportional().initial(class_sizes);
  }
  void update(const Window& window, std::span<double> proportions, std::span<double> memory) const override {
    for (std::size_t k = 0; k < proportions.size(); ++k) {
      memory[k] += window.class_losses[k] / static_cast<double>(1 + window.counts[k]);
      const double share = 1 + window.class_losses[k] + memory[k] + static_cast<double>(window.step % 3);
      proportions[k] = window.class_sizes[k] > 0 ? share : 0.0;
    }
    divide_by_sum(proportions);
  }
};

/// Policy that moves from Proportional to Balanced over the training, without losses.
class Schedule final : public Policy {
 public:
  [[nodiscard]] std::string describe() const override { return "Schedule()"; }
  [[nodiscard]] Kind kind() const override { return Kind::kSchedule; }
  [[nodiscard]] std::vector<double> initial(std::span<const std::int64_t> class_sizes) const override {
    return Proportional().initial(class_sizes);
  }
  void update(const Window& window, std::span<double> proportions, std::span<double> /*memory*/) const override {
    const double part = static_cast<double>(window.step) / static_cast<double>(window.total_steps.value());
    const auto from = Proportional().initial(window.class_sizes), to = Balanced().initial(window.class_sizes);
    for (std::size_t k = 0; k < from.size(); ++k) proportions[k] = (1 - part) * from[k] + part * to[k];
    divide_by_sum(proportions);
  }
};

struct Training {
  Run run;  // the policy determines its proportions and their changes
  std::optional<std::int64_t> update_every{};
  std::int64_t lookahead = 0;
  std::shared_ptr<const Policy> policy = std::make_shared<Proportional>();

  [[nodiscard]] std::uint64_t total_steps() const { return run.epochs * run.steps; }
};

/// Return the loss of a row. Doubles would have to round sums of such losses.
inline float loss_of(const PlannedRow& row, std::uint64_t step) {
  const std::uint64_t number = (static_cast<std::uint64_t>(row.row * 7 + row.class_id * 5) + step) % 13;
  return std::ldexp(1.1F * static_cast<float>(number), -8 * static_cast<int>(number));
}

inline std::vector<float> losses_of(const std::vector<PlannedRow>& rows, std::uint64_t step) {
  std::vector<float> losses;
  for (const PlannedRow& row : rows) losses.push_back(loss_of(row, step));
  return losses;
}

/// Expected results of a training by the rules of windows, if all losses are recorded in time.
class Expected {
 public:
  explicit Expected(Training of)
      : training(std::move(of)),
        index(training.run.index()),
        ids_(static_cast<std::size_t>(index->num_rows())),
        newest_(training.policy->initial(training.run.sizes)),
        class_losses_(newest_.size(), std::numeric_limits<double>::quiet_NaN()),
        memory_(static_cast<std::size_t>(training.policy->memory_rows()) * newest_.size()) {
    std::iota(ids_.begin(), ids_.end(), std::int64_t{0});
    fields = {std::make_shared<Dense>(reinterpret_cast<const std::byte*>(ids_.data()), 8, 8)};
    make_batches();
  }
  Expected(const Expected&) = delete;
  Expected& operator=(const Expected&) = delete;

  const Training training;
  const std::shared_ptr<const ClassIndex> index;
  Fields fields;                                 // one field: the id of each row
  std::vector<std::vector<PlannedRow>> batches;  // of this rank
  std::vector<LossSums> sums;                    // of each batch, over all ranks
  std::map<std::uint64_t, Proportions> changes;  // new proportions, by total step
  std::vector<SamplerState> states;              // after each number of batches, before changes that take effect then

  [[nodiscard]] const std::vector<PlannedRow>& batch(std::uint64_t step) const {
    return batches.at(static_cast<std::size_t>(step));
  }

  [[nodiscard]] LoaderOptions options(int num_threads = 0, int prefetch = 4) const {
    const SamplerOptions& sampler = training.run.options;
    LoaderOptions options;
    options.index = index;
    options.fields = fields;
    options.mixing = training.policy;
    options.batch_size = sampler.global_batch / sampler.world_size;
    options.rank = sampler.rank;
    options.world_size = sampler.world_size;
    options.has_classes = training.run.sizes.size() > 1;
    options.shuffle = sampler.shuffle;
    options.grouped = sampler.grouped;
    if (options.has_classes) options.steps_per_epoch = training.run.steps;
    options.total_steps = training.total_steps();
    options.update_every = training.update_every;
    options.lookahead = training.lookahead;
    options.seed = sampler.seed;
    options.prefetch = prefetch;
    options.num_threads = num_threads;
    return options;
  }

 private:
  void make_batches() {
    const Run& run = training.run;
    normalize(newest_, run.sizes);
    std::vector<ReferenceSampler> ranks;
    for (std::int64_t rank = 0; rank < run.options.world_size; ++rank) {
      SamplerOptions options = run.options;
      options.rank = rank;
      ranks.emplace_back(run.rows(), options, newest_);
    }
    const std::uint64_t every = static_cast<std::uint64_t>(training.update_every.value_or(std::int64_t(run.steps)));
    LossSums window(newest_.size());
    states.push_back(ranks[0].state());
    for (std::uint64_t step = 0; step < training.total_steps(); ++step) {
      if (changes.contains(step))
        for (ReferenceSampler& rank : ranks) rank.change_proportions(changes.at(step));
      sums.emplace_back(newest_.size());
      for (ReferenceSampler& rank : ranks) {
        auto rows = rank.plan(step / run.steps, step % run.steps, run.rows_of_batch(step % run.steps));
        for (const PlannedRow& row : rows) {
          sums.back().sum[static_cast<std::size_t>(row.class_id)].add(static_cast<double>(loss_of(row, step)));
          ++sums.back().count[static_cast<std::size_t>(row.class_id)];
        }
        if (&rank == &ranks[static_cast<std::size_t>(run.options.rank)]) batches.push_back(std::move(rows));
      }
      states.push_back(ranks[0].state());
      for (ExactSum& sum : sums.back().sum) sum.carry();
      window.add(sums.back());
      if ((step + 1) % every != 0) continue;
      close(std::exchange(window, LossSums(newest_.size())), step + 1);
      changes[step + 1 + (training.update_every ? every : 0)] = newest_;
    }
  }

  void close(const LossSums& window_sums, std::uint64_t step) {
    if (training.policy->kind() == Policy::Kind::kFixed) return;
    for (std::size_t k = 0; k < newest_.size(); ++k)
      if (window_sums.count[k] > 0)
        class_losses_[k] = window_sums.sum[k].nearest() / static_cast<double>(window_sums.count[k]);
    std::vector<double> known = class_losses_;
    fill_gaps(known, training.run.sizes);
    Window window;
    const Proportions before = newest_;
    const std::vector<double> memory = memory_;
    window.proportions = before;
    window.class_losses = known;
    window.class_sizes = training.run.sizes;
    window.counts = window_sums.count;
    window.step = step;
    window.total_steps = training.total_steps();
    window.memory = memory;
    training.policy->update(window, newest_, memory_);
    normalize(newest_, training.run.sizes);
  }

  std::vector<std::int64_t> ids_;
  Proportions newest_;
  std::vector<double> class_losses_, memory_;
};

/// Trainer that takes the batches of a training one by one, compares each with the expected one, and records its
/// losses.
class Trainer {
 public:
  /// @param delay  number of batches by which recording is delayed.
  Trainer(const Expected& expected, LoaderOptions options, std::uint64_t delay = 0)
      : expected_(expected), delay_(delay), loader_(std::move(options)), iteration_(loader_.iterate()) {}

  Loader& loader() { return loader_; }
  [[nodiscard]] const Iteration& iteration() const { return iteration_; }
  [[nodiscard]] std::uint64_t recorded() const { return recorded_; }
  [[nodiscard]] bool is_done() const { return loader_.epoch() == expected_.training.run.epochs; }

  void load(LoaderState state) {
    recorded_ = state.sampler.total_step;
    loader_.load(std::move(state));
    iteration_ = loader_.iterate();
  }

  /// Take one batch, or reach the end of an epoch.
  void step() {
    const std::uint64_t step = loader_.total_step();
    const std::optional<FilledBatch> batch = loader_.next(iteration_);
    if (batch) {
      check(*batch, step);
      record();
    } else {
      end_epoch();
    }
  }
  void train(std::uint64_t batches) {
    const std::uint64_t until = loader_.total_step() + batches;
    while (loader_.total_step() < until) step();
  }
  /// Take all remaining batches, and reach the end of the last epoch.
  void train_all() {
    while (!is_done()) step();
    CHECK(loader_.total_step() == expected_.batches.size());
  }

  void check(const FilledBatch& batch, std::uint64_t step) const {
    const std::vector<PlannedRow>& rows = expected_.batch(step);
    CHECK(std::ranges::equal(loader_.plan().value(), rows));
    CHECK(batch.num_rows == std::ssize(rows) && batch.blocks.size() == 1);
    for (std::size_t i = 0; i < rows.size(); ++i)
      CHECK(std::memcmp(batch.blocks[0].data() + 8 * i, &rows[i].row, 8) == 0);
  }
  /// Record the losses that are due.
  void record() { record_until(loader_.total_step() - std::min(loader_.total_step(), delay_)); }
  void end_epoch() {
    // The window of an epoch accepts losses until the next epoch begins.
    if (!expected_.training.update_every) record_until(loader_.total_step());
    iteration_ = loader_.iterate();
  }

 private:
  void record_until(std::uint64_t end) {
    for (; recorded_ < end; ++recorded_) {
      const std::vector<float> losses = losses_of(expected_.batch(recorded_), recorded_);
      if (losses.empty()) continue;
      const std::span<const float> values = losses;
      if (delay_ == 0) {
        loader_.record(values);
      } else {
        loader_.record(values, recorded_);
      }
    }
  }

  const Expected& expected_;
  const std::uint64_t delay_;
  Loader loader_;
  Iteration iteration_;
  std::uint64_t recorded_ = 0;  // batches whose losses were recorded
};

/// Return the state after the last batch, whichever losses were recorded last.
inline LoaderState newest_state(Loader& loader) {
  return loader.total_step() > 0 ? loader.state(loader.total_step() - 1) : loader.state();
}

inline bool same(const LoaderState& a, const LoaderState& b) {
  const auto equal = [](double x, double y) { return x == y || (std::isnan(x) && std::isnan(y)); };
  return a.fingerprint == b.fingerprint && a.seed == b.seed && a.rank == b.rank && a.world_size == b.world_size &&
         a.epoch == b.epoch && a.next_epoch == b.next_epoch && a.step == b.step && a.updated == b.updated &&
         a.windows == b.windows && a.sampler == b.sampler && a.next_proportions == b.next_proportions &&
         std::ranges::equal(a.class_losses, b.class_losses, equal) && a.losses == b.losses && a.memory == b.memory;
}

/// Return a run with classes of different sizes, one of them empty.
inline Run mixed_run() {
  return {.sizes = {7, 0, 3, 300, 1, 100},
          .proportions = {},
          .options = {.seed = 3, .global_batch = 24},
          .epochs = 4,
          .steps = 7};
}

inline Training following(std::optional<std::int64_t> update_every, std::int64_t lookahead = 0) {
  return {mixed_run(), update_every, lookahead, std::make_shared<Following>()};
}

}  // namespace l2m::test
