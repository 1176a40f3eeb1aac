#include "l2m/plan/permutation.hpp"

#include <algorithm>
#include <array>
#include <atomic>
#include <cmath>
#include <cstdint>
#include <initializer_list>
#include <memory>
#include <numeric>
#include <optional>
#include <span>
#include <thread>
#include <utility>
#include <vector>

#include "check.hpp"
#include "l2m/base/random.hpp"
#include "reference.hpp"

namespace l2m::test {
namespace {

constexpr std::int64_t kSplit = Permutation::kUnsplitRows + 9;  // rows of a class that is split into buckets

/// Index of classes of the given sizes, with randomly interleaved rows.
struct Classes {
  explicit Classes(const std::vector<std::int64_t>& sizes) {
    for (std::size_t k = 0; k < sizes.size(); ++k)
      class_of_row.insert(class_of_row.end(), static_cast<std::size_t>(sizes[k]), static_cast<std::int32_t>(k));
    reference_fisher_yates(std::span(class_of_row), some_randomness(99));
    rows = rows_of_classes(class_of_row, std::ssize(sizes));
  }

  [[nodiscard]] std::shared_ptr<const ClassIndex> index(int min_id_bytes = 2) const {
    return std::make_shared<const ClassIndex>(std::span<const std::int32_t>(class_of_row), std::ssize(rows),
                                              std::ssize(class_of_row), std::nullopt, 2, false, min_id_bytes);
  }

  std::vector<std::int32_t> class_of_row;
  ClassRows rows;
};

std::vector<std::int64_t> iota(std::int64_t size) {
  std::vector<std::int64_t> rows(static_cast<std::size_t>(size));
  std::iota(rows.begin(), rows.end(), 0);
  return rows;
}

std::vector<std::int64_t> ids_of(const RowIds& rows) {
  return rows.visit([](auto ids) { return std::vector<std::int64_t>(ids.begin(), ids.end()); });
}

void test_permutation_equals_the_reference() {
  constexpr std::int64_t kUnsplit = Permutation::kUnsplitRows;
  for (const std::int64_t size :
       std::initializer_list<std::int64_t>{0, 1, 2, 1000, kUnsplit, kUnsplit + 1, kUnsplit + 2, kUnsplit + 3,
                                           2 * kUnsplit + 77, 70 * Permutation::kPartRows + 1}) {
    const std::uint64_t seed = 5, pass = 3;
    const auto expected = reference_permutation(iota(size), seed, 0, pass);
    for (const int id_bytes : id_sizes(size)) {
      const RowIds none, target(size, id_bytes);
      Permutation permutation(none, target, 0, size, seed, 0, pass);
      for (; !permutation.done(); permutation.next_stage())
        for (std::int64_t task = permutation.tasks(); task-- > 0;) permutation.run(task);  // any order works
      CHECK(permutation.tasks() == 0);
      CHECK(ids_of(target) == expected);
    }
  }
}

void test_permutations_are_uniform() {
  std::array<int, 24> count{};
  const RowIds none, target(4, 2);
  constexpr int kPasses = 24'000;
  for (std::uint64_t pass = 0; pass < kPasses; ++pass) {
    Permutation(none, target, 0, 4, 11, 0, pass).run(0);
    const auto order = ids_of(target);
    std::size_t number = 0;
    for (std::size_t i = 0; i < 4; ++i)
      number = number * (4 - i) +
               static_cast<std::size_t>(std::count_if(order.begin() + static_cast<std::ptrdiff_t>(i), order.end(),
                                                      [&](std::int64_t row) { return row < order[i]; }));
    ++count[number];
  }
  double chi2 = 0;
  for (const int c : count) chi2 += (c - 1000.0) * (c - 1000.0) / 1000.0;
  CHECK(chi2 < 49.7);  // p = 0.001 with 23 degrees of freedom
}

void test_large_permutations_are_uniform() {
  // Split class: the position of a row is independent of its id and of its neighbor.
  const std::int64_t size = kSplit;
  const RowIds none, target(size, RowIds::bytes_for(size));
  shuffle_all(ClassIndex(size), 17, 0, 2, target);
  const auto order = ids_of(target);
  const double mean = static_cast<double>(size - 1) / 2;
  const double variance = (static_cast<double>(size) * static_cast<double>(size) - 1) / 12;
  double with_position = 0, with_neighbor = 0;
  for (std::size_t i = 0; i < order.size(); ++i) {
    const double centered = static_cast<double>(order[i]) - mean;
    with_position += centered * (static_cast<double>(i) - mean);
    with_neighbor += centered * (static_cast<double>(order[(i + 1) % order.size()]) - mean);
  }
  const double deviation = std::sqrt(static_cast<double>(size));
  CHECK(std::abs(with_position / variance / deviation) < 4);
  CHECK(std::abs(with_neighbor / variance / deviation) < 4);
  CHECK(order != iota(size));
}

void test_shuffling_all_classes_equals_the_reference() {
  const std::vector<std::vector<std::int64_t>> cases = {
      {0, 1, 5, 0, 300, kSplit, 2, 30'000, 0},
      std::vector<std::int64_t>(3000, 1),
      {0, 0, 7},
      std::vector<std::int64_t>(5, Permutation::kUnsplitRows / 3),  // several tasks of several classes
  };
  for (const auto& sizes : cases) {
    const Classes classes(sizes);
    std::vector<std::int64_t> expected;
    for (std::size_t k = 0; k < sizes.size(); ++k) {
      const auto order = reference_permutation(classes.rows[k], 8, k, 2);
      expected.insert(expected.end(), order.begin(), order.end());
    }
    for (const int id_bytes : id_sizes(std::ssize(classes.class_of_row))) {
      const auto index = classes.index(id_bytes);
      for (const int threads : kThreadCounts) {
        const RowIds target(index->num_rows(), id_bytes);
        shuffle_all(*index, 8, 2, threads, target);
        CHECK(ids_of(target) == expected);
      }
    }
  }
}

/// Passes, with threads that call work().
struct Maker {
  Maker(std::shared_ptr<const ClassIndex> index, std::uint64_t seed, bool shuffle, int threads)
      : passes(std::move(index), seed, shuffle, threads > 0) {
    for (int i = 0; i < usable_threads(threads); ++i) helpers.emplace_back([this] { help(); });
  }
  ~Maker() {
    done = true;
    for (std::thread& helper : helpers) helper.join();
  }
  Maker(const Maker&) = delete;
  Maker& operator=(const Maker&) = delete;

  void help() {
    while (!done)
      if (!passes.has_work() || !passes.work()) std::this_thread::yield();
  }

  std::vector<std::int64_t> copy(std::size_t k, std::uint64_t pass, std::int64_t begin, std::int64_t count) {
    std::vector<std::int64_t> rows;
    passes.visit(static_cast<std::int64_t>(k), pass, [&](auto row_at) {
      for (std::int64_t i = 0; i < count; ++i) rows.push_back(row_at(begin + i));
    });
    return rows;
  }

  Passes passes;
  std::atomic<bool> done = false;
  std::vector<std::thread> helpers;
};

bool is_part(const std::vector<std::int64_t>& part, const std::vector<std::int64_t>& of, std::int64_t begin) {
  return std::equal(part.begin(), part.end(), of.begin() + static_cast<std::ptrdiff_t>(begin));
}

/// Return the first passes of each class: [class][pass].
std::vector<ClassRows> orders_of(const Classes& classes, std::uint64_t seed, std::uint64_t passes) {
  std::vector<ClassRows> orders;
  for (std::size_t k = 0; k < classes.rows.size(); ++k) {
    orders.emplace_back();
    for (std::uint64_t pass = 0; pass < passes; ++pass)
      orders[k].push_back(reference_permutation(classes.rows[k], seed, k, pass));
  }
  return orders;
}

void test_passes_follow_each_other() {
  const Classes classes({3, 0, 30'000, kSplit, 1});
  const auto orders = orders_of(classes, 21, 3);
  const auto narrow = classes.index(), wide = classes.index(RowIds::kMaxBytes);
  for (const int threads : kThreadCounts) {
    Maker maker(threads % 2 == 0 ? narrow : wide, 21, true, threads);
    for (std::size_t pass = 0; pass < 3; ++pass) {
      for (std::size_t k = 0; k < orders.size(); ++k) {
        const std::int64_t size = std::ssize(orders[k][pass]);
        for (std::int64_t begin = 0, count = 0; begin < size; begin += count) {
          count = std::min(size - begin, size / 3 + 1);
          CHECK(is_part(maker.copy(k, pass, begin, count), orders[k][pass], begin));
        }
      }
    }
  }
}

void test_any_pass_is_available_at_any_time() {
  const Classes classes({30'000, kSplit, 10});
  const auto orders = orders_of(classes, 4, 4);
  const auto index = classes.index();
  for (const int threads : kThreadCounts) {
    Maker maker(index, 4, true, threads);
    maker.passes.prepare(1, 1);
    maker.passes.prepare(1, 3);  // takes the buffer of pass 1, which may be in progress
    maker.passes.prepare(0, 0);
    for (const std::size_t pass : {1U, 2U, 1U, 0U, 3U}) {
      for (std::size_t k = 0; k < orders.size(); ++k)
        CHECK(maker.copy(k, pass, 0, std::ssize(classes.rows[k])) == orders[k][pass]);
      maker.passes.prepare(1, pass + 10);  // canceled again at once
    }
  }
}

void test_passes_in_progress_may_be_canceled() {
  const Classes classes({kSplit, 20'000, 50'000});
  const auto index = classes.index();
  const auto expected = reference_permutation(classes.rows[1], 6, 1, 0);
  for (const int threads : kThreadCounts) {
    for (int round = 0; round < 4; ++round) {
      Maker maker(index, 6, true, threads);
      for (std::int64_t k = 0; k < 3; ++k) maker.passes.prepare(k, 0);
      if (round % 2 == 0) CHECK(is_part(maker.copy(1, 0, 1000, 50), expected, 1000));
    }
  }
}

void test_there_is_work_while_passes_are_computed() {
  Passes passes(std::make_shared<const ClassIndex>(kSplit), 3, true, true);
  CHECK(!passes.has_work() && !passes.work());
  passes.prepare(0, 0);
  std::int64_t tasks = 0;
  while (passes.has_work()) {
    CHECK(passes.work());
    ++tasks;
  }
  CHECK(!passes.work());
  CHECK(tasks == 9 + 9 + 8);  // parts are counted and scattered, buckets are shuffled
  std::vector<std::int64_t> rows;
  passes.visit(0, 0, [&](auto row_at) {
    for (std::int64_t i = 0; i < kSplit; ++i) rows.push_back(row_at(i));
  });
  CHECK(rows == reference_permutation(iota(kSplit), 3, 0, 0));
  CHECK(passes.has_work());  // the next pass
  passes.prepare(0, 3);      // takes its buffer
  CHECK(passes.has_work());
}

void test_without_shuffling_rows_ascend() {
  const Classes classes({5, 0, 30'000});
  for (const int threads : kThreadCounts) {
    Maker maker(classes.index(threads % 2 == 1 ? RowIds::kMaxBytes : 2), 1, false, threads);
    Maker one_class(std::make_shared<const ClassIndex>(1000), 1, false, threads);
    for (std::uint64_t pass = 0; pass < 3; ++pass) {
      maker.passes.prepare(2, pass);  // must not touch a buffer, since there is none
      CHECK(maker.copy(0, pass, 0, 5) == classes.rows[0]);
      CHECK(is_part(maker.copy(2, pass, 100, 900), classes.rows[2], 100));
      CHECK(is_part(one_class.copy(0, pass, 10, 500), iota(1000), 10));
    }
  }
}

void test_one_class_of_all_rows_is_shuffled() {
  for (const std::int64_t size : std::initializer_list<std::int64_t>{10, 30'000, kSplit}) {
    const ClassRows orders{reference_permutation(iota(size), 2, 0, 0), reference_permutation(iota(size), 2, 0, 1)};
    for (const int threads : kThreadCounts) {
      Maker maker(std::make_shared<const ClassIndex>(size), 2, true, threads);
      for (std::size_t pass = 0; pass < 2; ++pass) CHECK(maker.copy(0, pass, 0, size) == orders[pass]);
    }
  }
}

}  // namespace
}  // namespace l2m::test

int main() {
  using namespace l2m::test;
  test_permutation_equals_the_reference();
  test_permutations_are_uniform();
  test_large_permutations_are_uniform();
  test_shuffling_all_classes_equals_the_reference();
  test_passes_follow_each_other();
  test_any_pass_is_available_at_any_time();
  test_passes_in_progress_may_be_canceled();
  if (l2m::kHasThreads) test_there_is_work_while_passes_are_computed();
  test_without_shuffling_rows_ascend();
  test_one_class_of_all_rows_is_shuffled();
}
