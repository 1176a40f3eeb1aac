#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <limits>
#include <string>
#include <vector>

#include "c_api_data.hpp"
#include "check.hpp"
#include "l2m.h"

// The C API: every call with bad arguments, and after close. A code and a message come back, and nothing changes.

namespace l2m::test {
namespace {

void test_bad_options_are_refused_by_name() {
  constexpr std::int64_t largest = std::numeric_limits<std::int64_t>::max();
  constexpr std::int64_t huge = std::numeric_limits<std::ptrdiff_t>::max();  // bytes that memory can have
  const auto refused = [&](const std::function<void(Data&)>& spoil, const char* part, int code = L2M_INVALID) {
    Data data;
    spoil(data);
    const std::string error = refusal(data.options, code);
    if (!has(error, part)) fail(part, __LINE__, error.c_str());
  };
  refused([](Data& d) { d.options.size = 8; }, "must be set by l2m_options_init(), with size");
  refused([](Data& d) { d.options.version = 2; }, "and version 2)");
  refused([](Data& d) { std::memset(&d.options, 0xAB, sizeof(d.options)); }, "l2m_options_init()");
  for (const std::int64_t rows : {std::int64_t{0}, std::int64_t{-1}, std::numeric_limits<std::int64_t>::min()})
    refused([&](Data& d) { d.options.num_rows = rows; }, "num_rows must be in [1, ");
  refused([&](Data& d) { d.options.num_rows = huge; }, "classes must fit into memory");
  refused(
      [&](Data& d) {
        d.options.num_rows = huge;
        d.options.classes = nullptr;
        d.options.class_type = 0;
      },
      "field 0: stride must be in [0, 0]");
  refused([](Data& d) { d.options.fields = nullptr; }, "fields must not be NULL (got NULL)");
  refused([](Data& d) { d.fields[1].data = nullptr; }, "field 1: data must not be NULL");
  for (const std::int64_t bytes : {std::int64_t{0}, std::int64_t{-8}, huge, huge / 4, largest})
    refused([&](Data& d) { d.fields[1].row_bytes = bytes; }, "field 1: row_bytes must be in [1, ");
  for (const std::int64_t stride : {huge, -huge, largest, std::numeric_limits<std::int64_t>::min(), huge / 59 + 1})
    refused([&](Data& d) { d.fields[0].stride = stride; }, "field 0: stride must be in [-");
  refused([](Data& d) { d.options.class_type = 0; }, "class_type must be L2M_INT8 to L2M_UINT32 (got 0)");
  refused([](Data& d) { d.classes[9] = -1; }, "classes must be in [0, 3) (got -1 at row 9)");
  refused([](Data& d) { d.options.num_classes = 2; }, "classes must be in [0, 2) (got 2 at row 55)");
  refused([](Data& d) { d.options.num_classes = -1; }, "num_classes must be in [1, ");
  refused([](Data& d) { d.classes[0] = 1 << 30; }, "the largest class must be in [0, 1048575] (got 1073741824)");
  refused([](Data& d) { d.classes.assign(kRows, -5); }, "the largest class must be in [0, ");
  refused(
      [](Data& d) {
        d.options.classes = nullptr;
        d.options.num_classes = 3;
      },
      "num_classes must be 0 without classes (got 3)");
  refused([](Data& d) { d.options.classes = nullptr; }, "class_type must be 0 without classes (got 3)");
  std::vector<std::int64_t> keys(kRows, largest);
  refused(
      [&](Data& d) {
        d.options.classes = keys.data();
        d.options.class_type = L2M_INT64;
      },
      "the largest class must be in [0, ");
  for (const char* name : {"", "mixing_rate, min_share", "mixing_rate,"})
    refused([&](Data& d) { d.rate.name = name; }, "the parameters of Learn2Mix must be ");
  refused(
      [](Data& d) {
        d.options.classes = nullptr;
        d.options.class_type = 0;
      },
      "classes must be given, because Learn2Mix(mixing_rate=0.5");
  refused([](Data& d) { d.options.num_selected = 3; }, "rows and num_selected must both be given");
  refused([](Data& d) { d.options.rows = d.ids.data(); }, "rows and num_selected must both be given");
  const auto select = [](Data& d, std::int64_t size) {
    d.options.rows = d.ids.data();
    d.options.num_selected = size;
  };
  refused([&](Data& d) { select(d, 61); }, "num_selected must be in [1, 60] (got 61)");
  refused([&](Data& d) { select(d, -1); }, "num_selected must be in [1, 60] (got -1)");
  refused(
      [&](Data& d) {
        select(d, 5);
        d.ids[2] = 60;
      },
      "rows must be ids in [0, 60) (got 60)");
  refused(
      [&](Data& d) {
        select(d, 5);
        d.ids[2] = 0;
      },
      "rows must be unique (got 0 twice)");
  for (const std::int64_t size : {std::int64_t{0}, std::int64_t{-1}, std::int64_t{1} << 31, largest})
    refused([&](Data& d) { d.options.batch_size = size; }, "batch_size must be in [1, 2147483647]");
  refused([&](Data& d) { d.options.steps_per_epoch = -1; }, "steps_per_epoch must be in [0, ");
  refused([&](Data& d) { d.options.steps_per_epoch = largest; }, "steps_per_epoch must be in [0, ");
  refused([&](Data& d) { d.options.update_every = -1; }, "update_every must be in [0, ");
  refused([&](Data& d) { d.options.update_every = largest; }, "update_every must be in [0, ");
  refused([&](Data& d) { d.options.lookahead = -1; }, "lookahead must be in [0, ");
  refused([&](Data& d) { d.options.lookahead = largest; }, "lookahead must be in [0, ");
  refused([&](Data& d) { d.options.total_steps = ~std::uint64_t{0}; }, "total_steps must be at most");
  refused([](Data& d) { d.options.shuffle = 2; }, "shuffle must be in [0, 1] (got 2)");
  refused([](Data& d) { d.options.grouped = -1; }, "grouped must be in [0, 1] (got -1)");
  refused([](Data& d) { d.options.drop_last = 7; }, "drop_last must be in [0, 1] (got 7)");
  refused([](Data& d) { d.options.max_batches = 0; }, "max_batches must be in [1, 65536] (got 0)");
  refused([](Data& d) { d.options.num_threads = -1; }, "num_threads must be in [0, 1024] (got -1)");
  refused([](Data& d) { d.options.num_threads = 1 << 20; }, "num_threads must be in [0, 1024]");
  refused([](Data& d) { d.options.prefetch = -1; }, "prefetch must be in [0, 65536] (got -1)");
  refused([](Data& d) { d.options.rank = 1; }, "rank must be in [0, 0] (got 1)");
  refused([](Data& d) { d.options.world_size = 0; }, "world_size must be in [1, 2147483647] (got 0)");
  refused([](Data& d) { d.options.world_size = std::int64_t{1} << 30; }, "batch_size * world_size must be in [1, 1]");
  refused([](Data& d) { d.options.world_size = 2; }, "all_reduce must be given for Learn2Mix(");
  refused([](Data& d) { d.options.mixing = "Mix"; }, "mixing must be Proportional, ");
  refused([](Data& d) { d.options.mixing = "Balanced"; }, "the parameters of Balanced must be none (got mixing_rate)");
  refused([](Data& d) { d.options.parameters = nullptr; }, "parameters must not be NULL");
  refused([](Data& d) { d.rate.name = nullptr; }, "the name of a parameter must not be NULL");
  refused([](Data& d) { d.rate.value = 2; }, "mixing_rate of Learn2Mix must be in (0, 1] (got 2)");
  const std::array<double, 3> p{0.5, 0.25, 0.5};
  refused(
      [&](Data& d) {
        d.options.mixing = "Static";
        d.options.num_parameters = 0;
        d.options.proportions = p.data();
      },
      "proportions must sum to 1 within 1e-6 (got 1.25");
  const Data data;
  CHECK(l2m_create(nullptr, 0, nullptr, nullptr, 0) == L2M_INVALID);
  CHECK(l2m_create(&data.options, 0, nullptr, nullptr, 0) == L2M_INVALID);
  l2m_options options;
  CHECK(l2m_options_init(nullptr, sizeof(options)) == L2M_INVALID);
  CHECK(l2m_options_init(&options, sizeof(options) - 8) == L2M_INVALID);
}

void test_calls_after_close_and_without_a_loader_return_a_code() {
  const Data data;
  const Handle loader = create(data.options);
  train(loader);
  CHECK(l2m_close(loader.get()) == L2M_OK && l2m_close(loader.get()) == L2M_OK);
  for (const int code : call_all(loader.get())) expect(loader, code, L2M_CLOSED, "the loader must be open");
  for (const int code : call_all(nullptr)) CHECK(code == L2M_INVALID);
  CHECK(l2m_release(nullptr, nullptr) == L2M_INVALID && l2m_close(nullptr) == L2M_INVALID);
  CHECK(l2m_free(nullptr) == L2M_OK && has(l2m_errmsg(nullptr), "loader must not be NULL"));
}

void test_bad_arguments_of_calls_are_refused_and_change_nothing() {
  Data data;
  data.options.update_every = 3;
  const Handle loader = create(data.options);
  l2m_loader* const l = loader.get();
  std::vector<float> losses(8, 1.0F);
  expect(loader, l2m_record(l, losses.data(), 8, nullptr, L2M_LAST), L2M_FAILED, "no batch has been yielded");
  train(loader);
  const std::vector<std::byte> before = save(loader);
  std::vector<std::int32_t> classes(8, 0);
  expect(loader, l2m_next(l, nullptr), L2M_INVALID, "batch must not be NULL");
  expect(loader, l2m_record(l, nullptr, 8, nullptr, L2M_LAST), L2M_INVALID, "losses must not be NULL");
  expect(loader, l2m_record(l, losses.data(), 7, nullptr, L2M_LAST), L2M_INVALID, "one value for each of the 8 rows");
  expect(loader, l2m_record(l, losses.data(), -1, nullptr, L2M_LAST), L2M_INVALID, "count must be in [0, ");
  expect(loader, l2m_record(l, losses.data(), std::numeric_limits<std::int64_t>::max(), classes.data(), L2M_LAST),
         L2M_INVALID, "count must be in [0, ");
  expect(loader, l2m_record(l, losses.data(), 8, nullptr, -2), L2M_INVALID, "step must be in [0, ");
  expect(loader, l2m_record(l, losses.data(), 8, nullptr, 5), L2M_FAILED, "(got 5, and 1 were yielded in all)");
  classes[7] = 3;
  expect(loader, l2m_record(l, losses.data(), 8, classes.data(), L2M_LAST), L2M_INVALID, "classes must be");
  expect(loader, l2m_update(l), L2M_FAILED, "update() requires update_every=None");
  expect(loader, l2m_set_epoch(l, ~std::uint64_t{0}), L2M_INVALID, "epoch must be at most");
  expect(loader, l2m_epoch_size(l, nullptr), L2M_INVALID, "num_batches must not be NULL");
  expect(loader, l2m_num_classes(l, nullptr), L2M_INVALID, "num_classes must not be NULL");
  std::array<double, 4> values{};
  expect(loader, l2m_proportions(l, nullptr, 3), L2M_INVALID, "proportions must not be NULL");
  expect(loader, l2m_proportions(l, values.data(), 4), L2M_INVALID, "must have num_classes = 3 values (got 4)");
  expect(loader, l2m_class_losses(l, values.data(), 0), L2M_INVALID, "must have num_classes = 3 values (got 0)");
  std::size_t size = 0;
  expect(loader, l2m_state_size(l, L2M_LAST, nullptr), L2M_INVALID, "size must not be NULL");
  expect(loader, l2m_state_size(l, 5, &size), L2M_INVALID, "step must be in [0, 0]");
  std::vector<std::byte> small(before.size() - 1);
  expect(loader, l2m_state_save(l, L2M_LAST, small.data(), small.size(), nullptr), L2M_INVALID, "capacity must be at");
  expect(loader, l2m_state_save(l, L2M_LAST, nullptr, 1000, nullptr), L2M_INVALID, "state must not be NULL");
  expect(loader, l2m_state_load(l, nullptr, 1000), L2M_INVALID, "state must not be NULL");
  expect(loader, l2m_state_load_ranks(l, nullptr, nullptr, 1), L2M_INVALID, "states must not be NULL");
  const void* const states[] = {before.data(), before.data()};
  const std::size_t sizes[] = {before.size(), before.size()};
  expect(loader, l2m_state_load_ranks(l, states, sizes, 0), L2M_BAD_STATE, "got an empty list");
  expect(loader, l2m_state_load_ranks(l, states, sizes, 2), L2M_BAD_STATE, "each of the 1 ranks once");
  CHECK(save(loader) == before);
  for (const bool exact : {false, true}) {
    const std::vector<double> doubles(8, 1.0);
    classes[7] = 2;
    CHECK((exact ? l2m_record_double(l, doubles.data(), 8, classes.data(), 0)
                 : l2m_record(l, losses.data(), 8, classes.data(), L2M_LAST)) == L2M_OK);
  }
  CHECK(l2m_record(l, nullptr, 0, classes.data(), L2M_LAST) == L2M_OK);
}

}  // namespace
}  // namespace l2m::test

int main() {
  using namespace l2m::test;
  test_bad_options_are_refused_by_name();
  test_calls_after_close_and_without_a_loader_return_a_code();
  test_bad_arguments_of_calls_are_refused_and_change_nothing();
}
