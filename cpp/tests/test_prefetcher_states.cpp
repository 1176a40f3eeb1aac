#include <algorithm>
#include <chrono>
#include <cstdint>
#include <limits>
#include <optional>
#include <vector>

#include "check.hpp"
#include "l2m/run/prefetcher.hpp"
#include "reference.hpp"

// States and plans that a Prefetcher keeps of the last consumed batches.

namespace l2m::test {
namespace {

using namespace std::chrono_literals;

constexpr std::uint64_t kNever = std::numeric_limits<std::uint64_t>::max();

Run some_run() {
  const std::vector<std::int64_t> sizes{7, 0, 3, 300, 1, 100};
  Run run{.sizes = sizes,
          .proportions = random_proportions(sizes, 1),
          .options = {.seed = 3, .global_batch = 24},
          .epochs = 3,
          .steps = 10};
  for (const std::uint64_t step : {4U, 5U, 10U, 17U, 18U, 29U}) run.changes[step] = random_proportions(sizes, step);
  return run;
}

/// Check all available states and plans after a number of batches of a run.
void check_known(Prefetcher& prefetcher, const std::vector<Batch>& batches, std::size_t began, std::size_t lookahead,
                 bool before_changes) {
  const auto total = static_cast<std::size_t>(prefetcher.total_step());
  const std::size_t low = std::max(began, total - std::min(total, lookahead));
  CHECK(prefetcher.oldest() == low);
  for (std::size_t step = std::max<std::size_t>(low, 1); step <= total; ++step) {
    if (before_changes) {
      CHECK(prefetcher.state_at(step) == batches[step - 1].after);
    } else if (step < batches.size()) {
      CHECK(prefetcher.state_at(step) == batches[step].before);
    }
  }
  const std::size_t first = std::max(began, total - std::min(total, lookahead + 1));
  for (std::size_t step = 0; step < batches.size(); ++step) {
    const std::optional<BatchPlan> plan = prefetcher.plan(step);
    CHECK(plan.has_value() == (step >= first && step < total));
    if (plan) CHECK(std::ranges::equal(*plan, batches[step].rows));
  }
  CHECK(prefetcher.newest() == (total > began ? std::optional(total - 1) : std::nullopt));
  if (total > began) CHECK(std::ranges::equal(prefetcher.plan().value(), batches[total - 1].rows));
}

void test_states_and_plans_of_the_last_batches_are_available() {
  const Run run = some_run();
  const std::vector<Batch> batches = reference_batches_of(run);
  for (const int threads : {0, 2}) {
    for (const std::size_t lookahead : {0U, 1U, 2U, 5U, 12U}) {
      for (const bool before_changes : {false, true}) {
        Prefetcher prefetcher({run.index(), {}, run.options, 4, threads}, run.proportions,
                              static_cast<std::int64_t>(lookahead), before_changes);
        for (const std::size_t began : {0U, 13U}) {
          if (began > 0) prefetcher.set_state(batches[began].before);
          auto change = run.changes.upper_bound(began);
          for (std::size_t total = began; total < batches.size(); ++total) {
            const auto until = [&] { return change == run.changes.end() ? kNever : change->first; };
            if (total == began || total % run.steps == 0)
              prefetcher.begin({total / run.steps, static_cast<std::int64_t>(total % run.steps),
                                static_cast<std::int64_t>(run.steps), run.options.global_batch},
                               until());
            if (change != run.changes.end() && change->first == total) {
              const auto& [step, proportions] = *change++;
              prefetcher.schedule(step, proportions, until());
            }
            while (!prefetcher.wait(1s)) continue;
            CHECK(std::ranges::equal(prefetcher.due(), batches[total].rows));
            prefetcher.take_blocks();
            prefetcher.commit();
            if (change != run.changes.end() && change->first == total + 1 && !before_changes) {
              const auto& [step, proportions] = *change++;  // so that it takes effect now
              prefetcher.schedule(step, proportions, until());
            }
            check_known(prefetcher, batches, began, lookahead, before_changes);
          }
        }
      }
    }
  }
}

void test_a_batch_of_other_ranks_counts_but_has_no_plan() {
  const Run run{.sizes = {40}, .proportions = {1.0}, .options = {.global_batch = 8, .shuffle = false}, .steps = 3};
  Prefetcher prefetcher({run.index(), {}, run.options, 1, 0}, {1.0}, 2);
  prefetcher.begin({0, 0, 3, 8}, kNever);
  for (int i = 0; i < 3; ++i) {
    while (!prefetcher.wait(1s)) continue;
    prefetcher.take_blocks();
    prefetcher.commit();
  }
  prefetcher.commit_empty(2, {});
  CHECK(prefetcher.total_step() == 4 && prefetcher.newest() == 2 && prefetcher.oldest() == 2);
  CHECK(!prefetcher.plan(3) && prefetcher.plan(2) && prefetcher.plan(0));
  CHECK(prefetcher.state_at(3).cursors[0].position == 24 && prefetcher.state_at(4).cursors[0].position == 26);
  prefetcher.start_passes(7);
  CHECK(prefetcher.oldest() == 4 && prefetcher.state_at(4).cursors[0] == Cursor{.pass = 7});
}

}  // namespace
}  // namespace l2m::test

int main() {
  using namespace l2m::test;
  test_states_and_plans_of_the_last_batches_are_available();
  test_a_batch_of_other_ranks_counts_but_has_no_plan();
}
