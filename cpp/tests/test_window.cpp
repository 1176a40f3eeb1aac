#include "l2m/loss/window.hpp"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <map>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "check.hpp"
#include "l2m/base/random.hpp"

namespace l2m::test {
namespace {

/// Source with the sums of a simulated device.
class FakeSource final : public LossSource {
 public:
  void start_reading() override { ++reads_started; }
  LossSums read() override { return sums; }
  bool all_finite() override { return finite; }

  LossSums sums{3};
  bool finite = true;
  int reads_started = 0;
};

LossSums of(std::int64_t k, double loss) {
  LossSums sums(3);
  sums.sum[static_cast<std::size_t>(k)].add(loss);
  sums.sum[static_cast<std::size_t>(k)].carry();
  sums.count[static_cast<std::size_t>(k)] = 1;
  return sums;
}

/// Reference that keeps the sums of each window and batch in a map.
class Slow {
 public:
  Slow(std::optional<std::int64_t> every) : every_(every) {}

  void add(std::int64_t first_open, std::int64_t batch, const LossSums& sums) {
    const std::int64_t window = every_ ? std::max(first_open, batch < 0 ? 0 : batch / *every_) : first_open;
    sums_.try_emplace({window, batch}, 3).first->second.add(sums);
  }
  [[nodiscard]] LossSums total(std::int64_t window, std::int64_t before) const {
    LossSums total(3);
    for (const auto& [at, sums] : sums_)
      if (at.first == window && at.second < before) total.add(sums);
    return total;
  }

 private:
  std::optional<std::int64_t> every_;
  std::map<std::pair<std::int64_t, std::int64_t>, LossSums> sums_;
};

/// Consume batches, record losses of any of the last ones, and close windows by the rules.
void test_sums_equal_those_of_a_map(std::optional<std::int64_t> every, std::int64_t lookahead, std::uint64_t seed) {
  const RandomStream random(seed, Purpose::kBatchOrder, static_cast<std::uint64_t>(lookahead));
  constexpr std::int64_t kAll = std::numeric_limits<std::int64_t>::max();
  OpenWindows windows(3, every, lookahead);
  Slow slow(every);
  std::int64_t closed = 0, earliest = 1;  // first total step with a known state
  std::uint64_t word = 0;
  const auto dice = [&](std::uint64_t sides) { return static_cast<std::int64_t>(random.word(word++) % sides); };
  for (std::int64_t batch = 0; batch < 60; ++batch) {
    const bool closes = every ? batch == (closed + 1) * *every + lookahead : dice(8) == 0;
    if (closes) {
      CHECK(windows.total() == slow.total(closed, kAll));
      CHECK(windows.has_losses() == !slow.total(closed, kAll).empty());
      const bool ends_first = dice(2) == 0;
      if (ends_first) windows.close_oldest();
      CHECK(windows.has_pending() == ends_first && windows.total() == slow.total(closed, kAll));
      windows.drop(every.has_value());
      ++closed;
      CHECK(!windows.has_pending() && windows.applied() == (every ? closed : 0));
    }
    for (std::int64_t n = dice(4); n > 0; --n) {
      const std::int64_t of_batch = std::max<std::int64_t>(batch - dice(static_cast<std::uint64_t>(lookahead) + 1), 0);
      if (!windows.accepts(of_batch)) {
        CHECK(every && of_batch / *every < closed);
        continue;
      }
      const LossSums sums = of(dice(3), static_cast<double>(dice(100)));
      LossSlot& slot = windows.slot(of_batch);
      if (dice(2) == 0) {
        slot.host.add(sums);
      } else {
        if (!slot.device) slot.device = std::make_shared<FakeSource>();
        static_cast<FakeSource&>(*slot.device).sums.add(sums);
      }
      windows.added(of_batch);
      slow.add(closed, of_batch, sums);
    }
    // With lookahead, any of the last batches may be left out.
    for (std::int64_t total = std::max(batch + 1 - lookahead, earliest); total <= batch + 1; ++total) {
      if (every && total < closed * *every) continue;
      const std::vector<LossSums> open = windows.as_of(total);
      const std::int64_t newest = every ? std::max(closed, (total - 1) / *every) : closed;
      CHECK(std::ssize(open) == newest - closed + 1);
      for (std::int64_t w = closed; w <= newest; ++w)
        CHECK(open[static_cast<std::size_t>(w - closed)] == slow.total(w, lookahead == 0 ? kAll : total));
    }
    if (dice(10) == 0) {
      const std::vector<LossSums> open = windows.as_of(batch + 1);
      windows.restore(windows.applied(), open);
      earliest = batch + 1;
      CHECK(windows.as_of(earliest) == open && !windows.newest());
    }
  }
}

void test_losses_of_a_closed_window_go_to_the_next() {
  OpenWindows windows(3, 2, 1);
  windows.slot(1).host.add(of(0, 5));
  windows.close_oldest();
  CHECK(!windows.accepts(1) && windows.accepts(2));
  windows.slot(2).host.add(of(1, 7));
  CHECK(windows.total() == of(0, 5));
  windows.drop(true);
  CHECK(windows.total() == of(1, 7));
}

void test_sums_on_a_device_are_requested_when_their_window_closes() {
  OpenWindows windows(3, 2, 0);
  const auto source = std::make_shared<FakeSource>();
  CHECK(!windows.is_on_device() && !windows.has_losses());
  windows.slot(0).device = source;
  CHECK(windows.is_on_device() && windows.has_losses() && windows.all_finite());
  source->finite = false;
  CHECK(!windows.all_finite() && source->reads_started == 0);
  windows.close_oldest();
  CHECK(source->reads_started == 1 && windows.is_on_device() && !windows.all_finite());
  windows.drop(true);
  CHECK(!windows.is_on_device() && windows.all_finite());
}

void test_losses_skipped_on_a_device_are_known_until_their_window_is_applied() {
  OpenWindows windows(3, 3, 1);
  const auto source = std::make_shared<FakeSource>();
  source->finite = false;
  windows.slot(0).device = source;
  windows.slot(2).host.add(of(0, 5));  // batch 0 is no longer among the last ones
  CHECK(source.use_count() == 1 && !windows.is_on_device() && !windows.all_finite());
  windows.drop(true);
  CHECK(windows.all_finite());
}

void test_the_newest_batch_with_losses_is_known() {
  OpenWindows windows(3, 2, 1);
  CHECK(!windows.newest());
  windows.added(3);
  windows.added(2);
  CHECK(windows.newest() == 3);
}

/// The values of several ranks must add up to the sum of their losses, also where a sum is clamped.
void test_values_for_a_sum_over_ranks() {
  Sfc64 random(RandomStream(1, Purpose::kShuffle, 0));
  for (const std::size_t ranks : {1, 2, 1000}) {
    LossSums all(3);
    std::vector<double> total(3 * LossSums::kValues);
    for (std::size_t rank = 0; rank < ranks; ++rank) {
      LossSums of_rank(3);
      for (std::int64_t k = 0; k < 3; ++k) {
        const int exponent = k == 2 ? 100 : static_cast<int>(random() % 250) - 140;
        of_rank.add(of(k, std::ldexp(random() % 2 == 0 || k == 2 ? 1.1 : -1.7, exponent)));
        if (k == 2) of_rank.add(of(k, std::ldexp(1.1, 150)));
      }
      all.add(of_rank);
      const std::vector<double> values = of_rank.to_values();
      for (std::size_t i = 0; i < values.size(); ++i) total[i] += values[i];
    }
    CHECK(LossSums::from_values(total) == all);
  }
  CHECK_THROWS(std::runtime_error, LossSums::from_values(std::vector<double>(LossSums::kValues, -1.0)));
  const std::vector<double> wrong(LossSums::kValues, 0x1p70);
  CHECK(LossSums::from_values(wrong).sum[0].nearest() == ExactSum::kLargest);
  LossSums largest = of(0, ExactSum::kLargest / 2);
  for (int i = 0; i < 3; ++i) largest.add(LossSums(largest));
  std::vector<double> total = largest.to_values();
  for (double& value : total) value *= 1 << 21;
  CHECK(LossSums::from_values(total).sum[0].nearest() == ExactSum::kLargest);
}

}  // namespace
}  // namespace l2m::test

int main() {
  using namespace l2m::test;
  for (std::uint64_t seed = 0; seed < 50; ++seed) {
    for (const std::int64_t lookahead : {0, 1, 3}) {
      test_sums_equal_those_of_a_map(3, lookahead, seed);
      test_sums_equal_those_of_a_map(5, lookahead, seed);
      test_sums_equal_those_of_a_map({}, lookahead, seed);
    }
  }
  test_losses_of_a_closed_window_go_to_the_next();
  test_sums_on_a_device_are_requested_when_their_window_closes();
  test_losses_skipped_on_a_device_are_known_until_their_window_is_applied();
  test_the_newest_batch_with_losses_is_known();
  test_values_for_a_sum_over_ranks();
}
