#include <algorithm>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <stdexcept>
#include <thread>
#include <utility>
#include <vector>

#include "check.hpp"
#include "l2m/loader.hpp"
#include "loader_runs.hpp"

// Several ranks, each with a Loader on its own thread.

namespace l2m::test {
namespace {

constexpr std::int64_t kRanks = 3;

/// Sums of losses over the threads of all ranks. The i-th sum that each rank starts is of the same window.
class AllReduce {
 public:
  /// Start a sum, unless it was started already.
  void start(std::size_t rank, std::uint64_t number, std::span<const double> values) {
    const std::lock_guard lock(mutex_);
    std::vector<std::vector<double>>& mine = started_[rank];
    if (!mine.empty() && numbers_[rank] == number && std::ranges::equal(mine.back(), values)) return;
    numbers_[rank] = number;
    mine.emplace_back(values.begin(), values.end());
    changed_.notify_all();
  }

  /// Wait until all ranks have started the sum that this rank started last, and write it to `values`.
  void finish(std::size_t rank, std::span<double> values) {
    std::unique_lock lock(mutex_);
    const std::size_t last = started_[rank].size() - 1;
    changed_.wait(lock,
                  [&] { return std::ranges::all_of(started_, [&](const auto& of) { return of.size() > last; }); });
    std::ranges::fill(values, 0.0);
    for (const auto& of_rank : started_)
      for (std::size_t i = 0; i < values.size(); ++i) values[i] += of_rank[last][i];
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<std::vector<std::vector<double>>> started_{std::size_t{kRanks}};
  std::vector<std::uint64_t> numbers_ = std::vector<std::uint64_t>(std::size_t{kRanks});
};

/// Return the expected results of a training on one of several ranks.
std::unique_ptr<Expected> expected_of(Training training, std::int64_t rank, std::int64_t world_size) {
  training.run.options.rank = rank;
  training.run.options.world_size = world_size;
  return std::make_unique<Expected>(std::move(training));
}

/// Training on all ranks.
class Ranks {
 public:
  /// @param ahead  whether sums over the ranks are started before they are needed.
  explicit Ranks(const Training& training, bool ahead = false) {
    for (std::int64_t rank = 0; rank < kRanks; ++rank) {
      expected_.push_back(expected_of(training, rank, kRanks));
      LoaderOptions options = expected_.back()->options(static_cast<int>(rank));
      const auto i = static_cast<std::size_t>(rank);
      auto calls = std::make_shared<std::uint64_t>(0);
      if (ahead) options.start_all_reduce = [this, i](auto number, auto values) { sums_.start(i, number, values); };
      options.all_reduce = [this, i, ahead, calls](std::span<double> values) {
        if (!ahead) sums_.start(i, (*calls)++, values);
        sums_.finish(i, values);
      };
      trainers_.push_back(std::make_unique<Trainer>(*expected_.back(), std::move(options),
                                                    static_cast<std::uint64_t>(training.lookahead)));
    }
  }

  /// Call f with the trainer of each rank, concurrently.
  void at_once(const std::function<void(Trainer&)>& f) {
    std::vector<std::thread> threads;
    for (const auto& trainer : trainers_) threads.emplace_back([&f, &trainer] { f(*trainer); });
    for (std::thread& thread : threads) thread.join();
  }
  [[nodiscard]] std::vector<LoaderState> states() {
    std::vector<LoaderState> states;
    for (const auto& trainer : trainers_) states.push_back(trainer->loader().state());
    return states;
  }
  void load(const std::vector<LoaderState>& states) {
    for (std::int64_t rank = 0; rank < kRanks; ++rank)
      trainers_[static_cast<std::size_t>(rank)]->load(merge_states(states, rank, kRanks));
  }

 private:
  AllReduce sums_;
  std::vector<std::unique_ptr<Expected>> expected_;
  std::vector<std::unique_ptr<Trainer>> trainers_;
};

void test_ranks_follow_the_losses_of_all() {
  for (const Training& training : {following(3), following(3, 2), following({}), following({}, 2)})
    for (const bool ahead : {false, true})
      Ranks(training, ahead).at_once([](Trainer& trainer) { trainer.train_all(); });
}

/// A batch that lists the ranks has the rows of their loaders, one after the other.
void test_a_batch_may_list_the_rows_of_all_ranks() {
  for (const bool grouped : {false, true}) {
    Training training = following(3);
    training.run.options.grouped = grouped;
    std::vector<std::unique_ptr<Expected>> expected;
    std::vector<std::unique_ptr<Loader>> of_ranks;
    const auto same_losses = [](std::span<double>) {};
    for (std::int64_t rank = 0; rank < kRanks; ++rank) {
      expected.push_back(expected_of(training, rank, kRanks));
      LoaderOptions options = expected.back()->options();
      options.all_reduce = same_losses;
      of_ranks.push_back(std::make_unique<Loader>(std::move(options)));
    }
    expected.push_back(expected_of(training, 0, 1));
    LoaderOptions options = expected.back()->options();
    options.listed_ranks = kRanks;
    CHECK_THROWS(std::invalid_argument, Loader(options));  // without all_reduce
    options.all_reduce = same_losses;
    Loader all(options);
    const Iteration iteration = all.iterate(true);
    std::vector<Iteration> of_rank;
    for (const auto& loader : of_ranks) of_rank.push_back(loader->iterate(true));
    for (int step = 0; step < 20; ++step) {
      CHECK(all.next(iteration));
      std::vector<PlannedRow> rows;
      for (std::size_t rank = 0; rank < of_ranks.size(); ++rank) {
        CHECK(of_ranks[rank]->next(of_rank[rank]));
        const BatchPlan plan = of_ranks[rank]->plan().value();
        rows.insert(rows.end(), plan.begin(), plan.end());
      }
      CHECK(std::ranges::equal(all.plan().value(), rows));
    }
    options.batch_size += 1;
    CHECK_THROWS(std::invalid_argument, Loader(options));
  }
}

void test_merged_states_resume_on_as_many_ranks_or_on_one() {
  for (const Training& training : {following(3), following(3, 2), following({}, 1)}) {
    const auto expected_alone = expected_of(training, 0, 1);
    Ranks ranks(training, true);
    for (int round = 0; round < 5; ++round) {
      ranks.at_once([](Trainer& trainer) { trainer.train(5); });
      const std::vector<LoaderState> states = ranks.states();
      Ranks others(training);
      others.load(states);
      others.at_once([](Trainer& trainer) { trainer.train_all(); });
      Trainer alone(*expected_alone, expected_alone->options(), static_cast<std::uint64_t>(training.lookahead));
      alone.load(merge_states(states, 0, 1));
      alone.train_all();
    }
  }
}

/// In order, one of two ranks has no row of an epoch's last batch, before or after which a window may close.
void test_states_of_a_rank_without_rows_are_those_of_the_others() {
  const Run in_order{.sizes = {9},
                     .proportions = {},
                     .options = {.global_batch = 4, .shuffle = false, .epoch_is_pass = true, .in_order = true},
                     .epochs = 4,
                     .steps = 3,
                     .last_batch_rows = 1};
  for (std::int64_t update_every = 1; update_every <= 4; ++update_every) {
    for (std::int64_t lookahead = 0; lookahead <= update_every; ++lookahead) {
      const Training training{in_order, update_every, lookahead};
      const auto first = expected_of(training, 0, 2), second = expected_of(training, 1, 2);
      Loader full(first->options()), lacking(second->options());
      for (std::uint64_t epoch = 0; epoch < in_order.epochs; ++epoch) {
        const Iteration of_full = full.iterate(), of_lacking = lacking.iterate();
        while (full.next(of_full)) {
          if (lacking.total_step() < full.total_step()) CHECK(lacking.next(of_lacking));
          if (lacking.total_step() != full.total_step()) continue;
          const std::vector<LoaderState> states{newest_state(full), newest_state(lacking)};
          Loader(first->options()).load(merge_states(states, 0, 2));
          Loader(second->options()).load(states[1]);
        }
        CHECK(!lacking.next(of_lacking));
      }
    }
  }
}

/// 17 rows in batches of 8: one rank has a last batch of one row, which four ranks drop.
void test_a_last_batch_that_more_ranks_drop() {
  const Run run{.sizes = {17},
                .proportions = {},
                .options = {.global_batch = 8, .epoch_is_pass = true},
                .epochs = 3,
                .steps = 3,
                .last_batch_rows = 1};
  const auto rows_of_epoch = [](Loader& loader, std::vector<std::int64_t>& rows) {
    const Iteration iteration = loader.iterate();
    while (loader.next(iteration)) {
      const BatchPlan plan = loader.plan().value();
      for (const PlannedRow& planned : plan) rows.push_back(planned.row);
    }
  };
  for (std::int64_t update_every = 0; update_every <= 2; ++update_every) {
    for (std::int64_t lookahead = 0; lookahead <= update_every; ++lookahead) {
      const Training training{run, update_every > 0 ? std::optional(update_every) : std::nullopt, lookahead};
      const auto alone = expected_of(training, 0, 1);
      Loader saved(alone->options());
      const Iteration iteration = saved.iterate();
      for (std::int64_t step = 1; saved.next(iteration); ++step) {
        const LoaderState state = newest_state(saved);
        std::vector<std::int64_t> due, got;
        Loader one(alone->options());
        one.load(state);
        rows_of_epoch(one, due);
        for (std::int64_t rank = 0; rank < 4; ++rank) {
          LoaderOptions options = alone->options();
          options.batch_size = 2;
          options.rank = rank;
          options.world_size = 4;
          Loader loader(options);
          loader.load(merge_states({state}, rank, 4));
          rows_of_epoch(loader, got);
        }
        if (step == 2) {  // the last row comes next, or the next epoch
          CHECK(due.size() == 1 && got.size() == 16);
          continue;
        }
        due.pop_back();
        std::ranges::sort(due);
        std::ranges::sort(got);
        CHECK(got == due);
      }
    }
  }
}

void test_states_of_different_runs_are_refused() {
  Ranks ranks(following(3));
  ranks.at_once([](Trainer& trainer) { trainer.train(5); });
  const std::vector<LoaderState> states = ranks.states();
  const auto refuses = [&](std::vector<LoaderState> wrong, std::int64_t world_size) {
    CHECK_THROWS(std::invalid_argument, merge_states(std::move(wrong), 0, world_size));
  };
  refuses({}, 3);
  refuses({states[0], states[1]}, 3);
  refuses({states[0], states[1], states[1]}, 3);
  refuses({states[1]}, 1);  // its losses would be lost
  refuses({states[1]}, 3);
  std::vector<LoaderState> later = states;
  later[2].sampler.total_step += 1;
  refuses(later, 3);
  later = states;
  later[2].losses[0].count[0] = std::int64_t{1} << 60;
  refuses(later, 3);
  CHECK(same(merge_states({states[1]}, 1, 3), states[1]));
  LossSums sums = states[0].losses[0];
  sums.add(states[1].losses[0]);
  sums.add(states[2].losses[0]);
  CHECK(merge_states(states, 0, 3).losses[0] == sums &&
        merge_states({states[2], states[0], states[1]}, 0, 2).losses[0] == sums);
  CHECK(merge_states(states, 1, 3).losses[0].empty());
}

}  // namespace
}  // namespace l2m::test

int main() {
  using namespace l2m::test;
  test_ranks_follow_the_losses_of_all();
  test_a_batch_may_list_the_rows_of_all_ranks();
  test_merged_states_resume_on_as_many_ranks_or_on_one();
  test_states_of_a_rank_without_rows_are_those_of_the_others();
  test_a_last_batch_that_more_ranks_drop();
  test_states_of_different_runs_are_refused();
}
