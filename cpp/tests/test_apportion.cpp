#include "l2m/apportion.hpp"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <set>
#include <vector>

#include "check.hpp"
#include "l2m/learn2mix.hpp"
#include "l2m/philox.hpp"
#include "reference.hpp"

namespace l2m::test {
namespace {

Proportions normalised(Proportions proportions) {
  double sum = 0;
  for (const double p : proportions) sum += p;
  for (double& p : proportions) p /= sum;
  normalise(proportions, std::vector<std::int64_t>(proportions.size(), 1));
  return proportions;
}

/// Proportions over several orders of magnitude.
Proportions long_tailed(std::size_t num_classes, std::uint64_t number) {
  const RandomStream random(number, Purpose::kBatchOrder, num_classes);
  Proportions proportions;
  for (std::size_t k = 0; k < num_classes; ++k) proportions.push_back(std::pow(random.uniform(k), 4.0) + 1e-6);
  return normalised(proportions);
}

/// The quotas of the next batch for all classes, checked for all that a list of quotas promises.
std::vector<std::int64_t> next_quotas(Apportioner& apportioner, std::vector<DueTime>& due, std::int64_t batch_size) {
  std::vector<std::int64_t> quotas(due.size(), 0);
  std::int64_t sum = 0;
  std::int64_t before = -1;
  for (const Quota& quota : apportioner.next(due)) {
    CHECK(quota.class_id > before && quota.class_id < std::ssize(due));
    CHECK(quota.rows > 0);
    before = quota.class_id;
    sum += quota.rows;
    quotas[static_cast<std::size_t>(quota.class_id)] = quota.rows;
  }
  CHECK(sum == batch_size);
  return quotas;
}

void test_due_queue_gives_the_smallest() {
  for (const double scale : {0.01, 1.0, 300.0, 1e9, 1e19}) {  // 1e19 steps: beyond the keys, all in one bucket
    DueQueue queue;
    std::set<DueQueue::Entry> expected;
    const RandomStream random(3, Purpose::kBatchOrder, 1);
    std::uint64_t word = 0;
    std::int64_t next_class = 0;
    double now = 0;
    for (int round = 0; round < 300; ++round) {
      for (std::uint64_t i = random.word(word++) % 12; i > 0; --i) {
        const double due =
            now + scale * std::floor(16 * random.uniform(word++) - 1) / 16;  // ties, and some in the past
        queue.push({due, next_class});
        expected.insert({due, next_class++});
      }
      std::vector<DueQueue::Entry> taken{{-1, -1}};  // what was there stays
      const std::size_t count = std::min<std::size_t>(random.word(word++) % 12, expected.size());
      queue.take(count, taken);
      CHECK(taken.size() == 1 + count && taken[0] == (DueQueue::Entry{-1, -1}));
      std::sort(taken.begin() + 1, taken.end());
      for (std::size_t i = 0; i < count; ++i) {
        CHECK(taken[1 + i] == *expected.begin());
        now = std::max(now, taken[1 + i].due);
        expected.erase(expected.begin());
      }
    }
    queue.clear();
    queue.push({0.5, 7});
    std::vector<DueQueue::Entry> taken;
    queue.take(1, taken);
    CHECK(taken[0] == (DueQueue::Entry{0.5, 7}));
  }
}

void test_class_set_is_drained_in_order() {
  ClassSet classes;
  for (const std::size_t num_classes : {1U, 63U, 64U, 65U, 4096U, 4097U, 300'000U}) {
    classes.resize(num_classes);
    for (std::uint64_t round = 0; round < 3; ++round) {
      std::set<std::int64_t> expected{static_cast<std::int64_t>(num_classes - 1)};
      for (std::uint64_t i = 0; i < 1000; ++i)
        expected.insert(static_cast<std::int64_t>(RandomStream(round, Purpose::kBatchOrder, 5).word(i) % num_classes));
      for (const std::int64_t class_id : expected) classes.insert(class_id);
      classes.insert(*expected.begin());
      std::vector<std::int64_t> ascending;
      classes.drain_to(ascending);
      CHECK(std::ranges::equal(ascending, expected));
      ascending.clear();
      classes.drain_to(ascending);
      CHECK(ascending.empty());
    }
  }
}

void check_against_reference(const Proportions& proportions, std::int64_t batch_size, int steps) {
  const std::uint64_t seed = 77;
  Apportioner apportioner(seed, batch_size);
  const ReferenceApportioner reference(seed, batch_size);
  std::vector<DueTime> due(proportions.size());
  apportioner.start(proportions, 0, due);
  auto expected_due = reference.start(proportions, 0);
  CHECK(due == expected_due);
  apportioner.set(proportions, due);
  for (int step = 0; step < steps; ++step) {
    if (step % 7 == 5) apportioner.set(proportions, due);  // as after a restart: nothing else is remembered
    CHECK(next_quotas(apportioner, due, batch_size) == reference.next(proportions, expected_due));
    CHECK(due == expected_due);
  }
}

void test_quotas_are_those_of_the_reference() {
  for (const std::size_t num_classes : {1U, 2U, 3U, 10U, 100U, 2000U})
    for (const std::int64_t batch_size : {1, 2, 7, 64, 1000})
      check_against_reference(long_tailed(num_classes, 1), batch_size, 60);
  for (const std::int64_t batch_size : {1, 2, 3, 5, 10, 99, 100, 1024}) {
    check_against_reference({1.0}, batch_size, 20);
    check_against_reference({1.0 / 3, 1.0 / 3, 1.0 / 3}, batch_size, 60);
    check_against_reference(normalised(Proportions(10, 0.1)), batch_size, 60);
    check_against_reference(Proportions(10, 0.1), batch_size, 60);
    check_against_reference(normalised(Proportions(7, 1.0)), batch_size, 60);
    check_against_reference({1 - 1e-12, 1e-12}, batch_size, 60);
    check_against_reference({0.5, 0.0, 0.5, 0.0}, batch_size, 60);
    check_against_reference(normalised({1.0, 1e-300, 1e-12, 3.0}), batch_size, 60);
  }
}

void test_ties_go_to_the_smaller_class() {
  Apportioner apportioner(1, 2);
  const Proportions proportions(4, 0.25);
  std::vector<DueTime> due(4, DueTime{0, 1.0});
  apportioner.set(proportions, due);
  CHECK((next_quotas(apportioner, due, 2) == std::vector<std::int64_t>{1, 1, 0, 0}));
  CHECK((next_quotas(apportioner, due, 2) == std::vector<std::int64_t>{0, 0, 1, 1}));
}

void test_quotas_of_a_million_classes_are_exact() {
  for (const std::int64_t batch_size : {std::int64_t{1024}, std::int64_t{std::numeric_limits<std::int32_t>::max()}}) {
    for (const auto& proportions : {long_tailed(1'000'000, 2), Proportions(1'000'000, 1e-6)}) {
      Apportioner apportioner(5, batch_size);
      std::vector<DueTime> due(proportions.size());
      apportioner.start(proportions, 0, due);
      apportioner.set(proportions, due);
      const int steps = batch_size == 1024 ? 500 : 2;
      for (int step = 0; step < steps; ++step) {
        std::int64_t sum = 0;
        for (const auto& [class_id, rows] : apportioner.next(due)) {
          const double wanted = proportions[static_cast<std::size_t>(class_id)] * static_cast<double>(batch_size);
          CHECK(static_cast<double>(rows) == std::floor(wanted) || static_cast<double>(rows) == std::floor(wanted) + 1);
          sum += rows;
        }
        CHECK(sum == batch_size);
      }
    }
  }
}

void check_drift(const Proportions& proportions, std::int64_t batch_size, int steps) {
  const std::size_t num_classes = proportions.size();
  Apportioner apportioner(9, batch_size);
  std::vector<DueTime> due(num_classes);
  apportioner.start(proportions, 0, due);
  apportioner.set(proportions, due);
  std::vector<double> whole, fraction;
  double classes = 0, extra = static_cast<double>(batch_size);
  for (const double p : proportions) {
    whole.push_back(std::floor(p * static_cast<double>(batch_size)));
    fraction.push_back(p * static_cast<double>(batch_size) - whole.back());
    if (fraction.back() > 0) ++classes;
    extra -= whole.back();
  }
  std::vector<std::int64_t> total(num_classes, 0);
  std::vector<int> last(num_classes, -1);
  for (int step = 0; step < steps; ++step) {
    const auto quotas = next_quotas(apportioner, due, batch_size);
    for (std::size_t k = 0; k < num_classes; ++k) {
      const auto quota = static_cast<double>(quotas[k]);
      CHECK(quota == whole[k] || (quota == whole[k] + 1 && fraction[k] > 0));
      total[k] += quotas[k];
      // All dues served are at most one time T, so each class had its share of T to within one row, and all of them
      // together were `extra` rows a step: T is within classes / extra of the step, for ever.
      const double lag = fraction[k] > 0 ? classes / extra : 0.0;
      const double wanted = (whole[k] + fraction[k]) * (step + 1);
      CHECK(std::abs(static_cast<double>(total[k]) - wanted) <= 2 + fraction[k] * lag);
      if (quota > whole[k]) {
        CHECK(step - last[k] <= 2 / fraction[k] + 2 * lag + 1);  // no gap beyond twice the mean
        last[k] = step;
      }
    }
  }
}

void test_drift_and_gaps_are_bounded() {
  check_drift(Proportions(100, 0.01), 50, 5000);
  check_drift({1.0 / 3, 1.0 / 3, 1.0 / 3}, 100, 5000);
  check_drift(normalised(Proportions(10, 0.1)), 7, 5000);
  check_drift(long_tailed(50, 3), 16, 5000);
  check_drift(normalised({1.0, 1e-3, 1e-2}), 33, 20'000);
}

void test_classes_meet_in_many_ways() {
  Apportioner apportioner(2, 50);
  const Proportions proportions(100, 0.01);
  std::vector<DueTime> due(100);
  apportioner.start(proportions, 0, due);
  apportioner.set(proportions, due);
  std::set<std::vector<std::int64_t>> sets;
  for (int step = 0; step < 1000; ++step) sets.insert(next_quotas(apportioner, due, 50));
  CHECK(sets.size() > 990);
}

void test_what_is_owed_stays_owed_over_changes() {
  const std::int64_t batch_size = 37;
  for (const int every : {1, 3, 50}) {
    Apportioner apportioner(4, batch_size);
    const ReferenceApportioner reference(4, batch_size);
    Proportions proportions = long_tailed(20, 0);
    std::vector<DueTime> due(20);
    apportioner.start(proportions, 0, due);
    apportioner.set(proportions, due);
    std::vector<double> owed(20, 0.0);
    for (std::uint64_t step = 0; step < 3000; ++step) {
      if (step > 0 && step % static_cast<std::uint64_t>(every) == 0) {
        const Proportions changed = long_tailed(20, step);
        auto expected_due = due;
        reference.change(proportions, changed, step, expected_due);
        apportioner.change(proportions, changed, step, due);
        CHECK(due == expected_due);
        apportioner.set(changed, due);
        proportions = changed;
      }
      const auto quotas = next_quotas(apportioner, due, batch_size);
      for (std::size_t k = 0; k < owed.size(); ++k) {
        owed[k] += proportions[k] * static_cast<double>(batch_size) - static_cast<double>(quotas[k]);
        CHECK(std::abs(owed[k]) < 5);
      }
    }
  }
}

void test_shares_that_come_and_go() {
  const std::int64_t batch_size = 4;
  Apportioner apportioner(6, batch_size);
  const ReferenceApportioner reference(6, batch_size);
  const Proportions all_whole{0.25, 0.5, 0.25, 0.0}, no_first{0.0, 0.3, 0.3, 0.4}, no_last{0.6, 0.3, 0.1, 0.0};
  Proportions proportions = no_last;
  std::vector<DueTime> due(4);
  apportioner.start(proportions, 100, due);
  CHECK(due == reference.start(proportions, 100));
  CHECK(due[3] == DueTime{});
  std::uint64_t step = 100;
  for (const auto& changed : {no_first, no_first, all_whole, no_first, no_last, all_whole}) {
    auto expected_due = due;
    const auto before = due;
    reference.change(proportions, changed, step, expected_due);
    apportioner.change(proportions, changed, step, due);
    CHECK(due == expected_due);
    if (changed == proportions) CHECK(due == before);
    if (changed == all_whole) CHECK(std::ranges::all_of(due, [](const DueTime& time) { return time.due == 0; }));
    proportions = changed;
    apportioner.set(proportions, due);
    for (int i = 0; i < 30; ++i, ++step)
      CHECK(next_quotas(apportioner, due, batch_size) == reference.next(proportions, expected_due));
    CHECK(due == expected_due);
  }
}

}  // namespace
}  // namespace l2m::test

int main() {
  using namespace l2m::test;
  test_due_queue_gives_the_smallest();
  test_class_set_is_drained_in_order();
  test_quotas_are_those_of_the_reference();
  test_ties_go_to_the_smaller_class();
  test_quotas_of_a_million_classes_are_exact();
  test_drift_and_gaps_are_bounded();
  test_classes_meet_in_many_ways();
  test_what_is_owed_stays_owed_over_changes();
  test_shares_that_come_and_go();
}
