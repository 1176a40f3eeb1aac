#include "l2m/plan/sampler.hpp"

#include <algorithm>
#include <cstdint>
#include <functional>
#include <iterator>
#include <limits>
#include <map>
#include <memory>
#include <set>
#include <span>
#include <stdexcept>
#include <utility>
#include <vector>

#include "check.hpp"
#include "pass_threads.hpp"
#include "reference.hpp"

namespace l2m::test {
namespace {

/// Sampler with threads that work on its passes.
struct Planner {
  Planner(const Run& run, std::shared_ptr<const ClassIndex> index, int num_threads)
      : sampler(std::move(index), run.options, num_threads > 0), threads(sampler.passes(), num_threads) {
    sampler.restore(sampler.initial_state(run.proportions));
  }

  Sampler sampler;
  PassThreads threads;
};

/// Return all batches of a run from total_step `first` on, with the states around them, planned up to `max` at once.
std::vector<Batch> batches_of(const Run& run, Planner& planner, std::uint64_t first = 0, std::uint64_t max = 1000) {
  std::vector<Batch> batches;
  BatchPlans plans;
  for (std::uint64_t total = first; total < run.epochs * run.steps;) {
    const std::uint64_t epoch = total / run.steps, step = total % run.steps;
    if (total == first || step == 0) planner.sampler.prepare(epoch);
    const auto changed = run.changes.find(total);
    if (changed != run.changes.end()) planner.sampler.change_proportions(changed->second);
    std::uint64_t until = total - step + run.steps - (step + 1 < run.steps ? 1 : 0);  // the last batch may be short
    const auto next_change = run.changes.upper_bound(total);
    if (next_change != run.changes.end()) until = std::min(until, next_change->first);
    SamplerState consumed = planner.sampler.state();
    const SamplerState before = consumed;
    planner.sampler.plan(epoch, step, static_cast<std::int64_t>(std::min(until - total, max)), run.rows_of_batch(step),
                         plans);
    CHECK(plans.size() >= 1 && static_cast<std::uint64_t>(plans.size()) <= std::min(until - total, max));
    for (std::int64_t i = 0; i < plans.size(); ++i, ++total) {
      planner.sampler.arrange(epoch, total % run.steps, plans.rows(i));
      batches.push_back({consumed, {plans.rows(i).begin(), plans.rows(i).end()}, {}});
      plans.advance(consumed, i, i + 1);
      planner.sampler.check(consumed);
      batches.back().after = consumed;
      SamplerState at_once = before;  // advanced in one step
      plans.advance(at_once, 0, i + 1);
      CHECK(at_once == consumed);
    }
    CHECK(consumed == planner.sampler.state());
  }
  return batches;
}

void check_equal(const Batch& batch, const Batch& expected) {
  CHECK(batch.before == expected.before);
  CHECK(batch.rows == expected.rows);
  CHECK(batch.after == expected.after);
}

std::vector<Run> small_runs() {
  std::vector<Run> runs;
  const std::vector<std::int64_t> mixed{7, 0, 3, 40, 1, 100, 0};
  for (const bool shuffle : {true, false}) {
    for (const bool grouped : {false, true}) {
      Run run{.sizes = mixed,
              .proportions = random_proportions(mixed, 1),
              .options = {.seed = 3, .global_batch = 24, .shuffle = shuffle, .grouped = grouped},
              .epochs = 3,
              .steps = 15};
      for (std::uint64_t step = 0; step < 45; step += 4) run.changes[step] = random_proportions(mixed, step);
      runs.push_back(run);
      run.options.world_size = 3;
      run.options.rank = 2;
      runs.push_back(run);
    }
  }
  const std::vector<std::int64_t> ones(300, 1);
  runs.push_back({.sizes = ones,
                  .proportions = Proportions(300, 1.0 / 300),
                  .options = {.seed = 4, .global_batch = 64},
                  .epochs = 2,
                  .steps = 12});
  runs.push_back({.sizes = {1, 1, 1},  // every class is smaller than its quota
                  .proportions = {0.5, 0.25, 0.25},
                  .options = {.seed = 4, .global_batch = 10},
                  .epochs = 2,
                  .steps = 12});
  runs.push_back({.sizes = {10, 1000},  // a pass of the small class ends in nearly every batch
                  .proportions = {0.4, 0.6},
                  .options = {.seed = std::numeric_limits<std::uint64_t>::max(), .global_batch = 17},
                  .epochs = 2,
                  .steps = 40});
  const std::vector<std::int64_t> fives(2000, 5);
  runs.push_back({.sizes = fives,
                  .proportions = random_proportions(fives, 5),
                  .options = {.seed = 5, .global_batch = 64},
                  .epochs = 1,
                  .steps = 30});
  for (const bool shuffle : {true, false}) {
    for (const bool epoch_is_pass : {true, false}) {
      runs.push_back({.sizes = {103},
                      .proportions = {1.0},
                      .options = {.seed = 6, .global_batch = 10, .shuffle = shuffle, .epoch_is_pass = epoch_is_pass},
                      .epochs = 3,
                      .steps = 11,
                      .last_batch_rows = 3});
      runs.push_back({.sizes = {5},  // smaller than the batch
                      .proportions = {1.0},
                      .options = {.seed = 6, .global_batch = 12, .shuffle = shuffle},
                      .epochs = 2,
                      .steps = 5});
    }
  }
  return runs;
}

std::vector<Run> large_runs() {
  constexpr std::int64_t kSplit = Permutation::kUnsplitRows + 5;
  return {{.sizes = {kSplit, 30'000, 20},
           .proportions = {0.9, 0.0999, 0.0001},
           .options = {.seed = 7, .global_batch = kSplit / 4},
           .epochs = 1,
           .steps = 6},
          {.sizes = {kSplit},
           .proportions = {1.0},
           .options = {.seed = 8, .global_batch = kSplit / 2, .epoch_is_pass = true},
           .epochs = 2,
           .steps = 2}};
}

void test_batches_equal_the_reference() {
  auto runs = small_runs();
  std::ranges::copy(large_runs(), std::back_inserter(runs));
  for (const Run& run : runs) {
    const auto expected = reference_batches_of(run);
    std::vector indexes{run.index(), run.index(RowIds::kMaxBytes)};
    if (run.options.shuffle) indexes.push_back(run.packed_index());
    std::size_t planners = 0;
    for (const int threads : kThreadCounts) {
      for (const std::uint64_t max : {1U, 3U, 1000U}) {
        Planner planner(run, indexes[planners++ % indexes.size()], threads);
        const auto batches = batches_of(run, planner, 0, max);
        CHECK(batches.size() == expected.size());
        for (std::size_t i = 0; i < batches.size(); ++i) check_equal(batches[i], expected[i]);
      }
    }
  }
}

void test_a_run_restored_at_any_step_repeats_the_rest() {
  for (const Run& run : small_runs()) {
    Planner planner(run, run.index(), 2);
    const auto initial = planner.sampler.state();
    const auto expected = batches_of(run, planner);
    // In reverse, so that the planner's buffers hold later passes than those it resumes with.
    for (std::size_t first = expected.size(); first-- > 0;) {
      const auto& before = first == 0 ? initial : expected[first - 1].after;
      planner.sampler.check(before);
      planner.sampler.restore(before);
      CHECK(planner.sampler.state() == before);
      const auto rest = batches_of(run, planner, first);
      CHECK(rest.size() == expected.size() - first);
      for (std::size_t i = 0; i < rest.size(); ++i) check_equal(rest[i], expected[first + i]);
    }
  }
}

/// Passes in slices give the same batches and states as whole passes, also around the border of two slices.
void test_slices_change_nothing() {
  constexpr std::int64_t kSplit = Permutation::kUnsplitRows + 5;
  Run run{.sizes = {kSplit, 300, kSplit},
          .proportions = {0.6, 0.25, 0.15},
          .options = {.seed = 3, .global_batch = 4},
          .epochs = 1,
          .steps = 200};
  for (const std::int64_t global_batch : {4, 100, 3000, 3001}) {  // fewer rows of a class than one per batch, to many
    run.options.global_batch = global_batch;
    run.options.shuffle = global_batch != 3001;
    run.options.max_slices = 1;
    const auto index = run.index();
    Planner whole(run, index, 2);
    for (const int threads : kThreadCounts) {
      run.options.max_slices = Permutation::kMaxSlices;
      Planner sliced(run, run.options.shuffle ? run.packed_index() : index, threads);
      SamplerState state = whole.sampler.initial_state(run.proportions);
      for (const std::int64_t position : {kSplit / 8 - 30, kSplit / 2 - 300, kSplit - 20, kSplit}) {
        state.cursors[0].position = position;
        state.cursors[2] = {.pass = 7, .position = position - 10};
        whole.sampler.passes().visit(2, 7, 0, [&](auto row_at, std::int64_t) { state.held[2] = {row_at(0)}; });
        for (Planner* planner : {&whole, &sliced}) {
          planner->sampler.check(state);
          planner->sampler.restore(state);
        }
        const auto expected = batches_of(run, whole), batches = batches_of(run, sliced);
        CHECK(batches.size() == expected.size());
        for (std::size_t i = 0; i < batches.size(); ++i) check_equal(batches[i], expected[i]);
      }
    }
  }
}

void test_ranks_partition_the_global_plan() {
  const std::vector<std::int64_t> sizes{7, 0, 3, 40, 1, 100};
  Run run{.sizes = sizes,
          .proportions = random_proportions(sizes, 2),
          .options = {.seed = 9, .global_batch = 24},
          .epochs = 2,
          .steps = 20};
  Planner whole(run, run.index(), 0);
  const auto expected = batches_of(run, whole);
  for (const std::int64_t world_size : {1, 2, 3, 8, 24}) {
    run.options.world_size = world_size;
    std::vector<std::vector<Batch>> of_ranks;
    for (std::int64_t rank = 0; rank < world_size; ++rank) {
      run.options.rank = rank;
      Planner planner(run, run.index(), 0);
      of_ranks.push_back(batches_of(run, planner));
    }
    for (std::size_t i = 0; i < expected.size(); ++i) {
      const auto sorted_rows = [](std::vector<PlannedRow> rows) {
        std::ranges::sort(rows, {}, [](const PlannedRow& planned) { return std::pair(planned.class_id, planned.row); });
        return rows;
      };
      const auto rows_of_class = [](const std::vector<PlannedRow>& rows, std::int32_t k) {
        return std::ranges::count(rows, k, &PlannedRow::class_id);
      };
      std::vector<PlannedRow> together;
      for (const auto& batches : of_ranks) {
        const auto& rows = batches[i].rows;
        CHECK(batches[i].after == expected[i].after);
        CHECK(std::ssize(rows) == 24 / world_size);
        together.insert(together.end(), rows.begin(), rows.end());
        for (std::int32_t k = 0; k < std::ssize(sizes); ++k) {  // every class is spread evenly
          const auto rows_here = rows_of_class(rows, k);
          const auto all = rows_of_class(expected[i].rows, k);
          CHECK(rows_here == all / world_size || rows_here == all / world_size + 1);
        }
      }
      CHECK(sorted_rows(together) == sorted_rows(expected[i].rows));
    }
  }
}

void test_a_short_last_batch_is_shared_by_the_ranks() {
  Run run{.sizes = {50},
          .proportions = {1.0},
          .options = {.seed = 1, .global_batch = 12, .world_size = 3, .epoch_is_pass = true},
          .epochs = 3,
          .steps = 5,
          .last_batch_rows = 2};
  std::vector<std::multiset<std::int64_t>> rows_of_epoch(3);
  for (std::int64_t rank = 0; rank < 3; ++rank) {
    run.options.rank = rank;
    Planner planner(run, run.index(), 1);
    const auto batches = batches_of(run, planner);
    for (std::size_t i = 0; i < batches.size(); ++i)
      for (const PlannedRow& planned : batches[i].rows) rows_of_epoch[i / 5].insert(planned.row);
  }
  for (const auto& rows : rows_of_epoch) {
    CHECK(rows.size() == 50);
    CHECK(std::set(rows.begin(), rows.end()).size() == 50);
  }
}

/// No batch has a row twice unless the class is smaller than its quota, and no row of a class is drawn k + 2 times
/// before all others were drawn k + 1 times.
void test_rows_are_drawn_without_replacement() {
  for (const Run& run : small_runs()) {
    if (run.options.world_size > 1 || (run.options.epoch_is_pass && run.last_batch_rows == run.options.global_batch))
      continue;
    Planner planner(run, run.index(), 0);
    const auto classes = run.classes();
    std::map<std::int64_t, std::int64_t> drawn;
    for (const Batch& batch : batches_of(run, planner)) {
      std::map<std::int64_t, std::int64_t> in_batch;
      for (const auto& [row, k] : batch.rows) {
        CHECK(run.sizes.size() == 1 ? k == 0 : k == classes[static_cast<std::size_t>(row)]);
        ++in_batch[row];
        ++drawn[row];
        const auto quota = std::ranges::count(batch.rows, k, &PlannedRow::class_id);
        const std::int64_t size = run.sizes[static_cast<std::size_t>(k)];
        CHECK(in_batch[row] <= (quota + size - 1) / size);
      }
      std::map<std::int32_t, std::pair<std::int64_t, std::int64_t>>
          range;  // minimum and maximum draws of a row, by class
      for (std::size_t row = 0; row < classes.size(); ++row) {
        const std::int64_t times = drawn[static_cast<std::int64_t>(row)];
        auto& [fewest, max] = range.try_emplace(classes[row], times, times).first->second;
        fewest = std::min(fewest, times);
        max = std::max(max, times);
      }
      for (const auto& [k, times] : range) CHECK(times.second - times.first <= 1);
    }
  }
}

void test_held_rows_come_first_in_the_next_batch() {
  const Run run{.sizes = {5, 5},
                .proportions = {0.5, 0.5},
                .options = {.seed = 12, .global_batch = 8, .grouped = true},
                .epochs = 1,
                .steps = 400};
  Planner planner(run, run.index(), 0);
  int seen = 0;
  HeldRows held;
  for (const Batch& batch : batches_of(run, planner)) {
    for (const auto& [class_id, rows] : held) {
      CHECK(!rows.empty());
      const auto first = std::ranges::find(batch.rows, class_id, &PlannedRow::class_id);
      CHECK(std::equal(rows.begin(), rows.end(), first,
                       [](std::int64_t row, const PlannedRow& planned) { return row == planned.row; }));
      ++seen;
    }
    held = batch.after.held;
  }
  CHECK(seen > 100);
}

void test_changing_to_the_same_proportions_changes_nothing() {
  const std::vector<std::int64_t> sizes{20, 30, 40};
  Run run{.sizes = sizes,
          .proportions = random_proportions(sizes, 3),
          .options = {.seed = 13, .global_batch = 10},
          .epochs = 1,
          .steps = 30};
  const auto expected = reference_batches_of(run);
  for (std::uint64_t step = 0; step < 30; ++step) run.changes[step] = run.proportions;
  Planner planner(run, run.index(), 0);
  const auto batches = batches_of(run, planner);
  for (std::size_t i = 0; i < batches.size(); ++i) check_equal(batches[i], expected[i]);
}

void test_invalid_states_are_refused() {
  const Run run{.sizes = {5, 0, 3}, .proportions = {0.5, 0.0, 0.5}, .options = {.seed = 1, .global_batch = 4}};
  Planner planner(run, run.index(), 0);
  const ClassRows rows = run.rows();
  const auto check = [&](const std::function<void(SamplerState&)>& breakage) {
    SamplerState state = planner.sampler.state();
    breakage(state);
    planner.sampler.check(state);
  };
  const auto refused = [&](const std::function<void(SamplerState&)>& breakage) {
    CHECK_THROWS(std::invalid_argument, check(breakage));
  };
  check([](SamplerState&) {});
  check([](SamplerState& state) { state.cursors[0] = {.pass = 1'000'000'000'000, .position = 5}; });
  check([&](SamplerState& state) {
    state.cursors[2].position = 3;
    state.held[2] = rows[2];
  });
  const auto pass = reference_permutation(rows[2], 1, 2, 7);
  const auto hold = [&](std::int64_t position, std::vector<std::int64_t> held) {
    return [position, held](SamplerState& state) {
      state.cursors[2] = {.pass = 7, .position = position};
      state.held[2] = held;
    };
  };
  check(hold(1, {pass[0]}));
  check(hold(2, {pass[1], pass[0]}));
  refused(hold(1, {pass[1]}));  // not drawn yet
  refused(hold(2, {pass[0], pass[2]}));
  refused(hold(1, {pass[0], pass[1]}));  // more than were drawn
  refused([&](SamplerState& state) { state.held[2] = {rows[2][0]}; });
  refused([](SamplerState& state) { state.proportions.push_back(0.0); });
  refused([](SamplerState& state) { state.due.due.pop_back(); });
  refused([](SamplerState& state) { state.drawn.pop_back(); });
  refused([](SamplerState& state) { state.drawn[0] = -1; });
  refused([](SamplerState& state) { state.due.visits.pop_back(); });
  refused([](SamplerState& state) { state.due.offsets.pop_back(); });
  refused([](SamplerState& state) { state.total_step = (std::uint64_t{1} << 53) + 1; });
  refused([](SamplerState& state) { state.due.visits[0] = std::numeric_limits<std::uint64_t>::max(); });
  refused([](SamplerState& state) { state.cursors.clear(); });
  refused([](SamplerState& state) { state.cursors[0].position = -1; });
  refused([](SamplerState& state) { state.cursors[0].position = 6; });
  refused([](SamplerState& state) { state.cursors[1].position = 1; });
  refused([](SamplerState& state) { state.cursors[0].pass = std::numeric_limits<std::uint64_t>::max(); });
  refused([](SamplerState& state) { state.due.due[0] = std::numeric_limits<double>::quiet_NaN(); });
  refused([](SamplerState& state) { state.due.due[2] = std::numeric_limits<double>::infinity(); });
  refused([](SamplerState& state) { state.due.due[2] = -1e200; });
  refused([](SamplerState& state) { state.proportions = {-0.5, 0.0, 1.5}; });
  refused([](SamplerState& state) { state.proportions = {0.5, 0.25, 0.25}; });  // of an empty class
  refused([](SamplerState& state) { state.proportions = {0.5, 0.0, 0.4}; });
  refused([](SamplerState& state) { state.proportions[0] = std::numeric_limits<double>::quiet_NaN(); });
  refused([](SamplerState& state) { state.held[3] = {0}; });
  refused([](SamplerState& state) { state.held[-1] = {0}; });
  refused([](SamplerState& state) { state.held[0] = {8}; });
  refused([](SamplerState& state) { state.held[0] = {-1}; });
  refused([&](SamplerState& state) { state.held[0] = rows[2]; });  // of another class
  refused([&](SamplerState& state) { state.held[0] = {rows[0][0], rows[0][0]}; });
}

}  // namespace
}  // namespace l2m::test

int main() {
  using namespace l2m::test;
  test_batches_equal_the_reference();
  test_a_run_restored_at_any_step_repeats_the_rest();
  test_slices_change_nothing();
  test_ranks_partition_the_global_plan();
  test_a_short_last_batch_is_shared_by_the_ranks();
  test_rows_are_drawn_without_replacement();
  test_held_rows_come_first_in_the_next_batch();
  test_changing_to_the_same_proportions_changes_nothing();
  test_invalid_states_are_refused();
}
