#include <algorithm>
#include <cstddef>
#include <cstdlib>
#include <functional>
#include <limits>
#include <memory>
#include <new>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "check.hpp"
#include "in_child.hpp"
#include "l2m/loader.hpp"
#include "l2m/plan/passes.hpp"
#include "loader_runs.hpp"

// Every allocation of every call of a Loader fails once, alone or with all later ones. The failed call must change
// nothing, and succeed when it is repeated.

namespace l2m::test {
namespace {

thread_local int allocations_until_failure = -1;  // 0: the next one fails; negative: none fails
thread_local bool all_fail = false;               // all allocations after the failing one fail too

void* allocate(std::size_t size, std::size_t alignment) {
  if (allocations_until_failure >= 0 && allocations_until_failure-- == 0) {
    if (all_fail) allocations_until_failure = 0;
    throw std::bad_alloc();
  }
  void* const memory = std::aligned_alloc(alignment, (size / alignment + 1) * alignment);
  if (memory == nullptr) throw std::bad_alloc();
  return memory;
}

}  // namespace
}  // namespace l2m::test

// Not inline: gcc 12 reports inlined pairs of new and delete as a mismatch.
[[gnu::noinline]] void* operator new(std::size_t size) { return l2m::test::allocate(size, alignof(std::max_align_t)); }
[[gnu::noinline]] void* operator new(std::size_t size, std::align_val_t alignment) {
  return l2m::test::allocate(size, static_cast<std::size_t>(alignment));
}
[[gnu::noinline]] void operator delete(void* memory) noexcept { std::free(memory); }
[[gnu::noinline]] void operator delete(void* memory, std::size_t) noexcept { std::free(memory); }
[[gnu::noinline]] void operator delete(void* memory, std::align_val_t) noexcept { std::free(memory); }
[[gnu::noinline]] void operator delete(void* memory, std::size_t, std::align_val_t) noexcept { std::free(memory); }

namespace l2m::test {
namespace {

/// Repeat a call, with one more successful allocation each time, until it succeeds.
/// @return  number of failures.
int call_without_memory(const std::function<void()>& call, const std::function<void()>& check_unchanged) {
  for (int works = 0;; ++works) {
    try {
      allocations_until_failure = works;
      call();
      allocations_until_failure = -1;
      return works;
    } catch (const std::bad_alloc&) {
      CHECK(allocations_until_failure == (all_fail ? 0 : -1));
      allocations_until_failure = -1;
      check_unchanged();
    }
  }
}

/// Train to the end. Failures must change neither a batch nor the final state.
void train_without_memory(const Expected& expected) {
  Trainer untouched(expected, expected.options());
  Trainer trainer(expected, expected.options());
  Loader& loader = trainer.loader();
  Iteration iteration = loader.iterate();
  int failures = 0;
  while (loader.epoch() < expected.training.run.epochs) {
    const std::uint64_t step = loader.total_step();
    std::optional<FilledBatch> batch;
    failures += call_without_memory([&] { batch = loader.next(iteration); },
                                    [&] { CHECK(loader.total_step() == step && !batch); });
    untouched.step();
    if (!batch) {
      iteration = loader.iterate();
      continue;
    }
    trainer.check(*batch, step);
    const std::vector<float> losses = losses_of(expected.batch(step), step);
    const LoaderState before = newest_state(loader);
    failures += call_without_memory([&] { loader.record(std::span<const float>(losses), step); },
                                    [&] { CHECK(same(newest_state(loader), before)); });
    LoaderState state;
    failures += call_without_memory([&] { state = newest_state(loader); }, [] {});
    const LoaderState after = newest_state(untouched.loader());
    // A batch that has rows on other ranks only may be consumed later.
    if (loader.total_step() == untouched.loader().total_step()) CHECK(same(state, after));
    if (step % 5 == 4) {
      failures += call_without_memory([&] { loader.load(after); }, [&] { CHECK(same(newest_state(loader), state)); });
      iteration = loader.iterate();
    }
  }
  CHECK(failures > 100);
  CHECK(same(newest_state(loader), newest_state(untouched.loader())));
}

void test_a_call_that_runs_out_of_memory_changes_nothing() {
  for (const std::int64_t lookahead : {0, 2}) {
    train_without_memory(Expected(following(3, lookahead)));
    train_without_memory(Expected(following({}, lookahead)));
  }
  Run one_class{.sizes = {98},
                .proportions = {},
                .options = {.seed = 5,
                            .global_batch = 16,
                            .rank = 3,
                            .world_size = 4,
                            .shuffle = false,
                            .epoch_is_pass = true,
                            .in_order = true},
                .epochs = 3,
                .steps = 7,
                .last_batch_rows = 2};
  train_without_memory(Expected({one_class}));
}

/// Call update() and set_epoch() during an epoch and between epochs.
void test_an_update_that_runs_out_of_memory_changes_nothing() {
  for (const std::int64_t lookahead : {0, 2}) {
    const Expected expected(following({}, lookahead));
    for (const std::uint64_t batches : {0U, 3U, 7U, 8U}) {
      for (const bool sets_epoch : {false, true}) {
        Trainer trainer(expected, expected.options()), untouched(expected, expected.options());
        for (Trainer* one : {&trainer, &untouched}) {
          one->train(std::min(batches, std::uint64_t{7}));
          if (batches <= 7) continue;
          one->step();  // the end of the epoch
          one->loader().record(std::span<const float>(losses_of(expected.batches[6], 0)));
        }
        const auto call = [&](Loader& loader) { sets_epoch ? loader.set_epoch(6) : loader.update(); };
        const LoaderState before = trainer.loader().state();
        call_without_memory([&] { call(trainer.loader()); }, [&] { CHECK(same(trainer.loader().state(), before)); });
        call(untouched.loader());
        CHECK(same(trainer.loader().state(), untouched.loader().state()));
        CHECK(trainer.loader().proportions() == untouched.loader().proportions());
      }
    }
  }
}

void test_a_forked_child_without_memory_can_try_again() {
  const Expected expected(following(3));
  Trainer trainer(expected, expected.options());
  trainer.train(4);
  in_child([&] {
    const Loader& loader = trainer.loader();
    std::optional<FilledBatch> batch;
    const int failures = call_without_memory([&] { batch = trainer.loader().next(trainer.iteration()); },
                                             [&] { CHECK(loader.total_step() == 4 && !batch); });
    CHECK(batch && (!kHasThreads || failures > 10));  // threads are started anew
    trainer.check(*batch, 4);
    trainer.record();
    trainer.train_all();
  });
}

/// Whoever makes a pass has begun on it: it must come to its end.
void test_a_pass_is_made_without_memory_too() {
  const auto index = std::make_shared<const ClassIndex>(600'000);
  const auto rows_of = [](Passes& passes, std::uint64_t pass) {
    std::vector<std::int64_t> rows;
    passes.visit(0, pass, 0, [&](auto row_at, std::int64_t end) {
      for (std::int64_t i = 0; i < end; ++i) rows.push_back(row_at(i));
    });
    return rows;
  };
  Passes passes(index, 3, true, true), untouched(index, 3, true, false);
  passes.prepare(0, 1);
  CHECK(call_without_memory([&] { passes.prepare(0, 3); }, [&] { CHECK(passes.has_work()); }) > 1);
  const auto make_all = [&] {
    while (passes.has_work()) {
      allocations_until_failure = 0;
      CHECK(passes.work());
      allocations_until_failure = -1;
    }
  };
  make_all();
  CHECK(rows_of(passes, 3) == rows_of(untouched, 3));
  passes.prepare(0, 5);
  allocations_until_failure = 0;
  CHECK_THROWS(std::bad_alloc, passes.prepare(0, 7));
  allocations_until_failure = -1;
  CHECK(rows_of(passes, 5) == rows_of(untouched, 5));
  make_all();
  CHECK(!passes.work());
}

}  // namespace
}  // namespace l2m::test

int main() {
  using namespace l2m::test;
  for (const bool all : {false, true}) {
    all_fail = all;
    test_a_call_that_runs_out_of_memory_changes_nothing();
    test_an_update_that_runs_out_of_memory_changes_nothing();
    test_a_forked_child_without_memory_can_try_again();
    if (l2m::kHasThreads) test_a_pass_is_made_without_memory_too();
  }
}
