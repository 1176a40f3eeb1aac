#include "l2m/data/field.hpp"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <stdexcept>
#include <vector>

#include "check.hpp"
#include "l2m/base/random.hpp"
#include "l2m/data/dense.hpp"
#include "l2m/data/normalize.hpp"
#include "l2m/data/row_ids.hpp"

namespace l2m::test {
namespace {

using Bytes = std::unique_ptr<std::byte[]>;

/// Return memory of exactly `size` bytes, so that a sanitizer detects an access beyond either end.
Bytes random_bytes(std::size_t size) {
  Bytes bytes(new std::byte[size]);
  const RandomStream random(size, Purpose::kBatchOrder, 0);
  for (std::size_t i = 0; i < size; ++i) bytes[i] = static_cast<std::byte>(random.word(i / 8) >> (8 * (i % 8)));
  return bytes;
}

std::vector<PlannedRow> random_rows(std::size_t count, std::uint32_t num_rows) {
  std::vector<PlannedRow> rows;
  Sfc64 random(RandomStream(count, Purpose::kBatchOrder, num_rows));
  for (std::size_t i = 0; i < count; ++i) rows.push_back({throw_dice<1>(num_rows, random)[0], 0});
  return rows;
}

void check_rows(const Dense& field, const std::vector<PlannedRow>& rows, const std::byte* out) {
  for (const PlannedRow& planned : rows) {
    const std::byte* const from = field.row(planned);
    CHECK(std::equal(from, from + field.row_size(), out));
    out += field.row_size();
  }
}

constexpr std::size_t kGuard = 64;  // bytes after the output: sanitizers do not see non-temporal stores

/// Copy the rows of a field that starts `first` bytes into memory of `size` bytes, with both kinds of stores, to
/// outputs of several alignments.
void check_gather(std::int64_t row_size, std::int64_t stride, std::int64_t first, std::int64_t size,
                  std::uint32_t num_rows) {
  const Bytes data = random_bytes(static_cast<std::size_t>(size));
  const auto field = std::make_shared<Dense>(data.get() + first, stride, row_size);
  for (const std::size_t count : {0U, 1U, 2U, 3U, 15U, 16U, 17U, 100U}) {
    const auto rows = random_rows(count, num_rows);
    const std::size_t out_size = count * static_cast<std::size_t>(row_size);
    const Bytes out = random_bytes(out_size);
    copy_fields({field}, rows, std::vector{out.get()});
    check_rows(*field, rows, out.get());
    for (const std::size_t place : {0U, 1U, 8U}) {
      const Bytes guarded(new std::byte[place + out_size + kGuard]());
      copy_fields({field}, rows, std::vector{guarded.get() + place}, Writes::kNonTemporal);
      check_rows(*field, rows, guarded.get() + place);
      const auto zero = [](std::byte b) { return b == std::byte{0}; };
      CHECK(std::all_of(guarded.get(), guarded.get() + place, zero));
      CHECK(std::all_of(guarded.get() + place + out_size, guarded.get() + place + out_size + kGuard, zero));
    }
  }
}

void test_several_fields() {
  constexpr std::int64_t kSizes[] = {784, 8, 1, 64, 3072, 5};
  constexpr std::uint32_t kRows = 150;
  std::vector<Bytes> data;
  std::vector<std::shared_ptr<const Dense>> fields;
  for (const std::int64_t size : kSizes) {
    data.push_back(random_bytes(static_cast<std::size_t>(kRows * size)));
    fields.push_back(std::make_shared<Dense>(data.back().get(), size, size));
  }
  for (const std::size_t count : {0U, 1U, 10U, 300U}) {
    const auto rows = random_rows(count, kRows);
    std::vector<Bytes> memory;
    std::vector<std::byte*> outs;
    for (const std::int64_t size : kSizes) {
      memory.push_back(random_bytes(count * static_cast<std::size_t>(size)));
      outs.push_back(memory.back().get());
    }
    for (const Writes writes : {Writes::kCached, Writes::kNonTemporal}) {
      copy_fields({fields.begin(), fields.end()}, rows, outs, writes);
      for (std::size_t f = 0; f < fields.size(); ++f) {
        const auto size = static_cast<std::size_t>(kSizes[f]) * count;
        check_rows(*fields[f], rows, outs[f]);
        std::fill_n(outs[f], size, std::byte{0});
      }
    }
  }
  copy_fields({}, random_rows(3, kRows), {});
}

void test_rows_of_all_sizes_and_strides() {
  std::vector<std::int64_t> sizes{255, 256, 257, 511, 512, 513, 576, 577, 784, 3072, 5001};
  for (std::int64_t size = 1; size <= 130; ++size) sizes.push_back(size);
  constexpr std::int64_t kRows = 23;
  for (const std::int64_t size : sizes) {
    for (const std::int64_t gap : {0, 1, 3, 64}) {
      const std::int64_t stride = size + gap;
      const std::int64_t bytes = (kRows - 1) * stride + size;
      check_gather(size, stride, 0, bytes, kRows);
      check_gather(size, -stride, bytes - size, bytes, kRows);
    }
    check_gather(size, 0, 0, size, kRows);                 // every row is the same
    check_gather(size, 1, 0, size + kRows - 1, kRows);     // rows overlap
    check_gather(size, size, 5, 5 + kRows * size, kRows);  // not aligned
  }
}

void test_the_same_row_again() {
  const std::int64_t values[] = {10, 20, 30};
  const std::vector<PlannedRow> rows{{2, 0}, {2, 0}, {0, 0}, {2, 0}};
  std::vector<std::int64_t> out(4);
  const auto field = std::make_shared<Dense>(reinterpret_cast<const std::byte*>(values), 8, 8);
  copy_fields({field}, rows, std::vector{reinterpret_cast<std::byte*>(out.data())});
  CHECK((out == std::vector<std::int64_t>{30, 30, 10, 30}));
}

void test_a_field_of_row_ids_holds_the_ids() {
  constexpr std::int64_t kRows = 40;
  const Bytes data = random_bytes(kRows * 24);
  const auto of_data = std::make_shared<Dense>(data.get(), 24, 24);
  const auto ids = std::make_shared<RowIdField>();
  for (const std::size_t count : {0U, 1U, 100U}) {
    const auto rows = random_rows(count, kRows);
    const Bytes out = random_bytes(count * 24);
    std::vector<std::int64_t> first(count), last(count);
    copy_fields(
        {ids, of_data, ids}, rows,
        std::vector{reinterpret_cast<std::byte*>(first.data()), out.get(), reinterpret_cast<std::byte*>(last.data())});
    check_rows(*of_data, rows, out.get());
    for (std::size_t i = 0; i < count; ++i) CHECK(first[i] == rows[i].row && last[i] == rows[i].row);
  }
}

template <class Float>
void check_normalized(std::int64_t outer, std::int64_t channels, std::int64_t inner) {
  constexpr std::int64_t kRows = 11;
  const std::int64_t row_size = outer * channels * inner;
  const Bytes data = random_bytes(static_cast<std::size_t>(kRows * row_size));
  std::vector<float> mean, std;
  for (std::int64_t c = 0; c < channels; ++c) {
    mean.push_back(static_cast<float>(c) * 17.3F);
    std.push_back(static_cast<float>(c + 1) * 0.7F);
  }
  const auto field = std::make_shared<Normalize<Float>>(Dense(data.get(), row_size, row_size), mean, std, inner);
  CHECK(field->row_size() == row_size * static_cast<std::int64_t>(sizeof(Float)));
  for (const std::size_t count : {0U, 1U, 5U, 30U}) {
    const auto rows = random_rows(count, kRows);
    const Bytes out = random_bytes(count * static_cast<std::size_t>(field->row_size()));
    copy_fields({field}, rows, std::vector{out.get()});
    const std::byte* at = out.get();
    for (const PlannedRow& planned : rows) {
      for (std::int64_t i = 0; i < row_size; ++i, at += sizeof(Float)) {
        const auto c = static_cast<std::size_t>(i / inner % channels);
        const auto byte =
            static_cast<float>(std::to_integer<int>(data[static_cast<std::size_t>(planned.row * row_size + i)]));
        const Float expected = round_to<Float>((byte - mean[c]) / std[c]);
        CHECK(std::memcmp(at, &expected, sizeof(Float)) == 0);
      }
    }
  }
}

void test_bytes_become_floats() {
  check_normalized<float>(1, 3, 20);
  check_normalized<float>(20, 3, 1);
  check_normalized<Float16>(4, 3, 5);
  check_normalized<BFloat16>(1, 1, 7);
  const Bytes data = random_bytes(12);
  const Dense bytes(data.get(), 12, 12);
  const std::vector<float> five(5, 1.0F), three(3, 1.0F);
  CHECK_THROWS(std::invalid_argument, Normalize<float>(bytes, five, five, 1));
  CHECK_THROWS(std::invalid_argument, Normalize<float>(bytes, three, five, 1));
  CHECK_THROWS(std::invalid_argument, Normalize<float>(bytes, three, three, 5));
  CHECK_THROWS(std::invalid_argument, Dense(nullptr, 12, 12));
  CHECK_THROWS(std::invalid_argument, Normalize<float>(bytes, three, three, std::int64_t{1} << 62));
  CHECK_THROWS(std::invalid_argument, Normalize<float>(bytes, std::vector(4, 1.0F), three, std::int64_t{1} << 62));
  CHECK_THROWS(std::invalid_argument, Dense(data.get(), 12, 0));
  CHECK_THROWS(std::invalid_argument, Dense(data.get(), 12, std::int64_t{1} << 57));
}

}  // namespace
}  // namespace l2m::test

int main() {
  l2m::test::test_bytes_become_floats();
  l2m::test::test_rows_of_all_sizes_and_strides();
  l2m::test::test_several_fields();
  l2m::test::test_the_same_row_again();
  l2m::test::test_a_field_of_row_ids_holds_the_ids();
}
