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
#include "some_classes.hpp"

namespace l2m::test {
namespace {

constexpr std::int64_t kSplit = Permutation::kUnsplitRows + 9;  // rows of a class that is split into buckets

std::vector<std::int64_t> ids_of(const RowIds& rows) {
  return rows.visit([](auto ids) { return std::vector<std::int64_t>(ids.begin(), ids.end()); });
}

void complete(Permutation& permutation) {
  for (; !permutation.done(); permutation.next_stage())
    for (std::int64_t task = permutation.tasks(); task-- > 0;) permutation.run(task);  // any order works
  CHECK(permutation.tasks() == 0);
}

/// Check that slices, computed in any order, are the parts of a permutation.
void check_slices(const std::vector<std::int64_t>& expected, int id_bytes, std::uint64_t seed, std::uint64_t pass,
                  std::int64_t count) {
  const std::int64_t size = std::ssize(expected), offset = 5;
  const ClassIndex index(size);
  const RowIds target(size + offset, id_bytes);
  Permutation::Buckets buckets;
  std::int64_t rows = 0;
  for (const int i : {1, 0, static_cast<int>(count / 2), static_cast<int>(count - 1)}) {
    const std::int64_t number = i % count;
    for (const bool known : {true, false}) {
      const Permutation::Slice slice{number, count, offset, size, known ? buckets : Permutation::Buckets()};
      Permutation permutation(index, 0, target, slice, seed, pass);
      complete(permutation);
      buckets = permutation.buckets();
      const std::int64_t begin = buckets.begin(number, count), end = buckets.begin(number + 1, count);
      CHECK(count == 1 || (begin < end && end - begin < size));
      for (std::int64_t position = begin; position < end; ++position)
        CHECK(target[offset + position - begin] == expected[static_cast<std::size_t>(position)]);
      rows += end - begin;
    }
  }
  CHECK(rows > 0 && buckets.begin(0, count) == 0 && buckets.begin(count, count) == size);
}

void test_permutation_equals_the_reference() {
  constexpr std::int64_t kUnsplit = Permutation::kUnsplitRows;
  for (const std::int64_t size :
       std::initializer_list<std::int64_t>{0, 1, 2, 1000, kUnsplit, kUnsplit + 1, kUnsplit + 2, kUnsplit + 3,
                                           2 * kUnsplit + 77, 70 * Permutation::kPartRows + 1}) {
    const std::uint64_t seed = 5, pass = 3;
    const auto expected = reference_permutation(iota(size), seed, 0, pass);
    for (const int id_bytes : id_sizes(size)) {
      const ClassIndex index(size);
      const RowIds target(size, id_bytes);
      Permutation permutation(index, 0, target, {.max_rows = size}, seed, pass);
      complete(permutation);
      CHECK(ids_of(target) == expected);
      if (size <= kUnsplit) continue;
      for (std::int64_t count = 1; count <= std::min(Permutation::num_buckets(size), Permutation::kMaxSlices);
           count *= 2)
        check_slices(expected, id_bytes, seed, pass, count);
    }
  }
}

void test_permutations_are_uniform() {
  std::array<int, 24> count{};
  const ClassIndex index(4);
  const RowIds target(4, 2);
  constexpr int kPasses = 24'000;
  for (std::uint64_t pass = 0; pass < kPasses; ++pass) {
    Permutation(index, 0, target, {.max_rows = 4}, 11, pass).run(0);
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
  const RowIds target(size, RowIds::bytes_for(size));
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

}  // namespace
}  // namespace l2m::test

int main() {
  using namespace l2m::test;
  test_permutation_equals_the_reference();
  test_permutations_are_uniform();
  test_large_permutations_are_uniform();
  test_shuffling_all_classes_equals_the_reference();
}
