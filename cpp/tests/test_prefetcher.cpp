#include "l2m/run/prefetcher.hpp"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <cstring>
#include <limits>
#include <map>
#include <memory>
#include <new>
#include <numeric>
#include <set>
#include <stdexcept>
#include <thread>
#include <utility>
#include <vector>

#include "block_memory.hpp"
#include "check.hpp"
#include "in_child.hpp"
#include "l2m/base/platform.hpp"
#include "l2m/data/dense.hpp"
#include "l2m/data/field.hpp"
#include "l2m/run/thread_pool.hpp"
#include "reference.hpp"

namespace l2m::test {
namespace {

using namespace std::chrono_literals;

constexpr std::uint64_t kNever = std::numeric_limits<std::uint64_t>::max();
constexpr int kPrefetches[] = {0, 1, 2, 4, 9};

int blocks_of_indexes = 0;  // row ids of the runs, which are aligned memory too

SamplerState state_of(Prefetcher& prefetcher) { return prefetcher.state_at(prefetcher.total_step()); }

/// Arrays of random bytes, one per row size. The second one has a negative stride.
class Data {
 public:
  Data(std::int64_t num_rows, std::vector<std::int64_t> row_sizes) {
    for (const std::int64_t size : row_sizes) {
      std::vector<std::byte>& bytes = memory_.emplace_back(static_cast<std::size_t>(num_rows * size));
      const RandomStream random(static_cast<std::uint64_t>(size), Purpose::kBatchOrder, 0);
      for (std::size_t i = 0; i < bytes.size(); i += 8) {
        const std::uint64_t word = random.word(i / 8);
        std::memcpy(&bytes[i], &word, std::min<std::size_t>(8, bytes.size() - i));
      }
      const bool backwards = fields_.size() == 1;
      fields_.push_back(std::make_shared<Dense>(backwards ? bytes.data() + (num_rows - 1) * size : bytes.data(),
                                                backwards ? -size : size, size));
    }
  }

  [[nodiscard]] Fields fields() const { return {fields_.begin(), fields_.end()}; }

  void check(const std::vector<Block>& blocks, BatchPlan rows) const {
    CHECK(blocks.size() == fields_.size());
    for (std::size_t f = 0; f < fields_.size(); ++f) {
      const std::int64_t size = fields_[f]->row_size();
      for (std::size_t i = 0; i < rows.size(); ++i)
        CHECK(std::memcmp(blocks[f].data() + static_cast<std::int64_t>(i) * size, fields_[f]->row(rows[i]),
                          static_cast<std::size_t>(size)) == 0);
    }
  }

 private:
  std::vector<std::vector<std::byte>> memory_;
  std::vector<std::shared_ptr<const Dense>> fields_;
};

/// Run with its data and expected results.
struct Expected {
  explicit Expected(Run of, std::vector<std::int64_t> row_sizes)
      : run(std::move(of)),
        data(std::accumulate(run.sizes.begin(), run.sizes.end(), std::int64_t{0}), std::move(row_sizes)),
        index(run.index()),
        batches(reference_batches_of(run)) {}

  [[nodiscard]] const Batch& batch(std::uint64_t total_step) const {
    return batches.at(static_cast<std::size_t>(total_step));
  }

  Run run;
  Data data;
  std::shared_ptr<const ClassIndex> index;
  std::vector<Batch> batches;
};

/// Consumer that takes the batches of a run one by one and compares each with the expected one.
class Consumer {
 public:
  /// @param lag  number of steps between scheduling a change of proportions and its effect.
  Consumer(const Expected& expected, int threads, int prefetch, std::uint64_t lag = 0, const Team* team = nullptr)
      : expected_(expected),
        lag_(lag),
        next_change_(expected.run.changes.begin()),
        prefetcher_({expected.index, expected.data.fields(), expected.run.options, prefetch, threads, team},
                    expected.run.proportions) {}

  Prefetcher& prefetcher() { return prefetcher_; }
  [[nodiscard]] std::uint64_t consumed() const { return prefetcher_.total_step(); }
  [[nodiscard]] const Batch& due() const { return expected_.batch(consumed()); }

  /// Begin at the next batch, at any step of an epoch.
  void begin() {
    const Run& run = expected_.run;
    prefetcher_.begin({consumed() / run.steps, static_cast<std::int64_t>(consumed() % run.steps),
                       static_cast<std::int64_t>(run.steps), run.last_batch_rows},
                      plan_until());
  }

  /// Resume before a batch. Changes of proportions that take effect later are dropped.
  void go_back_to(std::uint64_t total_step) {
    prefetcher_.set_state(expected_.batch(total_step).before);
    next_change_ = expected_.run.changes.upper_bound(total_step);
  }

  /// Wait for the next batch.
  void wait() {
    announce_changes();
    if (consumed() % 3 == 0) CHECK(state_of(prefetcher_) == due().before);  // less often than batches
    while (!prefetcher_.wait(50ms)) continue;
  }

  std::vector<Block> next() {
    if (consumed() % expected_.run.steps == 0) begin();
    wait();
    const Batch& batch = due();
    CHECK(prefetcher_.num_rows() == std::ssize(batch.rows));
    std::vector<Block> blocks = prefetcher_.take_blocks();
    if (consumed() % 5 == 0) CHECK(state_of(prefetcher_) == batch.before);
    prefetcher_.commit();
    CHECK(std::ranges::equal(prefetcher_.plan().value_or(BatchPlan()), batch.rows));
    if (consumed() % 7 == 0)
      CHECK(state_of(prefetcher_).cursors == batch.after.cursors && state_of(prefetcher_).held == batch.after.held);
    expected_.data.check(blocks, batch.rows);
    return blocks;
  }

  void consume(std::uint64_t count) {
    for (; count > 0; --count) next();
  }
  void consume_all() { consume(expected_.batches.size() - consumed()); }

 private:
  [[nodiscard]] std::uint64_t plan_until() const {
    return next_change_ == expected_.run.changes.end() ? kNever : next_change_->first;
  }

  void announce_changes() {
    while (plan_until() != kNever && plan_until() <= consumed() + lag_) {
      if (plan_until() == consumed()) CHECK(!prefetcher_.wait(0ms));  // at any prefetch depth
      const auto& [step, proportions] = *next_change_++;
      prefetcher_.schedule(step, proportions, plan_until());
    }
  }

  const Expected& expected_;
  const std::uint64_t lag_;
  std::map<std::uint64_t, Proportions>::const_iterator next_change_;
  Prefetcher prefetcher_;
};

/// Return a run with classes of many kinds, one shuffled in the background, on the second of three ranks.
const Expected& mixed_run() {
  static const Expected expected = [] {
    const std::vector<std::int64_t> sizes{7, 0, 3, 30'000, 1, 100};
    Run run{.sizes = sizes,
            .proportions = random_proportions(sizes, 1),
            .options = {.seed = 3, .global_batch = 240, .rank = 1, .world_size = 3},
            .epochs = 3,
            .steps = 20};
    for (const std::uint64_t step : {5U, 10U, 11U, 12U, 20U, 35U, 39U, 40U, 55U})
      run.changes[step] = random_proportions(sizes, step);
    return Expected(run, {3, 8, 64});
  }();
  return expected;
}

/// Return a run with one class whose epochs end with a short batch.
const Expected& one_class_run() {
  static const Expected expected(Run{.sizes = {5003},
                                     .proportions = {1.0},
                                     .options = {.seed = 4, .global_batch = 256, .epoch_is_pass = true},
                                     .epochs = 3,
                                     .steps = 20,
                                     .last_batch_rows = 139},
                                 {1, 784});
  return expected;
}

/// Return a run with many classes, so that planning takes long.
const Expected& many_classes_run() {
  static const Expected expected = [] {
    const std::vector<std::int64_t> sizes(3000, 4);
    return Expected(Run{.sizes = sizes,
                        .proportions = random_proportions(sizes, 6),
                        .options = {.seed = 6, .global_batch = 512},
                        .epochs = 2,
                        .steps = 12},
                    {300, 4});
  }();
  return expected;
}

/// Return a run with batches of many chunks.
const Expected& long_rows_run() {
  static const Expected expected(Run{.sizes = {60, 40},
                                     .proportions = {0.5, 0.5},
                                     .options = {.seed = 5, .global_batch = 64},
                                     .epochs = 2,
                                     .steps = 6},
                                 {20'001, 4});
  return expected;
}

void test_batches_equal_the_reference() {
  for (const Expected* expected : {&mixed_run(), &one_class_run(), &many_classes_run(), &long_rows_run()})
    for (const int threads : kThreadCounts)
      for (const int prefetch : kPrefetches) Consumer(*expected, threads, prefetch).consume_all();
}

std::atomic<int> team_size = 1;
int team_runs = 0;  // of any thread, so that a sanitizer finds one that is not the consumer's

const Team kTeam{[] { return team_size.load(); },
                 [](int count, Team::Task task, const void* context) {
                   ++team_runs;
                   std::vector<std::thread> threads;
                   for (int i = 0; i < count; ++i) threads.emplace_back([=] { task(context, i); });
                   for (std::thread& thread : threads) thread.join();
                 }};

int runs_of_team(const Expected& expected, int size, int threads, int prefetch) {
  team_size = size;
  team_runs = 0;
  Consumer(expected, threads, prefetch, 0, &kTeam).consume_all();
  return team_runs;
}

void test_a_team_copies_large_batches_that_are_not_prefetched() {
  for (const Expected* expected : {&one_class_run(), &long_rows_run()}) {
    for (const int size : {2, 3, 70}) {                   // 70: more threads than some batches have rows
      CHECK(runs_of_team(*expected, size, size, 0) > 0);  // of each batch, unless it was slow
      CHECK(runs_of_team(*expected, size, size + 1, 0) > 0);
      CHECK(runs_of_team(*expected, size, size - 1, 0) == 0);
      CHECK(runs_of_team(*expected, size, size, 1) == 0);
    }
    CHECK(runs_of_team(*expected, 1, 2, 0) == 0);
    CHECK(runs_of_team(*expected, 2, 0, 0) == 0);
  }
  CHECK(runs_of_team(mixed_run(), 2, 2, 0) == 0);  // its batches are small
}

void test_the_size_of_a_team_may_change() {
  team_runs = 0;
  Consumer consumer(long_rows_run(), 3, 0, 0, &kTeam);
  for (int size = 0; consumer.consumed() < long_rows_run().batches.size(); size = (size + 1) % 5) {
    team_size = size;
    consumer.next();
  }
  CHECK(team_runs >= 1 && team_runs <= 4);  // of 12 batches, those with 2 or 3 threads
}

void test_a_slow_team_is_left_alone_for_a_while() {
  static const Team kSlowTeam{kTeam.size, [](int count, Team::Task task, const void* context) {
                                std::this_thread::sleep_for(50ms);
                                kTeam.run(count, task, context);
                              }};
  team_size = 2;
  team_runs = 0;
  Consumer(long_rows_run(), 2, 0, 0, &kSlowTeam).consume_all();
  CHECK(team_runs == 1);
}

void test_a_forked_child_does_not_use_the_team() {
  team_size = 2;
  Consumer consumer(long_rows_run(), 2, 0, 0, &kTeam);
  consumer.consume(2);
  in_child([&] {
    team_runs = 0;
    consumer.consume_all();
    CHECK(team_runs == 0);
  });
  consumer.consume_all();
}

void test_changes_take_effect_at_their_step_whenever_they_are_scheduled() {
  for (const std::uint64_t lag : {1U, 2U, 5U, 60U})
    for (const int threads : {0, 1, 3})
      for (const int prefetch : {0, 1, 4}) Consumer(mixed_run(), threads, prefetch, lag).consume_all();
}

void test_slow_consumers_get_the_same_batches() {
  for (const int threads : {1, 2}) {
    Consumer consumer(mixed_run(), threads, 4);
    for (std::size_t i = 0; i < mixed_run().batches.size(); ++i) {
      if (i % 3 == 0) std::this_thread::sleep_for(200us);
      consumer.next();
    }
  }
}

void test_there_is_no_batch_after_the_end() {
  for (const int threads : kThreadCounts) {
    Consumer consumer(long_rows_run(), threads, 4);
    CHECK(!consumer.prefetcher().wait(0ms));
    CHECK_THROWS(std::logic_error, consumer.prefetcher().wait(10s));  // begin() was not called
    consumer.consume(6);
    CHECK(!consumer.prefetcher().wait(0ms));
    CHECK_THROWS(std::logic_error, consumer.prefetcher().wait(10s));
    consumer.consume_all();
  }
}

void test_begin_drops_prefetched_batches() {
  for (const int threads : kThreadCounts) {
    for (const int prefetch : {0, 1, 4}) {
      Consumer consumer(mixed_run(), threads, prefetch);
      for (std::size_t i = 0; i < mixed_run().batches.size(); ++i) {
        consumer.begin();
        if (i % 3 == 1) consumer.wait();
        if (i % 3 == 2) consumer.begin();
        consumer.next();
      }
    }
  }
}

void test_a_batch_is_not_consumed_before_commit() {
  for (const int threads : kThreadCounts) {
    Consumer consumer(one_class_run(), threads, 2);
    consumer.consume(3);
    const Batch& due = consumer.due();
    for (int attempt = 0; attempt < 3; ++attempt) {
      consumer.wait();
      one_class_run().data.check(consumer.prefetcher().take_blocks(), due.rows);
      CHECK(state_of(consumer.prefetcher()) == due.before);
      CHECK(std::ranges::equal(consumer.prefetcher().plan().value_or(BatchPlan()), one_class_run().batches[2].rows));
      consumer.prefetcher().suspend();
    }
    consumer.consume_all();
  }
}

void test_a_run_restored_at_any_step_repeats_the_rest() {
  for (const int threads : {0, 2}) {
    for (const Expected* expected : {&mixed_run(), &one_class_run()}) {
      Consumer consumer(*expected, threads, 3, 5);
      consumer.consume(10);
      for (std::size_t first = expected->batches.size(); first-- > 0;) {
        consumer.go_back_to(first);
        consumer.begin();
        consumer.consume(std::min<std::size_t>(expected->batches.size() - first, 8));
      }
      consumer.consume_all();
    }
  }
}

void test_an_invalid_state_changes_nothing() {
  Consumer consumer(mixed_run(), 2, 4);
  consumer.consume(7);
  SamplerState broken = state_of(consumer.prefetcher());
  broken.cursors[0].position = 100;
  CHECK_THROWS(std::invalid_argument, consumer.prefetcher().set_state(broken));
  CHECK(std::ranges::equal(consumer.prefetcher().plan().value_or(BatchPlan()), mixed_run().batches[6].rows));
  consumer.consume_all();
}

void test_blocks_in_use_do_not_change() {
  const auto& [run, data, index, batches] = one_class_run();
  for (const int threads : kThreadCounts) {
    std::vector<std::vector<Block>> kept;
    {
      Consumer consumer(one_class_run(), threads, 4);
      for (std::size_t i = 0; i < batches.size(); ++i) kept.push_back(consumer.next());
      for (std::size_t i = 0; i < batches.size(); ++i) data.check(kept[i], batches[i].rows);
    }
    for (std::size_t i = 0; i < batches.size(); ++i) data.check(kept[i], batches[i].rows);
    std::thread([dropped = std::move(kept)] {}).join();
    CHECK(blocks_alive == blocks_of_indexes);
  }
}

void test_blocks_are_reused() {
  for (const int threads : kThreadCounts) {
    Consumer consumer(mixed_run(), threads, 4);
    std::set<const std::byte*> seen;
    for (std::size_t i = 0; i < mixed_run().batches.size(); ++i)
      for (const Block& block : consumer.next()) seen.insert(block.data());
    CHECK(seen.size() < mixed_run().batches.size());  // of 3 fields
  }
}

void test_close_drops_batches_in_flight() {
  for (const int threads : kThreadCounts) {
    for (const std::uint64_t consumed : {0U, 1U, 7U}) {
      Consumer consumer(long_rows_run(), threads, 4);
      consumer.begin();
      consumer.consume(std::min<std::uint64_t>(consumed, 6));
      Prefetcher& prefetcher = consumer.prefetcher();
      const SamplerState state = state_of(prefetcher);
      prefetcher.close();
      prefetcher.close();
      CHECK_THROWS(std::runtime_error, state_of(prefetcher));
      CHECK_THROWS(std::runtime_error, prefetcher.drop_history());
      CHECK_THROWS(std::runtime_error, consumer.begin());
      CHECK_THROWS(std::runtime_error, prefetcher.wait(0ms));
      CHECK_THROWS(std::runtime_error, prefetcher.take_blocks());
      CHECK_THROWS(std::runtime_error, prefetcher.num_rows());
      CHECK_THROWS(std::runtime_error, prefetcher.commit());
      CHECK_THROWS(std::runtime_error, prefetcher.suspend());
      CHECK_THROWS(std::runtime_error, prefetcher.set_state(state));
      CHECK_THROWS(std::runtime_error, prefetcher.schedule(50, {0.5, 0.5}, kNever));
    }
  }
}

void test_many_prefetchers_are_started_and_abandoned() {
  for (const int threads : kThreadCounts) {
    const int threads_before = std::max(usable_threads(threads), pool_threads());
    for (std::uint64_t i = 0; i < 100; ++i) {
      Consumer consumer(mixed_run(), threads, static_cast<int>(i % 5));
      consumer.begin();
      if (i % 3 == 0) consumer.consume(i % 4);
      if (i % 2 == 0) consumer.begin();
    }
    CHECK(pool_threads() == threads_before);
    CHECK(blocks_alive == blocks_of_indexes);
    Consumer consumer(mixed_run(), threads, 4);
    for (int i = 0; i < 200; ++i) consumer.begin();
    consumer.consume_all();
  }
}

void test_several_prefetchers_run_at_once() {
  std::vector<std::thread> owners;
  for (int owner = 0; owner < 4; ++owner) {
    owners.emplace_back([owner] {
      for (int round = 0; round < 3; ++round) {
        Consumer mixed(mixed_run(), owner, 4), one_class(one_class_run(), owner, 2);
        for (int i = 0; i < 30; ++i) {
          mixed.next();
          one_class.next();
        }
      }
    });
  }
  for (std::thread& owner : owners) owner.join();
}

/// Consumer that waits, on its own thread, for a batch whose memory is held back.
class BlockedConsumer {
 public:
  explicit BlockedConsumer(Prefetcher& prefetcher) {
    prefetcher.wait(0ms);
    thread_ = std::thread([this, &prefetcher] {
      for (;;) {
        try {
          got_ = prefetcher.wait(24h);
          return;
        } catch (const std::runtime_error&) {  // the other thread was polling
          std::this_thread::yield();
        }
      }
    });
    for (bool refused = false; !refused; std::this_thread::yield()) {
      try {
        prefetcher.wait(0ms);
      } catch (const std::runtime_error&) {
        refused = true;
      }
    }
  }
  ~BlockedConsumer() {
    thread_.join();
    CHECK(got_);
  }
  BlockedConsumer(const BlockedConsumer&) = delete;
  BlockedConsumer& operator=(const BlockedConsumer&) = delete;

 private:
  bool got_ = false;
  std::thread thread_;
};

void test_wait_ends_in_time() {
  Consumer consumer(mixed_run(), 1, 1);  // while a thread prepares the only batch, nothing is left for the consumer
  {
    const HeldBlocks held;
    consumer.begin();
    CHECK(HeldBlocks::wait_for(1));  // by the pool thread; otherwise it could be the consumer
    CHECK(!consumer.prefetcher().wait(0ms));
    CHECK(!consumer.prefetcher().wait(5ms));
  }
  consumer.consume_all();
}

/// Field whose rows take long to copy.
class Slow : public Field {
 public:
  [[nodiscard]] std::int64_t row_size() const override { return 1; }
  [[nodiscard]] std::int64_t row_cost() const override { return 1 << 20; }  // each row is a chunk
  void copy(BatchPlan plan, std::byte* out, Writes, const Field*) const override {
    std::this_thread::sleep_for(3ms);
    std::fill_n(out, plan.size(), std::byte{7});
  }
};

void test_wait_ends_in_time_if_the_consumer_does_the_work() {
  const auto index = std::make_shared<const ClassIndex>(8);
  Prefetcher prefetcher({index, {std::make_shared<Slow>()}, {.seed = 1, .global_batch = 4}, 0, 0, nullptr}, {1.0});
  prefetcher.begin({0, 0, 2, 4}, kNever);
  for (int batch = 0; batch < 2; ++batch) {
    int waits = 1;
    while (!prefetcher.wait(1ms)) ++waits;
    CHECK(waits >= 4);  // at least one for each row
    CHECK(prefetcher.take_blocks()[0].data()[3] == std::byte{7});
    prefetcher.commit();
  }
}

void test_a_waiting_consumer_works_beside_the_threads_if_a_cpu_is_left() {
  if (usable_cpus() < 2) return;
  Consumer consumer(mixed_run(), 1, 4);
  {
    const HeldBlocks held;
    consumer.begin();
    CHECK(HeldBlocks::wait_for(1));  // by the pool thread
    const BlockedConsumer blocked(consumer.prefetcher());
    CHECK(HeldBlocks::wait_for(2));
    HeldBlocks::release();
  }
  consumer.consume_all();
}

void test_a_second_thread_is_refused() {
  Consumer consumer(mixed_run(), 1, 4);
  Prefetcher& prefetcher = consumer.prefetcher();
  const SamplerState state = state_of(prefetcher);
  const HeldBlocks held;
  consumer.begin();
  {
    const BlockedConsumer blocked(prefetcher);
    CHECK_THROWS(std::runtime_error, consumer.begin());
    CHECK_THROWS(std::runtime_error, prefetcher.wait(0ms));
    CHECK_THROWS(std::runtime_error, prefetcher.take_blocks());
    CHECK_THROWS(std::runtime_error, prefetcher.num_rows());
    CHECK_THROWS(std::runtime_error, prefetcher.commit());
    CHECK_THROWS(std::runtime_error, prefetcher.suspend());
    CHECK_THROWS(std::runtime_error, prefetcher.set_state(state));
    CHECK_THROWS(std::runtime_error, prefetcher.schedule(50, mixed_run().run.proportions, kNever));
    HeldBlocks::release();
  }
  consumer.consume_all();
}

void test_close_waits_for_a_call_of_another_thread() {
  Consumer consumer(mixed_run(), 1, 4);
  const HeldBlocks held;
  consumer.begin();
  std::atomic<bool> closed = false;
  std::thread closer;
  {
    const BlockedConsumer blocked(consumer.prefetcher());
    closer = std::thread([&] {
      consumer.prefetcher().close();
      closed = true;
    });
    std::this_thread::sleep_for(5ms);
    CHECK(!closed);
    HeldBlocks::release();
  }
  closer.join();
  CHECK_THROWS(std::runtime_error, consumer.prefetcher().wait(0ms));
}

void test_a_forked_child_continues_independently() {
  for (const int threads : {0, 1, 2, 8}) {
    Consumer consumer(mixed_run(), threads, 4);
    in_child([&] { consumer.consume(25); });  // before the parent began
    for (const std::uint64_t count : {1U, 3U, 7U, 16U}) {
      consumer.consume(count);
      const auto kept = consumer.next();
      in_child([&] {
        consumer.consume(12);
        mixed_run().data.check(kept, mixed_run().batch(consumer.consumed() - 13).rows);
      });
      in_child([&] {
        consumer.wait();
        in_child([&] { consumer.consume(3); });
        consumer.consume_all();
      });
      in_child([&] { consumer.prefetcher().close(); });
    }
    in_child([&] { Consumer(one_class_run(), threads, 2).consume_all(); });
    consumer.consume_all();
  }
}

void test_a_child_forked_during_a_call_continues() {
  Consumer consumer(mixed_run(), 1, 4);
  const HeldBlocks held;
  consumer.begin();
  {
    const BlockedConsumer blocked(consumer.prefetcher());
    in_child([&] {
      HeldBlocks::release();
      consumer.begin();
      consumer.consume_all();
    });
    in_child([&] { consumer.prefetcher().close(); });
    HeldBlocks::release();
  }
  consumer.consume_all();
}

void test_an_error_is_raised_at_its_batch() {
  const Expected& expected = one_class_run();
  for (const int threads : kThreadCounts) {
    for (const int prefetch : {0, 1, 4}) {
      for (const std::uint64_t failing : {0U, 5U, 19U, 33U}) {
        Consumer consumer(expected, threads, prefetch);
        const std::uint64_t first = failing / expected.run.steps * expected.run.steps;
        consumer.go_back_to(first);
        blocks_until_failure = static_cast<int>(2 * (failing - first) + 1);  // the second field of that batch
        std::vector<std::vector<Block>> kept;                                // keeps blocks from being reused
        // Several threads request the memory of the batches ahead in any order.
        const auto about = static_cast<std::uint64_t>(threads < 2 ? 0 : std::max(prefetch, 1) - 1);
        bool failed = false;
        while (!failed) {
          if (consumer.consumed() % expected.run.steps == 0) consumer.begin();
          const std::vector<PlannedRow> plan(consumer.prefetcher().plan().value_or(BatchPlan()).begin(),
                                             consumer.prefetcher().plan().value_or(BatchPlan()).end());
          consumer.wait();
          try {
            kept.push_back(consumer.prefetcher().take_blocks());
            consumer.prefetcher().commit();
          } catch (const std::bad_alloc&) {
            failed = true;
            CHECK(std::ranges::equal(consumer.prefetcher().plan().value_or(BatchPlan()), plan));
          }
        }
        CHECK(consumer.consumed() <= failing + about && consumer.consumed() + about >= failing);
        CHECK(blocks_until_failure == -1);
        CHECK(state_of(consumer.prefetcher()) == consumer.due().before);
        for (std::size_t i = 0; i < kept.size(); ++i) expected.data.check(kept[i], expected.batch(first + i).rows);
        consumer.consume(8);  // that batch first
      }
    }
  }
  CHECK(blocks_alive == blocks_of_indexes);
}

}  // namespace
}  // namespace l2m::test

int main() {
  using namespace l2m::test;
  for (const auto& run : {mixed_run, one_class_run, many_classes_run, long_rows_run}) run();
  blocks_of_indexes = blocks_alive;
  test_batches_equal_the_reference();
  test_changes_take_effect_at_their_step_whenever_they_are_scheduled();
  test_slow_consumers_get_the_same_batches();
  test_there_is_no_batch_after_the_end();
  test_begin_drops_prefetched_batches();
  test_a_batch_is_not_consumed_before_commit();
  test_a_run_restored_at_any_step_repeats_the_rest();
  test_an_invalid_state_changes_nothing();
  test_blocks_in_use_do_not_change();
  test_blocks_are_reused();
  test_close_drops_batches_in_flight();
  test_many_prefetchers_are_started_and_abandoned();
  test_several_prefetchers_run_at_once();
  test_a_forked_child_continues_independently();
  test_an_error_is_raised_at_its_batch();
  if (!l2m::kHasThreads) return 0;
  test_a_team_copies_large_batches_that_are_not_prefetched();
  test_the_size_of_a_team_may_change();
  test_a_slow_team_is_left_alone_for_a_while();
  test_a_forked_child_does_not_use_the_team();
  test_wait_ends_in_time();
  test_wait_ends_in_time_if_the_consumer_does_the_work();
  test_a_waiting_consumer_works_beside_the_threads_if_a_cpu_is_left();
  test_a_second_thread_is_refused();
  test_close_waits_for_a_call_of_another_thread();
  test_a_child_forked_during_a_call_continues();
}
