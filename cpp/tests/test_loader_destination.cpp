#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstring>
#include <deque>
#include <memory>
#include <new>
#include <set>
#include <stdexcept>
#include <utility>
#include <vector>

#include "check.hpp"
#include "l2m/loader.hpp"
#include "l2m/run/batch_destination.hpp"
#include "loader_runs.hpp"

// Batches that are sent to a destination: each one once and in order, whatever fails.

namespace l2m::test {
namespace {

using namespace std::chrono_literals;

/// Destination that lends memory and copies the batches it is sent.
class Destination final : public BatchDestination {
 public:
  /// @param trouble  number of calls after which one fails; 0: no call fails.
  Destination(std::int64_t ahead, std::int64_t refill, int trouble = 0)
      : ahead_(ahead), refill_(refill), trouble_(trouble) {}

  std::byte* lend(std::size_t field) override {
    CHECK(field == 0);
    if (is_time_for_trouble()) throw std::bad_alloc();
    return memory_.emplace_back(std::make_unique<std::byte[]>(24 * 8)).get();
  }
  [[nodiscard]] std::int64_t ahead() const override { return ahead_; }
  [[nodiscard]] std::int64_t refill() const override { return refill_; }
  bool send(std::vector<FilledBatch>& batches, bool must) override {
    CHECK(!batches.empty() && must == sent_.empty());
    CHECK(std::ssize(sent_) + std::ssize(batches) <= std::max<std::int64_t>(ahead_, 1));
    if (is_time_for_trouble()) {
      if (must || calls_ % 2 == 0) throw std::runtime_error("the device is full");
      return false;
    }
    for (FilledBatch& batch : batches) {
      std::vector<std::int64_t>& ids = sent_.emplace_back(static_cast<std::size_t>(batch.num_rows));
      CHECK(batch.blocks.size() == 1 && batch.num_rows <= 24);
      std::memcpy(ids.data(), batch.blocks[0].data(), 8 * ids.size());
      if (calls_ % 2 == 0) CHECK(owns(batch.blocks[0].release()));  // else the loader reuses the memory
    }
    return true;
  }
  void handed_over() noexcept override { sent_.pop_front(); }
  void drop() noexcept override { sent_.clear(); }

  [[nodiscard]] const std::vector<std::int64_t>& first() const { return sent_.front(); }
  [[nodiscard]] bool owns(const std::byte* memory) const {
    return std::ranges::any_of(memory_, [&](const auto& lent) { return lent.get() == memory; });
  }
  [[nodiscard]] std::size_t lent() const { return memory_.size(); }

 private:
  bool is_time_for_trouble() { return ++calls_, trouble_ > 0 && calls_ > 8 && calls_ % trouble_ == 0; }

  const std::int64_t ahead_, refill_;
  const int trouble_;
  int calls_ = 0;
  std::vector<std::unique_ptr<std::byte[]>> memory_;
  std::deque<std::vector<std::int64_t>> sent_;
};

/// Loader whose batches are checked where they arrive.
class Receiver {
 public:
  Receiver(const Expected& expected, std::shared_ptr<Destination> destination, int threads, int prefetch)
      : expected_(expected), destination_(std::move(destination)), loader_([&] {
          LoaderOptions options = expected.options(threads, prefetch);
          options.destination = destination_;
          return options;
        }()) {}

  Loader& loader() { return loader_; }
  [[nodiscard]] int failures() const { return failures_; }

  /// Receive all batches of the training.
  void receive_all() {
    while (loader_.total_step() < expected_.batches.size()) {
      const Iteration iteration = loader_.iterate();
      while (receive(iteration)) continue;
    }
  }
  /// Receive one batch, retrying after failures. Return false if the epoch has ended.
  bool receive(const Iteration& iteration) {
    if (!loader_.prepare(iteration)) return false;
    const std::uint64_t step = loader_.total_step();
    std::optional<FilledBatch> batch;
    while (!batch) {
      while (!loader_.wait(1s)) continue;
      try {
        batch = loader_.take();
      } catch (const std::exception&) {
        CHECK(++failures_ < 10'000);
      }
      CHECK(loader_.total_step() == step);
    }
    check(*batch, step);
    loader_.commit();
    const std::vector<float> losses = losses_of(expected_.batch(step), step);
    loader_.record(std::span<const float>(losses));
    return true;
  }

 private:
  void check(const FilledBatch& batch, std::uint64_t step) {
    std::vector<std::int64_t> ids(static_cast<std::size_t>(batch.num_rows));
    if (destination_->ahead() > 0) {
      CHECK(batch.blocks.empty());
      ids = destination_->first();
    } else {
      CHECK(batch.blocks.size() == 1 && destination_->owns(batch.blocks[0].data()));
      std::memcpy(ids.data(), batch.blocks[0].data(), 8 * ids.size());
    }
    const std::vector<PlannedRow>& rows = expected_.batch(step);
    CHECK(std::ranges::equal(loader_.due(), rows) && batch.num_rows == std::ssize(rows));
    CHECK(std::ranges::equal(ids, rows, {}, {}, &PlannedRow::row));
  }

  const Expected& expected_;
  std::shared_ptr<Destination> destination_;
  Loader loader_;
  int failures_ = 0;
};

void test_every_batch_arrives_once_and_in_order() {
  const Expected expected(following(3)), by_epoch(following({}, 2));
  for (const Expected* training : {&expected, &by_epoch})
    for (const int threads : {0, 1, 3})
      for (const int prefetch : {0, 1, 4})
        for (const std::int64_t ahead : {0, 1, 3, 4})
          for (std::int64_t refill = std::min<std::int64_t>(ahead, 1); refill <= ahead; ++refill) {
            Receiver receiver(*training, std::make_shared<Destination>(ahead, refill), threads, prefetch);
            receiver.receive_all();
            CHECK(receiver.failures() == 0);
          }
}

void test_batches_arrive_despite_occasional_lack_of_memory() {
  const Expected expected(following(3));
  int failures = 0;
  for (const int threads : {0, 1, 3})
    for (const int prefetch : {1, 4})
      for (const std::int64_t ahead : {0, 1, 3})
        for (const int trouble : {2, 3, 5}) {
          const std::int64_t refill = (ahead + 1) / 2;
          Receiver receiver(expected, std::make_shared<Destination>(ahead, refill, trouble), threads, prefetch);
          receiver.receive_all();
          failures += receiver.failures();
        }
  CHECK(failures > 0);
}

void test_memory_that_was_not_taken_is_reused() {
  const Expected expected(following(3));
  const auto destination = std::make_shared<Destination>(0, 0);
  Receiver receiver(expected, destination, 1, 4);
  receiver.receive_all();
  CHECK(destination->lent() == 5);  // prefetch, and the batch that was handed over
}

void test_batches_in_flight_are_dropped_when_the_run_changes() {
  const Expected expected(following(3));
  const auto destination = std::make_shared<Destination>(3, 2);
  Receiver receiver(expected, destination, 1, 4);
  Loader& loader = receiver.loader();
  Iteration iteration = loader.iterate();
  for (int i = 0; i < 3; ++i) CHECK(receiver.receive(iteration));
  const LoaderState state = loader.state();
  for (int i = 0; i < 2; ++i) CHECK(receiver.receive(iteration));
  loader.suspend();
  CHECK(receiver.receive(iteration));
  loader.load(state);
  iteration = loader.iterate();
  CHECK(receiver.receive(iteration));
  loader.retry();
  CHECK(receiver.receive(iteration));
  loader.load(loader.state());
  receiver.receive_all();
}

}  // namespace
}  // namespace l2m::test

int main() {
  using namespace l2m::test;
  test_every_batch_arrives_once_and_in_order();
  test_batches_arrive_despite_occasional_lack_of_memory();
  test_memory_that_was_not_taken_is_reused();
  test_batches_in_flight_are_dropped_when_the_run_changes();
}
