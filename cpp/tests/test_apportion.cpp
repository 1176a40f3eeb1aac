#include "l2m/plan/apportion.hpp"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <numeric>
#include <set>
#include <utility>
#include <vector>

#include "check.hpp"
#include "l2m/base/random.hpp"
#include "l2m/mixing/proportions.hpp"
#include "reference.hpp"

namespace l2m::test {
namespace {

Proportions normalized(Proportions proportions) {
  double sum = 0;
  for (const double p : proportions) sum += p;
  for (double& p : proportions) p /= sum;
  normalize(proportions, std::vector<std::int64_t>(proportions.size(), 1));
  return proportions;
}

/// Return proportions over several orders of magnitude.
Proportions long_tailed(std::size_t num_classes, std::uint64_t number) {
  const RandomStream random(number, Purpose::kBatchOrder, num_classes);
  Proportions proportions;
  for (std::size_t k = 0; k < num_classes; ++k) proportions.push_back(std::pow(uniform(random, k), 4.0) + 1e-6);
  return normalized(proportions);
}

using Rows = std::vector<std::int64_t>;

/// Return the quotas of the next batches for all classes, [batches][K], after checking their guarantees.
std::vector<Rows> next_quotas(Apportioner& apportioner, std::uint64_t step, std::int64_t max_batches, DueTimes& due,
                              std::int64_t batch_size) {
  Quotas quotas;
  apportioner.next(step, max_batches, due, quotas);
  CHECK(quotas.num_batches >= 1 && quotas.num_batches <= max_batches);
  std::vector<Rows> rows(static_cast<std::size_t>(quotas.num_batches), Rows(due.due.size(), 0));
  std::int64_t before = -1;
  for (const auto& [class_id, whole, begin, end] : quotas.classes) {
    CHECK(class_id > before && class_id < std::ssize(due.due));
    CHECK(whole > 0 || begin < end);
    before = class_id;
    const auto k = static_cast<std::size_t>(class_id);
    for (Rows& of_batch : rows) of_batch[k] = whole;
    for (std::size_t extra = begin; extra < end; ++extra) {
      CHECK(extra == begin || quotas.batch[extra] > quotas.batch[extra - 1]);
      CHECK(quotas.batch[extra] >= 0 && quotas.batch[extra] < quotas.num_batches);
      ++rows[static_cast<std::size_t>(quotas.batch[extra])][k];
    }
    if (begin < end) CHECK(due.due[k] == quotas.due[end]);
  }
  for (const Rows& of_batch : rows)
    CHECK(std::accumulate(of_batch.begin(), of_batch.end(), std::int64_t{0}) == batch_size);
  return rows;
}

/// Apportioner with its due times after start().
struct Started {
  Started(std::uint64_t seed, std::int64_t size, const Proportions& proportions)
      : batch_size(size), apportioner(seed, size) {
    apportioner.start(proportions, 0, due);
    apportioner.set(proportions);
  }

  /// Return the quotas of `steps` batches, computed some at a time.
  std::vector<Rows> next(std::uint64_t steps) {
    std::vector<Rows> all;
    while (all.size() < steps) {
      const std::int64_t max_batches =
          std::min<std::int64_t>(1 + 7 * (calls++ % 10), static_cast<std::int64_t>(steps - all.size()));
      for (Rows& rows : next_quotas(apportioner, step, max_batches, due, batch_size)) {
        all.push_back(std::move(rows));
        ++step;
      }
    }
    return all;
  }

  std::int64_t batch_size;
  Apportioner apportioner;
  DueTimes due;
  std::uint64_t step = 0;
  int calls = 0;
};

void check_against_reference(const Proportions& proportions, std::int64_t batch_size, std::uint64_t steps) {
  const ReferenceApportioner reference(77, batch_size);
  Started started(77, batch_size, proportions);
  auto expected_due = reference.start(proportions, 0);
  CHECK(started.due == expected_due);
  while (started.step < steps) {
    for (const Rows& rows : started.next(1 + started.step % 23))
      CHECK(rows == reference.next(proportions, expected_due));
    CHECK(started.due == expected_due);
  }
}

void test_quotas_equal_the_reference() {
  for (const std::size_t num_classes : {1U, 2U, 3U, 10U, 100U, 2000U})
    for (const std::int64_t batch_size : {1, 2, 7, 64, 1000})
      check_against_reference(long_tailed(num_classes, 1), batch_size, 200);
  for (const std::int64_t batch_size : {1, 2, 3, 5, 10, 99, 100, 1024}) {
    check_against_reference({1.0}, batch_size, 20);
    check_against_reference({1.0 / 3, 1.0 / 3, 1.0 / 3}, batch_size, 200);
    check_against_reference(normalized(Proportions(10, 0.1)), batch_size, 200);
    check_against_reference(Proportions(10, 0.1), batch_size, 200);
    check_against_reference(normalized(Proportions(7, 1.0)), batch_size, 200);
    check_against_reference({1 - 1e-12, 1e-12}, batch_size, 200);
    check_against_reference({0.5, 0.0, 0.5, 0.0}, batch_size, 200);
    check_against_reference(normalized({1.0, 1e-300, 1e-12, 3.0}), batch_size, 200);
    check_against_reference(normalized({0.999, 0.9, 0.8, 0.99, 0.95}), batch_size, 200);  // fractions near 1
  }
}

void test_arbitrary_due_times_follow_the_rule() {
  // Such due times do not occur in training but may be in a saved state. Each batch must still follow the rule.
  const std::size_t num_classes = 300;
  const Proportions proportions = long_tailed(num_classes, 8);
  for (const double scale : {0.0, 1e-300, 1.0, 1e4, 1e15, 1e19, 1e300}) {
    for (const std::uint64_t step : {std::uint64_t{0}, std::uint64_t{1000}, std::uint64_t{1} << 62}) {
      const ReferenceApportioner reference(3, 64);
      Apportioner apportioner(3, 64);
      apportioner.set(proportions);
      DueTimes due{std::vector<std::uint64_t>(num_classes, 5), std::vector<std::uint16_t>(num_classes, 100), {}};
      const RandomStream random(3, Purpose::kBatchOrder, 1);
      for (std::size_t k = 0; k < num_classes; ++k)
        due.due.push_back(static_cast<double>(step) +
                          scale * (std::floor(16 * uniform(random, k)) / 8 - 1));  // includes ties
      DueTimes expected_due = due;
      for (std::uint64_t done = 0; done < 30;) {
        for (const Rows& rows : next_quotas(apportioner, step + done, 30, due, 64)) {
          CHECK(rows == reference.next(proportions, expected_due));
          ++done;
        }
        CHECK(due == expected_due);
      }
    }
  }
}

void test_ties_go_to_the_smaller_class() {
  for (const std::int64_t max_batches : {1, 2}) {
    Apportioner apportioner(1, 2);
    const Proportions proportions(4, 0.25);
    apportioner.set(proportions);
    DueTimes due{{0, 0, 0, 0}, {0, 0, 0, 0}, {1.0, 1.0, 1.0, 1.0}};
    auto rows = next_quotas(apportioner, 0, max_batches, due, 2);
    while (rows.size() < 2) rows.push_back(next_quotas(apportioner, 1, 1, due, 2)[0]);
    CHECK((rows[0] == Rows{1, 1, 0, 0}));
    CHECK((rows[1] == Rows{0, 0, 1, 1}));
  }
}

void test_quotas_of_a_million_classes_are_exact() {
  for (const std::int64_t batch_size : {std::int64_t{1024}, std::int64_t{std::numeric_limits<std::int32_t>::max()}}) {
    for (const auto& proportions : {long_tailed(1'000'000, 2), Proportions(1'000'000, 1e-6)}) {
      Started started(5, batch_size, proportions);
      const std::uint64_t steps = batch_size == 1024 ? 500 : 2;
      Quotas quotas;
      for (std::uint64_t step = 0; step < steps; step += static_cast<std::uint64_t>(quotas.num_batches)) {
        started.apportioner.next(step, batch_size == 1024 ? 100 : 1, started.due, quotas);
        std::vector<std::int64_t> sum(static_cast<std::size_t>(quotas.num_batches), 0);
        for (const auto& [class_id, whole, begin, end] : quotas.classes) {
          CHECK(whole == static_cast<std::int64_t>(std::floor(proportions[static_cast<std::size_t>(class_id)] *
                                                              static_cast<double>(batch_size))));
          for (auto& of_batch : sum) of_batch += whole;
          for (std::size_t i = begin; i < end; ++i) ++sum[static_cast<std::size_t>(quotas.batch[i])];
        }
        for (const std::int64_t of_batch : sum) CHECK(of_batch == batch_size);
      }
    }
  }
}

void check_drift(const Proportions& proportions, std::int64_t batch_size, std::uint64_t steps) {
  const std::size_t num_classes = proportions.size();
  Started started(9, batch_size, proportions);
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
  int step = 0;
  for (const Rows& quotas : started.next(steps)) {
    for (std::size_t k = 0; k < num_classes; ++k) {
      const auto quota = static_cast<double>(quotas[k]);
      CHECK(quota == whole[k] || (quota == whole[k] + 1 && fraction[k] > 0));
      total[k] += quotas[k];
      // All due times served are at most some time T, so each class had its share of T to within one row. All classes
      // together had `extra` rows per step, so T always stays within classes / extra of the step.
      const double lag = fraction[k] > 0 ? classes / extra : 0.0;
      const double wanted = (whole[k] + fraction[k]) * (step + 1);
      CHECK(std::abs(static_cast<double>(total[k]) - wanted) <= 2 + fraction[k] * lag);
      if (quota > whole[k]) {
        CHECK(step - last[k] <= 1.5 / fraction[k] + 2 * lag + 1);  // due times are at most 1.5 intervals apart
        last[k] = step;
      }
    }
    ++step;
  }
}

void test_drift_and_gaps_are_bounded() {
  check_drift(Proportions(100, 0.01), 50, 5000);
  check_drift({1.0 / 3, 1.0 / 3, 1.0 / 3}, 100, 5000);
  check_drift(normalized(Proportions(10, 0.1)), 7, 5000);
  check_drift(long_tailed(50, 3), 16, 5000);
  check_drift(normalized({1.0, 1e-3, 1e-2}), 33, 20'000);
}

void test_classes_share_batches_in_many_combinations() {
  Started started(2, 50, Proportions(100, 0.01));
  const auto rows = started.next(1000);
  CHECK(std::set(rows.begin(), rows.end()).size() > 990);
}

void test_owed_rows_survive_changes_of_proportions() {
  const std::int64_t batch_size = 37;
  for (const std::uint64_t every : {1U, 3U, 50U}) {
    Proportions proportions = long_tailed(20, 0);
    const ReferenceApportioner reference(4, batch_size);
    Started started(4, batch_size, proportions);
    std::vector<double> owed(20, 0.0);
    while (started.step < 3000) {
      for (const Rows& quotas : started.next(every)) {
        for (std::size_t k = 0; k < owed.size(); ++k) {
          owed[k] += proportions[k] * static_cast<double>(batch_size) - static_cast<double>(quotas[k]);
          CHECK(std::abs(owed[k]) < 5);
        }
      }
      const Proportions changed = long_tailed(20, started.step);
      auto expected_due = started.due;
      reference.change(proportions, changed, started.step, expected_due);
      started.apportioner.change(proportions, changed, started.step, started.due);
      CHECK(started.due == expected_due);
      started.apportioner.set(changed);
      proportions = changed;
    }
  }
}

/// A class whose quota is whole in every other window is owed no more at the end than at the beginning.
void test_owed_rows_survive_shares_that_vanish() {
  const std::int64_t batch_size = 10;
  const Proportions odd = normalized({0.123, 0.271, 0.606}), whole{0.1, 0.3, 0.6};
  Started started(3, batch_size, odd);
  std::vector<double> owed(3, 0.0);
  for (int window = 0; window < 4000; ++window) {
    const Proportions& now = window % 2 == 0 ? odd : whole;
    const Proportions& next = window % 2 == 0 ? whole : odd;
    for (const Rows& quotas : started.next(3)) {
      for (std::size_t k = 0; k < owed.size(); ++k) {
        owed[k] += now[k] * static_cast<double>(batch_size) - static_cast<double>(quotas[k]);
        CHECK(std::abs(owed[k]) < 3);
      }
    }
    started.apportioner.change(now, next, started.step, started.due);
    started.apportioner.set(next);
  }
}

/// Return the longest gap in mean gaps over classes that have less than 0.1 extra rows per batch.
double longest_gap_of_rare(const Proportions& proportions, std::int64_t batch_size, std::uint64_t steps) {
  Started started(11, batch_size, proportions);
  std::vector<int> last(proportions.size(), -1);
  double longest = 0;
  int step = 0;
  for (const Rows& quotas : started.next(steps)) {
    for (std::size_t k = 0; k < quotas.size(); ++k) {
      const double rows = proportions[k] * static_cast<double>(batch_size);
      if (rows > 0.1 || quotas[k] == 0) continue;
      if (last[k] >= 0) longest = std::max(longest, (step - last[k]) * rows);
      last[k] = step;
    }
    ++step;
  }
  return longest;
}

void test_rare_classes_have_no_long_gaps() {
  Proportions one_large(18, 0.05);
  one_large[0] = 0.15;
  Proportions several(40, 0.01);
  for (std::size_t k = 0; k < 6; ++k) several[k] = 0.11;
  for (const auto& [proportions, batch_size] :
       {std::pair{Proportions(10, 0.1), std::int64_t{1}}, std::pair{Proportions(1000, 0.001), std::int64_t{3}},
        std::pair{normalized(one_large), std::int64_t{1}}, std::pair{normalized(several), std::int64_t{2}},
        std::pair{long_tailed(30, 5), std::int64_t{4}}, std::pair{long_tailed(200, 6), std::int64_t{16}}})
    CHECK(longest_gap_of_rare(proportions, batch_size, 100'000) < 2.2);
}

void test_shares_that_appear_and_vanish() {
  const std::int64_t batch_size = 4;
  Apportioner apportioner(6, batch_size);
  const ReferenceApportioner reference(6, batch_size);
  const Proportions all_whole{0.25, 0.5, 0.25, 0.0}, no_first{0.0, 0.3, 0.3, 0.4}, no_last{0.6, 0.3, 0.1, 0.0};
  Proportions proportions = no_last;
  DueTimes due;
  apportioner.start(proportions, 100, due);
  CHECK(due == reference.start(proportions, 100));
  CHECK(due.visits[3] == 0 && due.due[3] == due.offsets[3] * 0x1p-16);  // not entitled to any part of a row yet
  std::uint64_t step = 100;
  for (const auto& changed : {no_first, no_first, all_whole, no_first, no_last, all_whole}) {
    auto expected_due = due;
    const auto before = due;
    reference.change(proportions, changed, step, expected_due);
    apportioner.change(proportions, changed, step, due);
    CHECK(due == expected_due);
    if (changed == proportions) CHECK(due == before);
    proportions = changed;
    apportioner.set(proportions);
    for (const std::uint64_t end = step + 30; step < end;) {
      for (const Rows& rows : next_quotas(apportioner, step, static_cast<std::int64_t>(end - step), due, batch_size)) {
        CHECK(rows == reference.next(proportions, expected_due));
        ++step;
      }
    }
    CHECK(due == expected_due);
  }
}

void test_batches_at_once_are_few_enough_for_the_address_space() {
  constexpr std::int64_t kMany = std::numeric_limits<std::int64_t>::max();
  CHECK(Apportioner::max_batches_at_once(5, 7) == 7);
  for (const std::int64_t extra_rows : {std::int64_t{1}, std::int64_t{1000}, std::int64_t{1} << 20}) {
    const std::int64_t batches = Apportioner::max_batches_at_once(extra_rows, kMany);
    CHECK(batches > 0 && extra_rows * (batches + 1) < std::min<std::int64_t>(std::int64_t{1} << 31, PTRDIFF_MAX / 64));
  }
  // On a 32-bit machine, 2^31 extra rows of 2 batches would be 0 rows.
  CHECK(Apportioner::max_batches_at_once((std::int64_t{1} << 31) - 1, kMany) <= 0);
}

}  // namespace
}  // namespace l2m::test

int main() {
  using namespace l2m::test;
  test_quotas_equal_the_reference();
  test_arbitrary_due_times_follow_the_rule();
  test_ties_go_to_the_smaller_class();
  test_quotas_of_a_million_classes_are_exact();
  test_drift_and_gaps_are_bounded();
  test_rare_classes_have_no_long_gaps();
  test_classes_share_batches_in_many_combinations();
  test_owed_rows_survive_changes_of_proportions();
  test_owed_rows_survive_shares_that_vanish();
  test_shares_that_appear_and_vanish();
  test_batches_at_once_are_few_enough_for_the_address_space();
}
