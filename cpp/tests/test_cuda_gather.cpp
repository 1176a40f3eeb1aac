#include <algorithm>
#include <cstdint>
#include <cstring>
#include <numeric>
#include <vector>

#include "check.hpp"
#include "gather.cu"
#include "l2m/base/float_types.hpp"
#include "l2m/base/random.hpp"

namespace l2m::test {
namespace {

constexpr std::size_t kRows = 50;

std::vector<std::int64_t> some_rows(std::size_t n) {
  Sfc64 random(RandomStream(n, Purpose::kShuffle, 0));
  std::vector<std::int64_t> rows;
  for (std::size_t i = 0; i < n; ++i) rows.push_back(static_cast<std::int64_t>(random() % kRows));
  return rows;
}

/// Return random bytes, aligned to 16.
std::vector<uint4> some_bytes(std::size_t size) {
  Sfc64 random(RandomStream(size, Purpose::kShuffle, 1));
  std::vector<uint4> bytes(size / sizeof(uint4) + 1);
  for (uint4& four : bytes) four = {static_cast<unsigned>(random()), static_cast<unsigned>(random()), 0x80FF7F01U, 0};
  return bytes;
}

/// Poisoned memory of a batch, followed by a guard.
struct Out {
  explicit Out(std::size_t size_of_batch) : size(size_of_batch), words(size / sizeof(uint4) + 2) {
    std::memset(static_cast<void*>(words.data()), 0xEE, words.size() * sizeof(uint4));
  }
  [[nodiscard]] std::uint8_t* data() { return reinterpret_cast<std::uint8_t*>(words.data()); }
  void check_guard() {
    CHECK(std::all_of(data() + size, data() + words.size() * sizeof(uint4), [](std::uint8_t x) { return x == 0xEE; }));
  }
  std::size_t size;
  std::vector<uint4> words;
};

/// Compare rows of many sizes, strides and alignments, with more fields, and perhaps more batches, than a launch takes.
/// @param sizes  of the batches.
void test_rows_are_copied(const std::vector<std::int64_t>& sizes) {
  struct Shape {
    std::int64_t row_size, stride;
    std::size_t offset;
  };
  const std::vector<Shape> shapes{{16, 16, 0}, {3072, 3072, 0}, {784, 800, 16}, {24, 24, 8}, {12, 16, 4},
                                  {7, 7, 0},   {6, 10, 2},      {16, 48, 1},    {1, 1, 3},   {48, -48, 0}};
  const std::vector<std::int64_t> rows =
      some_rows(static_cast<std::size_t>(std::accumulate(sizes.begin(), sizes.end(), std::int64_t{0})));
  std::vector<std::vector<uint4>> data;
  std::vector<Out> outs;
  std::vector<cuda::Field> fields;
  std::vector<void*> addresses;
  for (const auto& [row_size, stride, offset] : shapes) {
    const std::size_t span = kRows * static_cast<std::size_t>(std::abs(stride)) + offset;
    data.push_back(some_bytes(span));
    const auto* first = reinterpret_cast<const std::uint8_t*>(data.back().data()) + offset;
    if (stride < 0) first -= stride * static_cast<std::int64_t>(kRows - 1);
    fields.push_back({first, stride, row_size});
  }
  for (const std::int64_t size : sizes)
    for (const cuda::Field& field : fields) outs.emplace_back(static_cast<std::size_t>(size * field.row_size));
  for (Out& out : outs) addresses.push_back(out.data());
  cuda::gather(fields, rows.data(), sizes, addresses, nullptr);
  std::size_t begin = 0;
  auto out = outs.begin();
  for (const std::int64_t batch_size : sizes) {
    for (const cuda::Field& field : fields) {
      const auto size = static_cast<std::size_t>(field.row_size);
      for (std::size_t i = 0; i < static_cast<std::size_t>(batch_size); ++i)
        CHECK(std::memcmp(out->data() + i * size,
                          static_cast<const std::uint8_t*>(field.data) + rows[begin + i] * field.stride, size) == 0);
      out++->check_guard();
    }
    begin += static_cast<std::size_t>(batch_size);
  }
}

/// Copy one batch of one field.
void gather_one(const cuda::Field& field, const std::vector<std::int64_t>& rows, Out& out) {
  const auto size = static_cast<std::int64_t>(rows.size());
  void* const address = out.data();
  cuda::gather({&field, 1}, rows.data(), {&size, 1}, {&address, 1}, nullptr);
}

/// As many batches and fields as a launch takes are copied by one, also where few blocks are allowed.
void test_one_launch_copies_many_batches() {
  const std::vector<uint4> data = some_bytes(kRows * 16);
  const std::vector<std::int64_t> rows = some_rows(16 * 3);
  for (const bool on_host : {false, true}) {
    const std::vector<cuda::Field> fields(8, {data.data(), 16, 16, {}, on_host});
    const std::vector<std::int64_t> sizes(16, 3);
    std::vector<Out> outs(fields.size() * sizes.size(), Out(3 * 16));
    std::vector<void*> addresses;
    for (Out& out : outs) addresses.push_back(out.data());
    cuda_on_cpu::launches_before_failure = 1;
    cuda::gather(fields, rows.data(), sizes, addresses, nullptr);
    CHECK(cuda_on_cpu::num_blocks == 8 * 16);
    for (std::size_t out = 0; out < outs.size(); ++out)
      for (std::size_t i = 0; i < 3; ++i)
        CHECK(std::memcmp(outs[out].data() + i * 16, data.data() + rows[out / 8 * 3 + i], 16) == 0);
  }
  cuda_on_cpu::launches_before_failure = 1 << 30;
}

/// Rows in pinned memory are read at the address of the device, by few blocks.
void test_rows_in_pinned_memory() {
  const std::vector<std::int64_t> rows = some_rows(12'000);
  const std::vector<uint4> data = some_bytes(kRows * 96);
  Out out(rows.size() * 96);
  constexpr std::ptrdiff_t kOffset = 1 << 20;
  cuda_on_cpu::bytes_to_device_pointer = -kOffset;
  std::vector<unsigned> num_blocks;
  for (const cudaMemoryType type : {cudaMemoryTypeDevice, cudaMemoryTypeHost}) {
    cuda_on_cpu::memory_type = type;
    const auto on_host = reinterpret_cast<std::uintptr_t>(data.data()) + kOffset;
    cuda::Field field{reinterpret_cast<const void*>(on_host), 96, 96};
    cuda::locate(field);
    CHECK(field.data == data.data());
    CHECK(field.on_host == (type == cudaMemoryTypeHost));
    gather_one(field, rows, out);
    num_blocks.push_back(cuda_on_cpu::num_blocks);
    for (std::size_t i = 0; i < rows.size(); ++i)
      CHECK(std::memcmp(out.data() + i * 96, reinterpret_cast<const std::uint8_t*>(data.data()) + rows[i] * 96, 96) ==
            0);
  }
  CHECK(num_blocks == std::vector<unsigned>({64, 32}));
  cuda_on_cpu::memory_type = cudaMemoryTypeUnregistered;
  cuda::Field field{data.data(), 96, 96};
  CHECK_THROWS(std::runtime_error, cuda::locate(field));
  cuda_on_cpu::memory_type = cudaMemoryTypeDevice;
  cuda_on_cpu::bytes_to_device_pointer = 0;
}

void test_indices_of_64_bits() {
  const std::vector<std::int64_t> rows = some_rows(40);
  const std::vector<uint4> data = some_bytes(kRows * 96);
  Out out(rows.size() * 96);
  cuda::Parts parts{};
  parts.part[0] = cuda::part_of({data.data(), 96, 96});
  parts.num_fields = 1;
  parts.begin[1] = 40;
  parts.out[0][0] = out.data();
  cuda::launch({1, cuda::kThreads, nullptr}, cuda::gather_parts<std::int64_t>, parts, rows.data());
  for (std::size_t i = 0; i < rows.size(); ++i)
    CHECK(std::memcmp(out.data() + i * 96, reinterpret_cast<const std::uint8_t*>(data.data()) + rows[i] * 96, 96) == 0);
  out.check_guard();
}

/// @param channel_size  bytes of a channel in rows of `row_size` bytes.
/// @param offset        bytes from an aligned address to the first row.
template <class Float>
void test_bytes_are_normalized(cuda::FloatType type, std::int64_t channels, std::int64_t row_size,
                               std::int64_t channel_size, std::size_t offset = 0) {
  constexpr std::size_t kBatch = 70;
  std::vector<float> mean;
  std::vector<float> std;
  for (std::int64_t channel = 0; channel < channels; ++channel) {
    mean.push_back(127.5F - 3.7F * static_cast<float>(channel));
    std.push_back(0.3F + 21.3F * static_cast<float>(channel));
  }
  const std::vector<std::int64_t> rows = some_rows(kBatch);
  const std::vector<uint4> data = some_bytes(kRows * static_cast<std::size_t>(row_size) + offset);
  const auto* const bytes = reinterpret_cast<const std::uint8_t*>(data.data()) + offset;
  Out out(kBatch * static_cast<std::size_t>(row_size) * sizeof(Float));
  gather_one({bytes, row_size, row_size, {type, mean.data(), std.data(), channels, channel_size}}, rows, out);
  for (std::size_t i = 0; i < kBatch; ++i) {
    for (std::int64_t j = 0; j < row_size; ++j) {
      const auto channel = static_cast<std::size_t>(j / channel_size % channels);
      const auto expected =
          round_to<Float>((static_cast<float>(bytes[rows[i] * row_size + j]) - mean[channel]) / std[channel]);
      const std::size_t at = (i * static_cast<std::size_t>(row_size) + static_cast<std::size_t>(j)) * sizeof(Float);
      CHECK(std::memcmp(out.data() + at, &expected, sizeof(Float)) == 0);
    }
  }
  out.check_guard();
}

/// Compare floats of one type, with and without a table, in pieces of every size.
template <class Float>
void test_bytes_are_normalized(cuda::FloatType type) {
  for (const std::int64_t channels : {1, 3, 16, 17}) {
    test_bytes_are_normalized<Float>(type, channels, 16 * channels, 16);   // channel after channel
    test_bytes_are_normalized<Float>(type, channels, 5 * channels, 5);     // whose borders are within pieces
    test_bytes_are_normalized<Float>(type, channels, 8 * channels, 1);     // interleaved channels
    test_bytes_are_normalized<Float>(type, channels, 8 * channels, 1, 2);  // byte by byte
  }
}

}  // namespace
}  // namespace l2m::test

int main() {
  using namespace l2m;
  using namespace l2m::test;
  test_rows_are_copied({});
  for (const std::int64_t size : {0, 1, 17, 200}) test_rows_are_copied({size});
  test_rows_are_copied({5, 5, 5, 2});
  test_rows_are_copied(std::vector<std::int64_t>(35, 2));
  test_one_launch_copies_many_batches();
  test_rows_in_pinned_memory();
  test_indices_of_64_bits();
  test_bytes_are_normalized<float>(cuda::FloatType::kFloat32);
  test_bytes_are_normalized<Float16>(cuda::FloatType::kFloat16);
  test_bytes_are_normalized<BFloat16>(cuda::FloatType::kBFloat16);
}
