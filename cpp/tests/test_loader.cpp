#include "l2m/loader.hpp"

#include <cstdint>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "check.hpp"
#include "in_child.hpp"
#include "loader_runs.hpp"

namespace l2m::test {
namespace {

/// Return trainings of every kind, with the given lookahead if they have loss windows.
std::vector<std::unique_ptr<Expected>> trainings(std::int64_t lookahead) {
  std::vector<std::unique_ptr<Expected>> all;
  const auto add = [&](Training training) { all.push_back(std::make_unique<Expected>(std::move(training))); };
  add(following(3, lookahead));
  add(following(4, lookahead));
  add(following({}, lookahead));
  add({mixed_run(), 5, lookahead, std::make_shared<Schedule>()});
  add({mixed_run(), {}, lookahead, std::make_shared<Schedule>()});
  Run ranks = mixed_run();
  ranks.options = {.seed = 4, .global_batch = 24, .rank = 1, .world_size = 3, .grouped = true};
  add({ranks, 4, lookahead, std::make_shared<Balanced>()});
  Run one_class{.sizes = {107},
                .proportions = {},
                .options = {.seed = 5, .global_batch = 16, .epoch_is_pass = true},
                .epochs = 3,
                .steps = 7,
                .last_batch_rows = 11};
  add({one_class, {}, lookahead});
  one_class.options.shuffle = false;
  one_class.options.in_order = true;
  one_class.options.world_size = 4;
  one_class.sizes = {98};  // the last batch has two rows
  one_class.last_batch_rows = 2;
  for (one_class.options.rank = 0; one_class.options.rank < 4; ++one_class.options.rank)
    add({one_class, {}, lookahead});
  one_class.steps = 1;  // no batch at all on some ranks
  one_class.sizes = {3};
  one_class.last_batch_rows = 3;
  for (one_class.options.rank = 2; one_class.options.rank < 4; ++one_class.options.rank)
    add({one_class, {}, lookahead});
  return all;
}

void test_batches_equal_the_reference() {
  for (const std::int64_t lookahead : {0, 2, 3}) {
    for (const auto& expected : trainings(lookahead)) {
      for (const int threads : {0, 1, 3}) {
        for (const int prefetch : {0, 1, 4}) {
          Trainer trainer(*expected, expected->options(threads, prefetch), static_cast<std::uint64_t>(lookahead));
          trainer.train_all();
          CHECK(trainer.loader().step() == 0);
        }
      }
    }
  }
}

/// Load every available state into a new loader, and train to the end.
void check_states(const Expected& expected, Trainer& trainer, std::uint64_t delay, const LoaderState& last) {
  const std::uint64_t now = trainer.loader().total_step();
  std::vector<LoaderState> states{trainer.loader().state()};
  for (std::uint64_t step = now - std::min<std::uint64_t>(now, 9); step < now; ++step) {
    try {
      LoaderState state = trainer.loader().state(step);
      CHECK(state.sampler.total_step == step + 1);
      if (step < trainer.recorded()) states.push_back(std::move(state));
    } catch (const std::invalid_argument&) {
      CHECK(step + 1 < now);
    }
  }
  for (LoaderState& state : states) {
    Trainer resumed(expected, expected.options(), delay);
    resumed.load(state);
    CHECK(same(resumed.loader().state(), state));
    if (resumed.is_done()) continue;  // except the end of its last epoch
    resumed.train_all();
    CHECK(same(newest_state(resumed.loader()), last));
  }
}

void test_a_run_restored_at_any_step_repeats_the_rest() {
  for (const std::int64_t lookahead : {0, 1, 2, 3}) {
    for (const auto& expected : trainings(lookahead)) {
      for (const std::uint64_t delay : {std::uint64_t{0}, static_cast<std::uint64_t>(lookahead)}) {
        Trainer whole(*expected, expected->options(), delay);
        whole.train_all();
        const LoaderState last = newest_state(whole.loader());
        Trainer trainer(*expected, expected->options(), delay);
        for (check_states(*expected, trainer, delay, last); !trainer.is_done();
             check_states(*expected, trainer, delay, last))
          trainer.step();
      }
    }
  }
}

void test_states_reach_back_as_far_as_the_lookahead() {
  const Expected expected(following(4, 3));
  Trainer trainer(expected, expected.options());
  trainer.train(12);
  for (const std::size_t step : {8U, 9U, 10U, 11U}) {
    const LoaderState state = trainer.loader().state(step);
    CHECK(state.sampler.total_step == step + 1);
    CHECK(state.sampler.drawn == expected.states[step + 1].drawn);
    CHECK(state.sampler.cursors == expected.states[step + 1].cursors);
  }
  CHECK_THROWS(std::invalid_argument, trainer.loader().state(7));
  CHECK_THROWS(std::invalid_argument, trainer.loader().state(12));
  CHECK(trainer.loader().state(8).losses == std::vector{expected.sums[8]});
}

/// Batches continue over epochs without end.
void test_an_iteration_can_go_on_forever() {
  const Expected expected(following(3, 2));
  for (const int threads : {0, 2}) {
    Trainer trainer(expected, expected.options(threads), 2);
    Loader& loader = trainer.loader();
    const Iteration iteration = loader.iterate(true);
    while (loader.total_step() < expected.batches.size()) {
      const std::uint64_t step = loader.total_step();
      const FilledBatch batch = loader.next(iteration).value();
      CHECK(loader.epoch() == step / expected.training.run.steps);
      trainer.check(batch, step);
      trainer.record();
    }
    CHECK(loader.prepare(iteration) && loader.epoch() == expected.training.run.epochs);
  }
  Loader windows_of_epochs(Expected(following({}, 2)).options());
  CHECK_THROWS(std::invalid_argument, windows_of_epochs.iterate(true));
}

void test_an_iteration_ends_when_a_newer_one_or_a_state_replaces_it() {
  const Expected expected(following(3));
  Trainer trainer(expected, expected.options());
  Loader& loader = trainer.loader();
  trainer.train(2);
  const Iteration older = trainer.iteration(), newer = loader.iterate();
  CHECK(loader.next(older));  // the newer one has not requested a batch yet
  CHECK(loader.next(newer) && loader.epoch() == 1);
  CHECK_THROWS(std::runtime_error, loader.next(older));
  CHECK_THROWS(std::runtime_error, loader.next({newer.number + 1, false}));
  loader.load(loader.state());
  CHECK_THROWS(std::runtime_error, loader.next(newer));
  while (loader.next(loader.iterate())) {
    if (loader.epoch() == 3) break;
  }
  loader.close();
  CHECK_THROWS(std::runtime_error, loader.next(loader.iterate()));
  CHECK_THROWS(std::runtime_error, loader.state());
}

/// update() has the effect of the end of an epoch, immediately.
void test_update_closes_the_window_of_an_epoch() {
  for (const std::int64_t lookahead : {0, 2}) {
    const Expected expected(following({}, lookahead));
    Loader loader(expected.options());
    const Iteration iteration = loader.iterate();
    const auto epoch = [&](bool updates) {
      for (std::uint64_t step = 0; step < expected.training.run.steps; ++step) {
        CHECK(loader.next(iteration));
        const auto plan = loader.plan().value();
        std::vector<float> losses(plan.size(), 3.0F);
        loader.record(std::span<const float>(losses));
        if (updates && step == 3) loader.update();
      }
    };
    epoch(true);
    CHECK(loader.state().updated && !loader.state().losses[0].empty());  // of the three batches since
    CHECK(loader.class_losses()[3] == 3.0);
    const std::vector<double> next = loader.state().next_proportions;
    CHECK(loader.proportions() != next);
    CHECK(!loader.next(iteration));
    CHECK(loader.state().updated == (lookahead > 0) && loader.state().next_proportions == next);
    CHECK(loader.next(loader.iterate()) && !loader.state().updated);
    CHECK(loader.proportions() == next && loader.epoch() == 1);
    CHECK(!loader.state().losses[0].empty());  // kept for the window of this epoch
  }
  const Expected stepwise(following(3));
  Loader loader(stepwise.options());
  CHECK_THROWS(std::runtime_error, loader.update());
}

/// end_epoch() has the effect of a newer iteration, and is part of a state.
void test_an_epoch_ends_where_it_was_consumed() {
  for (const Training& training : {following({}), following({}, 2), following(3), following(3, 2)}) {
    const Expected expected(training);
    for (const int consumed : {0, 1, 4, static_cast<int>(training.run.steps)}) {
      const auto take = [](Loader& loader, const Iteration& iteration) {
        CHECK(loader.next(iteration));
        const BatchPlan plan = loader.plan().value();
        std::vector<float> losses;
        for (const PlannedRow& planned : plan) losses.push_back(static_cast<float>(planned.row % 5 + planned.class_id));
        loader.record(std::span<const float>(losses));
        return std::vector<PlannedRow>(plan.begin(), plan.end());
      };
      Loader newer(expected.options()), ended(expected.options()), restored(expected.options());
      for (Loader* loader : {&newer, &ended}) {
        const Iteration iteration = loader->iterate();
        for (int step = 0; step < consumed; ++step) take(*loader, iteration);
        if (loader == &newer) continue;
        loader->end_epoch();
        loader->end_epoch();
        if (consumed > 0) CHECK_THROWS(std::runtime_error, loader->next(iteration));
        CHECK(loader->step() == 0 && loader->epoch() == (consumed > 0 ? 1 : 0));
      }
      restored.load(ended.state());
      const Iteration of_newer = newer.iterate(), of_ended = ended.iterate(), of_restored = restored.iterate();
      for (std::uint64_t step = 0; step < training.run.steps; ++step) {
        const std::vector<PlannedRow> rows = take(newer, of_newer);
        CHECK(take(ended, of_ended) == rows);
        CHECK(take(restored, of_restored) == rows);
      }
      CHECK(ended.proportions() == newer.proportions() && restored.proportions() == newer.proportions());
    }
  }
}

void test_set_epoch_starts_new_passes() {
  for (const std::int64_t lookahead : {0, 2}) {
    const Expected expected(following({}, lookahead));
    Trainer trainer(expected, expected.options());
    Loader& loader = trainer.loader();
    loader.set_epoch(5);
    loader.set_epoch(0);
    trainer.train(3);
    loader.set_epoch(9);
    CHECK(loader.epoch() == 0 && loader.state().next_epoch == 9);
    loader.set_epoch(1);  // as it would be anyway
    CHECK(!loader.state().next_epoch);
    loader.set_epoch(9);
    trainer.train(4);
    trainer.step();
    CHECK(loader.epoch() == 9 && loader.step() == 0);
    CHECK(loader.next(trainer.iteration()) && loader.epoch() == 9 && loader.step() == 1);
    for (const Cursor& cursor : loader.state().sampler.cursors) CHECK(cursor.pass >= 9);
    CHECK_THROWS(std::invalid_argument, loader.set_epoch(std::uint64_t{1} << 60));
  }
}

void test_a_policy_sees_its_window() {
  struct Seen {
    std::vector<std::int64_t> drawn, counts;
    std::vector<std::uint64_t> passes;
    std::uint64_t step;
  };
  class Watching final : public Following {
   public:
    explicit Watching(std::vector<Seen>& seen) : seen_(seen) {}
    [[nodiscard]] bool uses_rows() const override { return true; }
    void update(const Window& window, std::span<double> proportions, std::span<double> memory) const override {
      seen_.push_back({{window.rows_drawn.begin(), window.rows_drawn.end()},
                       {window.counts.begin(), window.counts.end()},
                       {window.passes.begin(), window.passes.end()},
                       window.step});
      Following::update(window, proportions, memory);
    }

   private:
    std::vector<Seen>& seen_;
  };
  for (const std::int64_t lookahead : {0, 2}) {
    std::vector<Seen> seen;
    std::vector<std::uint64_t> observed;
    const Expected expected(following(3, lookahead));
    LoaderOptions options = expected.options();
    options.mixing = std::make_shared<Watching>(seen);
    options.observe = [&](const UpdateRecord& record) {
      observed.push_back(record.total_step);
      const auto window = static_cast<std::uint64_t>(observed.size()) - 1;
      CHECK(record.total_step == 3 * (window + 1) + static_cast<std::uint64_t>(lookahead));
      CHECK(std::ranges::equal(record.proportions, expected.changes.at(3 * window + 6)));
      CHECK(record.epoch == record.total_step / 7 || record.total_step % 7 == 0);
    };
    Trainer(expected, std::move(options), static_cast<std::uint64_t>(lookahead)).train_all();
    CHECK(seen.size() == (28 - static_cast<std::size_t>(lookahead)) / 3 && observed.size() == seen.size());
    for (std::size_t w = 0; w < seen.size(); ++w) {
      CHECK(seen[w].step == 3 * (w + 1));
      const SamplerState& state = expected.states[3 * (w + 1) + static_cast<std::size_t>(lookahead)];
      CHECK(seen[w].drawn == state.drawn);
      for (std::size_t k = 0; k < state.cursors.size(); ++k) CHECK(seen[w].passes[k] == state.cursors[k].pass);
      LossSums sums(6);
      for (std::size_t t = 3 * w; t < 3 * w + 3; ++t) sums.add(expected.sums[t]);
      CHECK(seen[w].counts == sums.count);
    }
  }
}

void test_a_forked_child_continues_independently() {
  const Expected expected(following(3, 2));
  for (const int threads : {0, 2}) {
    Trainer trainer(expected, expected.options(threads), 2);
    for (const std::uint64_t batches : {0U, 4U, 6U}) {
      trainer.train(batches);
      in_child([&] { trainer.train_all(); });
      in_child([&] { trainer.loader().close(); });
      in_child([&] {
        Trainer resumed(expected, expected.options(threads), 2);
        resumed.load(trainer.loader().state());
        resumed.train_all();
      });
    }
    trainer.train_all();
  }
}

}  // namespace
}  // namespace l2m::test

int main() {
  using namespace l2m::test;
  test_batches_equal_the_reference();
  test_a_run_restored_at_any_step_repeats_the_rest();
  test_states_reach_back_as_far_as_the_lookahead();
  test_an_iteration_can_go_on_forever();
  test_an_iteration_ends_when_a_newer_one_or_a_state_replaces_it();
  test_update_closes_the_window_of_an_epoch();
  test_an_epoch_ends_where_it_was_consumed();
  test_set_epoch_starts_new_passes();
  test_a_policy_sees_its_window();
  test_a_forked_child_continues_independently();
}
