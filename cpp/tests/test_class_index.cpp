#include "l2m/plan/class_index.hpp"

#include <algorithm>
#include <cstdint>
#include <optional>
#include <set>
#include <span>
#include <stdexcept>
#include <vector>

#include "check.hpp"
#include "l2m/base/random.hpp"
#include "reference.hpp"

namespace l2m::test {
namespace {

using Rows = std::optional<std::span<const std::int64_t>>;

/// Return a random class for each row. Low classes are more likely, and some are empty.
std::vector<std::int32_t> some_classes(std::int64_t num_rows, std::uint32_t num_classes) {
  Sfc64 random(RandomStream(static_cast<std::uint64_t>(num_rows), Purpose::kBatchOrder, num_classes));
  const auto bounded = [&random](std::uint32_t bound) { return throw_dice<1>(bound, random)[0]; };
  std::vector<std::int32_t> classes;
  for (std::int64_t i = 0; i < num_rows; ++i)
    classes.push_back(static_cast<std::int32_t>(bounded(1 + bounded(num_classes))));
  return classes;
}

ClassRows rows_of(const ClassIndex& index) {
  ClassRows result(static_cast<std::size_t>(index.num_classes()));
  index.rows().visit([&]<class Id>(std::span<Id> /*ids*/) {
    for (std::int64_t k = 0; k < index.num_classes(); ++k)
      index.read<Id>(index.offset(k), [&](auto row_at) {
        for (std::int64_t i = index.offset(k); i < index.offset(k + 1); ++i)
          result[static_cast<std::size_t>(k)].push_back(static_cast<std::int64_t>(row_at(i)));
      });
  });
  return result;
}

void check_index(const ClassIndex& index, const ClassRows& expected, int id_bytes) {
  CHECK(!index.identity());
  CHECK(index.id_bytes() == id_bytes && index.rows().id_bytes() == id_bytes);
  CHECK(index.num_classes() == std::ssize(expected));
  std::int64_t total = 0;
  for (std::size_t k = 0; k < expected.size(); ++k) {
    CHECK(index.offset(static_cast<std::int64_t>(k)) == total);
    CHECK(index.size(static_cast<std::int64_t>(k)) == std::ssize(expected[k]));
    total += std::ssize(expected[k]);
  }
  CHECK(index.num_rows() == total);
  CHECK(rows_of(index) == expected);
}

void test_index_equals_the_reference() {
  struct Case {
    std::int64_t num_rows;
    std::uint32_t num_classes;
  };
  // More than 65,536 rows or classes: several parts, with as many rows per part as there are classes.
  for (const auto& [num_rows, num_classes] : {Case{1, 1}, {10, 3}, {1000, 1000}, {200'000, 10}, {300'000, 150'000}}) {
    const auto classes = some_classes(num_rows, num_classes);
    const ClassRows expected = rows_of_classes(classes, num_classes);
    std::set<std::uint64_t> fingerprints;
    for (const int threads : kThreadCounts) {
      for (const int id_bytes : id_sizes(num_rows)) {
        const ClassIndex index(std::span<const std::int32_t>(classes), num_classes, num_rows, std::nullopt, threads,
                               true, id_bytes);
        CHECK(!index.packed());
        check_index(index, expected, id_bytes);
        fingerprints.insert(index.fingerprint(threads));
      }
      const ClassIndex packed(std::span<const std::int32_t>(classes), num_classes, num_rows, std::nullopt, threads,
                              true, RowIds::kMaxBytes, /*max_plain_rows=*/0);
      check_index(packed, expected, RowIds::kMaxBytes);
      fingerprints.insert(packed.fingerprint(threads));
    }
    CHECK(fingerprints.size() == 1);
  }
}

/// Return an index that is packed if that halves its memory.
ClassIndex packed_if_shorter(std::span<const std::int32_t> classes, std::int64_t num_classes, Rows rows = {},
                             bool shuffle = true) {
  return {classes, num_classes, std::ssize(classes), rows, 3, shuffle, 4, /*max_plain_rows=*/0};
}

/// Gaps of all lengths, from consecutive rows to a row in each of some parts.
void test_packed_rows_equal_the_reference() {
  const std::int64_t num_rows = 400'000;
  std::vector<std::int32_t> classes(num_rows, 0);
  std::vector<std::int64_t> rows;
  for (std::int64_t gap = 1, row = 0; row + gap < num_rows; row += gap++) classes[static_cast<std::size_t>(row)] = 1;
  for (const std::int64_t row : {0, 255, 510, 766, 200'000, 399'999}) classes[static_cast<std::size_t>(row)] = 3;
  for (std::int64_t row = 130'000; row < 140'000; ++row) classes[static_cast<std::size_t>(row)] = 4;
  for (std::int64_t row = 0; row < num_rows; ++row)
    if (row % 1000 < 500) rows.push_back(row);
  for (const Rows& taken : {Rows(), Rows(rows)}) {
    ClassRows expected(6);
    for (std::int64_t row = 0; row < num_rows; ++row)
      if (!taken || row % 1000 < 500)
        expected[static_cast<std::size_t>(classes[static_cast<std::size_t>(row)])].push_back(row);
    const ClassIndex index = packed_if_shorter(classes, 6, taken);
    CHECK(index.packed());
    check_index(index, expected, 4);
    // Readers that begin anywhere, and skip rows.
    for (std::int64_t begin = 0, skip = 1; begin < index.num_rows(); begin += 33'333, skip = skip * 3 % 4096)
      index.read<std::uint32_t>(begin, [&](auto row_at) {
        std::int64_t offset = 0;
        for (std::int64_t k = 0; k < 6; offset += index.size(k++))
          for (std::int64_t i = 0; i < index.size(k); ++i)
            if (offset + i >= begin && (offset + i) % skip == 0)
              CHECK(row_at(offset + i) ==
                    static_cast<std::uint32_t>(expected[static_cast<std::size_t>(k)][static_cast<std::size_t>(i)]));
      });
  }
}

/// A reader decodes 512 rows at a time. Here a segment ends just before, at or after such a border, and another one follows.
void test_segments_may_end_anywhere() {
  for (const std::int32_t size : {1, 511, 512, 513, 1023, 1024}) {
    std::vector<std::int32_t> classes;
    for (std::int32_t row = 0; row < 70'000; ++row) classes.push_back(row < size || row >= 65'536 ? 0 : 1);
    const ClassIndex index = packed_if_shorter(classes, 2);
    CHECK(index.packed());
    check_index(index, rows_of_classes(classes, 2), 4);
  }
}

void test_ids_are_packed_if_that_halves_their_memory() {
  for (const std::int32_t num_classes : {1, 10, 100, 300, 509, 512}) {
    std::vector<std::int32_t> classes;
    for (std::int32_t row = 0; row < 300'000; ++row) classes.push_back(row * 7 % num_classes);
    CHECK(packed_if_shorter(classes, num_classes).packed() == (num_classes <= 510));
    CHECK(!packed_if_shorter(classes, num_classes, std::nullopt, /*shuffle=*/false).packed());
    CHECK(!packed_if_shorter(classes, num_classes + 1000).packed());
  }
}

void test_a_class_contains_its_rows_only() {
  const auto classes = some_classes(140'000, 5);
  for (const std::int64_t max_plain_rows : {std::int64_t{0}, ClassIndex::kMaxPlainRows}) {
    const ClassIndex index(std::span<const std::int32_t>(classes), 5, std::ssize(classes), std::nullopt, 2, true, 4,
                           max_plain_rows);
    for (std::int64_t k = 0; k < 5; ++k) {
      for (std::int64_t row = 0; row < std::ssize(classes); row += 1 + row % 997)
        CHECK(index.contains(k, row) == (classes[static_cast<std::size_t>(row)] == k));
      CHECK(!index.contains(k, -1) && !index.contains(k, std::ssize(classes)));
    }
  }
}

void test_only_the_given_rows_are_used() {
  const std::int64_t num_rows = 150'000;
  const auto classes = some_classes(num_rows, 7);
  std::vector<std::int64_t> rows;
  for (std::int64_t row = 0; row < num_rows; ++row)
    if (row % 7 != 3) rows.push_back(row);
  reference_fisher_yates(std::span(rows), some_randomness(1));
  ClassRows expected(7);
  for (std::int64_t row = 0; row < num_rows; ++row)
    if (row % 7 != 3) expected[static_cast<std::size_t>(classes[static_cast<std::size_t>(row)])].push_back(row);
  for (const int threads : kThreadCounts)
    check_index(ClassIndex(std::span<const std::int32_t>(classes), 7, num_rows, Rows(rows), threads), expected, 4);

  std::ranges::sort(rows);  // without classes
  for (const int threads : kThreadCounts)
    check_index(ClassIndex(std::span<const std::int32_t>(), 1, num_rows, Rows(rows), threads), {rows}, 4);

  const std::vector<std::int64_t> none;
  check_index(ClassIndex(std::span<const std::int32_t>(classes), 7, num_rows, Rows(none), 2), ClassRows(7), 4);
}

template <class Class>
void test_classes_of_type() {
  const std::vector<Class> classes{2, 0, 2, 5, 0, 2};
  const ClassRows expected{{1, 4}, {}, {0, 2, 5}, {}, {}, {3}, {}};
  for (const int threads : kThreadCounts)
    check_index(ClassIndex(std::span<const Class>(classes), 7, 6, std::nullopt, threads), expected, 2);
}

void test_one_class_of_all_rows_stores_nothing() {
  const ClassIndex index(1000);
  CHECK(index.identity() && index.id_bytes() == 2);
  CHECK(index.num_classes() == 1 && index.num_rows() == 1000);
  CHECK(index.offset(0) == 0 && index.size(0) == 1000);
  CHECK(index.rows().visit([](auto ids) { return ids.empty(); }));
  CHECK(index.fingerprint(0) == index.fingerprint(3));
}

void test_row_ids_have_as_few_bits_as_the_rows_allow() {
  CHECK(ClassIndex(1 << 16).id_bytes() == 2 && ClassIndex((1 << 16) + 1).id_bytes() == 4);
  CHECK(ClassIndex(std::int64_t{1} << 32).id_bytes() == 4);
  CHECK(ClassIndex((std::int64_t{1} << 32) + 1).id_bytes() == 8);
}

void test_fingerprints_differ() {
  const std::vector<std::int32_t> classes{0, 1, 1, 0, 2};
  const std::vector<std::int32_t> others{0, 1, 0, 1, 2};
  const auto fingerprint = [](const std::vector<std::int32_t>& of, std::int64_t num_classes, Rows rows) {
    return ClassIndex(std::span<const std::int32_t>(of), num_classes, 5, rows, 0).fingerprint(0);
  };
  const std::vector<std::int64_t> all{0, 1, 2, 3, 4}, some{0, 1, 2, 3};
  CHECK(fingerprint(classes, 3, std::nullopt) == fingerprint(classes, 3, Rows(all)));
  const std::set<std::uint64_t> different{fingerprint(classes, 3, std::nullopt), fingerprint(others, 3, std::nullopt),
                                          fingerprint(classes, 4, std::nullopt), fingerprint(classes, 3, Rows(some)),
                                          fingerprint({}, 1, Rows(all)),         ClassIndex(5).fingerprint(0),
                                          ClassIndex(6).fingerprint(0)};
  CHECK(different.size() == 7);
}

template <class Class>
void check_refused(const std::vector<Class>& classes, std::int64_t num_classes) {
  for (const int threads : kThreadCounts)
    CHECK_THROWS(std::invalid_argument,
                 ClassIndex(std::span<const Class>(classes), num_classes, std::ssize(classes), std::nullopt, threads));
}

void test_invalid_input_is_refused() {
  check_refused(std::vector<std::int32_t>{0, 1, 3, 2}, 3);
  check_refused(std::vector<std::int8_t>{0, -1, 2}, 3);
  check_refused(std::vector<std::int64_t>{0, std::int64_t{1} << 40}, 3);
  check_refused(std::vector<std::uint32_t>{0, 0xFFFFFFFFU}, 3);
  std::vector<std::int64_t> late(200'000, 1);
  late.back() = -1;
  check_refused(late, 2);

  const std::vector<std::int32_t> classes{0, 1, 0, 1};
  const auto index_of = [&](const std::vector<std::int64_t>& rows) {
    return ClassIndex(std::span<const std::int32_t>(classes), 2, 4, Rows(rows), 2);
  };
  CHECK(index_of({3, 0}).num_rows() == 2);
  CHECK_THROWS(std::invalid_argument, index_of({1, 2, 1}));
  CHECK_THROWS(std::out_of_range, index_of({1, 4}));
  CHECK_THROWS(std::out_of_range, index_of({-1}));
}

}  // namespace
}  // namespace l2m::test

int main() {
  using namespace l2m::test;
  test_index_equals_the_reference();
  if (!l2m::kCompact) {
    test_packed_rows_equal_the_reference();
    test_segments_may_end_anywhere();
    test_ids_are_packed_if_that_halves_their_memory();
  }
  test_a_class_contains_its_rows_only();
  test_only_the_given_rows_are_used();
  test_classes_of_type<std::int8_t>();
  test_classes_of_type<std::int16_t>();
  test_classes_of_type<std::int32_t>();
  test_classes_of_type<std::int64_t>();
  test_classes_of_type<std::uint8_t>();
  test_classes_of_type<std::uint16_t>();
  test_classes_of_type<std::uint32_t>();
  test_one_class_of_all_rows_stores_nothing();
  test_row_ids_have_as_few_bits_as_the_rows_allow();
  test_fingerprints_differ();
  test_invalid_input_is_refused();
}
