#include "l2m/plan/passes.hpp"

#include <algorithm>
#include <array>
#include <cstdint>
#include <initializer_list>
#include <memory>
#include <set>
#include <span>
#include <stdexcept>
#include <utility>
#include <vector>

#include "check.hpp"
#include "pass_threads.hpp"
#include "reference.hpp"
#include "some_classes.hpp"

namespace l2m::test {
namespace {

constexpr std::int64_t kSplit = Permutation::kUnsplitRows + 9;  // rows of a class that is split into buckets
const std::set<std::int64_t> kSliceCounts{1, std::min<std::int64_t>(2, Permutation::kMaxSlices),
                                          Permutation::kMaxSlices};

/// Passes, with threads that work on them.
struct Maker {
  Maker(std::shared_ptr<const ClassIndex> index, std::uint64_t seed, bool shuffle, int num_threads,
        std::int64_t slices = 1)
      : passes(std::move(index), seed, shuffle, num_threads > 0, slices), threads(passes, num_threads) {}

  std::vector<std::int64_t> copy(std::size_t k, std::uint64_t pass, std::int64_t begin, std::int64_t count) {
    std::vector<std::int64_t> rows;
    while (std::ssize(rows) < count) {
      const std::int64_t position = begin + std::ssize(rows);
      passes.visit(static_cast<std::int64_t>(k), pass, position, [&](auto row_at, std::int64_t end) {
        CHECK(end > position);
        for (std::int64_t i = position; i < std::min(end, begin + count); ++i) rows.push_back(row_at(i));
      });
    }
    return rows;
  }

  Passes passes;
  PassThreads threads;
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
  const std::array indexes{classes.index(), classes.index(RowIds::kMaxBytes), classes.packed_index()};
  std::size_t run = 0;
  for (const std::int64_t slices : kSliceCounts) {
    for (const int threads : kThreadCounts) {
      Maker maker(indexes[run++ % indexes.size()], 21, true, threads, slices);
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
}

void test_any_pass_is_available_at_any_time() {
  const Classes classes({30'000, kSplit, 10});
  const auto orders = orders_of(classes, 4, 4);
  const auto index = classes.index();
  for (const std::int64_t slices : kSliceCounts) {
    for (const int threads : kThreadCounts) {
      Maker maker(index, 4, true, threads, slices);
      maker.passes.prepare(1, 1);
      maker.passes.prepare(1, 3);  // takes the buffer of pass 1, which may be in progress
      maker.passes.prepare(0, 0);
      for (const std::size_t pass : {1U, 2U, 1U, 0U, 3U}) {
        for (std::size_t k = 0; k < orders.size(); ++k)
          CHECK(maker.copy(k, pass, 0, std::ssize(classes.rows[k])) == orders[k][pass]);
        maker.passes.prepare(1, pass + 10, kSplit / 2);  // canceled again at once
      }
    }
  }
}

/// Each class has as many slices as buckets, if the largest classes have more.
void test_classes_have_different_numbers_of_slices() {
  const Classes classes({kSplit, 2 * kSplit, 4000});
  const auto orders = orders_of(classes, 5, 2);
  Maker maker(classes.packed_index(), 5, true, 2, Permutation::kMaxSlices);
  CHECK(Permutation::num_buckets(kSplit) == 8 && Permutation::num_buckets(2 * kSplit) == 16);
  for (std::size_t pass = 0; pass < 2; ++pass)
    for (std::size_t k = 0; k < orders.size(); ++k)
      CHECK(maker.copy(k, pass, 0, std::ssize(classes.rows[k])) == orders[k][pass]);
}

void test_packed_rows_must_be_shuffled() {
  const Classes classes({10, 20});
  CHECK_THROWS(std::invalid_argument, Passes(classes.packed_index(), 1, false, false));
}

/// Rows of a sliced class, read from positions in any order: near the borders of slices, and back to earlier ones.
void test_any_position_is_available_at_any_time() {
  const Classes classes({kSplit + 100'000, 100});
  const auto orders = orders_of(classes, 12, 3);
  const auto index = classes.packed_index();
  const std::int64_t size = std::ssize(classes.rows[0]);
  for (const std::int64_t slices : kSliceCounts) {
    for (const int threads : kThreadCounts) {
      Maker maker(index, 12, true, threads, slices);
      std::vector<std::int64_t> positions{size - 1, 0};
      for (std::int64_t slice = 1; slice < slices; ++slice)
        for (const std::int64_t distance : {-3000, -1, 0, 1, 3000})
          positions.push_back(size * slice / slices + distance);
      reference_fisher_yates(std::span(positions), some_randomness(static_cast<std::uint64_t>(slices)));
      for (std::size_t i = 0; i < positions.size(); ++i) {
        const std::size_t pass = (i / 3) % 3;
        const std::int64_t position = positions[i], count = std::min<std::int64_t>(10, size - position);
        if (i % 2 == 0) maker.passes.prepare(0, pass, position);
        if (i % 5 == 0) maker.passes.prepare(0, pass, size);  // the next pass
        if (i % 7 == 0) maker.passes.release();
        CHECK(is_part(maker.copy(0, pass, position, count), orders[0][pass], position));
      }
    }
  }
}

void test_passes_in_progress_may_be_canceled() {
  const Classes classes({kSplit, 20'000, 50'000});
  const auto index = classes.index();
  const auto expected = reference_permutation(classes.rows[1], 6, 1, 0);
  for (const int threads : kThreadCounts) {
    for (int round = 0; round < 4; ++round) {
      Maker maker(index, 6, true, threads, round < 2 ? 1 : Permutation::kMaxSlices);
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
  passes.visit(0, 0, 0, [&](auto row_at, std::int64_t end) {
    for (std::int64_t i = 0; i < end; ++i) rows.push_back(row_at(i));
  });
  CHECK(rows == reference_permutation(iota(kSplit), 3, 0, 0));
  CHECK(passes.has_work());  // the next pass
  passes.prepare(0, 3);      // takes its buffer
  CHECK(passes.has_work());
}

void test_without_shuffling_rows_ascend() {
  const Classes classes({5, 0, kSplit});
  for (const int threads : kThreadCounts) {
    const std::int64_t slices = threads == 1 ? 1 : Permutation::kMaxSlices;
    Maker maker(classes.index(threads % 2 == 1 ? RowIds::kMaxBytes : 2, false), 1, false, threads, slices);
    Maker one_class(std::make_shared<const ClassIndex>(kSplit), 1, false, threads, slices);
    one_class.passes.prepare(0, 0);
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
  test_passes_follow_each_other();
  test_any_pass_is_available_at_any_time();
  test_any_position_is_available_at_any_time();
  test_classes_have_different_numbers_of_slices();
  if (!l2m::kCompact) test_packed_rows_must_be_shuffled();
  test_passes_in_progress_may_be_canceled();
  if (l2m::kHasThreads) test_there_is_work_while_passes_are_computed();
  test_without_shuffling_rows_ascend();
  test_one_class_of_all_rows_is_shuffled();
}
