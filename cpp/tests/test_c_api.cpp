#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "c_api_data.hpp"
#include "check.hpp"
#include "l2m.h"
#include "l2m/data/dense.hpp"
#include "l2m/loader.hpp"
#include "l2m/mixing/learn2mix.hpp"

// The C API: batches and states.

namespace l2m::test {
namespace {

void test_batches_are_those_of_the_core() {
  Data data;
  data.options.num_threads = 2;
  const Handle loader = create(data.options);
  LoaderOptions options;
  options.index = std::make_shared<ClassIndex>(std::span<const std::int32_t>(data.classes), 3, kRows, std::nullopt, 1);
  options.fields = {std::make_shared<Dense>(reinterpret_cast<const std::byte*>(data.ids.data()), 8, 8),
                    std::make_shared<Dense>(reinterpret_cast<const std::byte*>(data.x.data()), 12, 12)};
  options.mixing = std::make_shared<Learn2Mix>(0.5, 0, Learn2Mix::Start::kProportional);
  options.batch_size = 8;
  options.has_classes = true;
  options.seed = 5;
  Loader core(options);
  for (int epoch = 0; epoch < 4; ++epoch) {
    for (const Iteration iteration = core.iterate(); core.next(iteration);) {
      const l2m_batch* batch = nullptr;
      CHECK(l2m_next(loader.get(), &batch) == L2M_OK);
      const BatchPlan plan = core.plan().value();
      CHECK(batch->num_rows == std::ssize(plan) && batch->step + 1 == core.total_step());
      CHECK(batch->epoch == static_cast<std::uint64_t>(epoch));
      for (std::size_t i = 0; i < plan.size(); ++i) CHECK(batch->rows[i] == plan[i].row);
      const std::vector<float> losses = losses_of(*batch);
      core.record(std::span<const float>(losses));
      CHECK(l2m_record(loader.get(), losses.data(), 8, nullptr, L2M_LAST) == L2M_OK);
      CHECK(l2m_release(loader.get(), batch) == L2M_OK);
      const std::vector<std::byte> state = save(loader);
      CHECK(encoded_size(core.state()) == state.size());
      std::vector<std::byte> expected(state.size());
      encode(core.state(), expected);
      CHECK(state == expected);
    }
    CHECK(train(loader).empty());
    std::array<double, kClasses> p{}, known{};
    CHECK(l2m_proportions(loader.get(), p.data(), kClasses) == L2M_OK);
    CHECK(l2m_class_losses(loader.get(), known.data(), kClasses) == L2M_OK);
    CHECK(std::ranges::equal(p, core.proportions()) && std::ranges::equal(known, core.class_losses()));
  }
}

void test_what_a_loader_tells() {
  Data data;
  data.options.steps_per_epoch = 4;
  const Handle loader = create(data.options);
  std::int64_t size = 0, step = 0;
  std::size_t num_classes = 0;
  std::uint64_t epoch = 0;
  std::array<std::int64_t, kClasses> sizes{};
  std::array<double, kClasses> losses{};
  CHECK(l2m_epoch_size(loader.get(), &size) == L2M_OK && size == 4);
  CHECK(l2m_num_classes(loader.get(), &num_classes) == L2M_OK && num_classes == 3);
  CHECK(l2m_class_sizes(loader.get(), sizes.data(), 3) == L2M_OK && sizes == (std::array<std::int64_t, 3>{40, 15, 5}));
  CHECK(l2m_class_losses(loader.get(), losses.data(), 3) == L2M_OK && std::isnan(losses[0]));
  for (int i = 0; i < 6; ++i) train(loader);
  CHECK(l2m_progress(loader.get(), &epoch, &step, nullptr) == L2M_OK && epoch == 1 && step == 1);
  CHECK(l2m_set_epoch(loader.get(), 9) == L2M_OK);
  while (!train(loader).empty()) continue;
  CHECK(l2m_progress(loader.get(), &epoch, &step, nullptr) == L2M_OK && epoch == 9 && step == 0);
  CHECK(*l2m_errmsg(loader.get()) == '\0');
}

void test_several_batches_may_be_held() {
  Data data;
  data.options.max_batches = 3;
  const Handle loader = create(data.options), other = create(data.options);
  std::array<const l2m_batch*, 3> batches{};
  for (const l2m_batch*& batch : batches) CHECK(l2m_next(loader.get(), &batch) == L2M_OK);
  std::vector<std::int64_t> rows;
  for (const l2m_batch* batch : batches) rows.insert(rows.end(), batch->rows, batch->rows + 8);
  const l2m_batch* another = nullptr;
  expect(loader, l2m_next(loader.get(), &another), L2M_TOO_MANY, "at most max_batches = 3 batches");
  CHECK(another == nullptr && total_step(loader) == 3);
  expect(other, l2m_release(other.get(), batches[0]), L2M_INVALID, "must be one of this loader");
  CHECK(l2m_release(loader.get(), batches[1]) == L2M_OK);
  expect(loader, l2m_release(loader.get(), batches[1]), L2M_INVALID, "not released yet");
  expect(loader, l2m_release(loader.get(), nullptr), L2M_INVALID, "not released yet");
  CHECK(l2m_state_load(loader.get(), save(other).data(), save(other).size()) == L2M_OK);
  CHECK(l2m_next(loader.get(), &another) == L2M_OK && another == batches[1]);
  CHECK(l2m_close(loader.get()) == L2M_OK);
  for (const std::size_t b : {0U, 2U})  // still valid
    for (std::size_t i = 0; i < 8; ++i) {
      CHECK(batches[b]->rows[i] == rows[8 * b + i]);
      CHECK(static_cast<const std::int64_t*>(batches[b]->fields[0])[i] == rows[8 * b + i]);
    }
  CHECK(l2m_release(loader.get(), batches[0]) == L2M_OK);
}

void test_any_number_of_fields_and_any_type_of_classes() {
  Data data;
  std::vector<std::vector<std::int64_t>> all;
  const auto run = [&](int type, const void* classes) {
    data.options.class_type = type;
    data.options.classes = classes;
    const Handle loader = create(data.options);
    all.push_back(train(loader));
    CHECK(all.back() == all.front());
  };
  const auto converted = [&]<class T>(T) { return std::vector<T>(data.classes.begin(), data.classes.end()); };
  run(L2M_INT8, converted(std::int8_t{}).data());
  run(L2M_INT16, converted(std::int16_t{}).data());
  run(L2M_INT32, converted(std::int32_t{}).data());
  run(L2M_INT64, converted(std::int64_t{}).data());
  run(L2M_UINT8, converted(std::uint8_t{}).data());
  run(L2M_UINT16, converted(std::uint16_t{}).data());
  run(L2M_UINT32, converted(std::uint32_t{}).data());
  data.options.class_type = L2M_INT32;
  data.options.classes = data.classes.data();
  data.options.num_fields = 0;
  data.options.fields = nullptr;
  const Handle loader = create(data.options);
  const l2m_batch* batch = nullptr;
  CHECK(l2m_next(loader.get(), &batch) == L2M_OK && batch->num_rows == 8);
  CHECK(std::vector(batch->rows, batch->rows + 8) == all.front());
}

void test_rows_come_in_the_given_order_without_classes() {
  Data data;
  const std::vector<std::int64_t> rows{7, 3, 50, 0, 9};
  data.options.classes = nullptr;
  data.options.class_type = 0;
  data.options.mixing = nullptr;
  data.options.num_parameters = 0;
  data.options.shuffle = 0;
  data.options.rows = rows.data();
  data.options.num_selected = 5;
  data.options.batch_size = 2;
  data.fields[0] = {&data.ids.back(), 8, -8};  // from the end
  const Handle loader = create(data.options);
  std::vector<std::int64_t> got, ids;
  const l2m_batch* batch = nullptr;
  while (l2m_next(loader.get(), &batch) == L2M_OK) {
    got.insert(got.end(), batch->rows, batch->rows + batch->num_rows);
    const auto* const memory = static_cast<const std::int64_t*>(batch->fields[0]);
    ids.insert(ids.end(), memory, memory + batch->num_rows);
    CHECK(l2m_release(loader.get(), batch) == L2M_OK);
  }
  CHECK(got == rows);
  for (std::size_t i = 0; i < rows.size(); ++i) CHECK(ids[i] == kRows - 1 - rows[i]);
}

void test_a_state_resumes_at_every_step_and_damage_is_refused() {
  Data data;
  data.options.update_every = 2;
  data.options.lookahead = 1;
  const Handle run = create(data.options);
  while (total_step(run) < 16) {
    const std::vector<std::byte> state = save(run);
    const Handle resumed = create(data.options, 77), expected = create(data.options, 78);
    CHECK(l2m_state_load(resumed.get(), state.data(), state.size()) == L2M_OK);
    CHECK(l2m_state_load(expected.get(), state.data(), state.size()) == L2M_OK);
    const std::vector<std::int64_t> rows = train(run);
    if (!rows.empty()) CHECK(train(resumed) == rows);
    CHECK(!rows.empty() || train(resumed) == train(expected));
  }
  const std::vector<std::byte> state = save(run);
  for (std::size_t at = 0; at < state.size(); ++at) {
    std::vector<std::byte> damaged = state;
    damaged[at] ^= static_cast<std::byte>(1 << at % 8);
    expect(run, l2m_state_load(run.get(), damaged.data(), damaged.size()), L2M_BAD_STATE, "must");
    // A copy, so that sanitizers see a read beyond the end.
    const std::vector<std::byte> cut(state.begin(), state.begin() + static_cast<std::ptrdiff_t>(at));
    const std::byte nothing{};
    expect(run, l2m_state_load(run.get(), cut.empty() ? &nothing : cut.data(), at), L2M_BAD_STATE, "must");
  }
  Data other;
  other.options.batch_size = 4;
  const Handle different = create(other.options);
  expect(different, l2m_state_load(different.get(), state.data(), state.size()), L2M_BAD_STATE,
         "global_batch: 8 in the state, 4 here; update_every: 2 in the state, none here; lookahead: 1 in the state");
  CHECK(save(run) == state);
}

}  // namespace
}  // namespace l2m::test

int main() {
  using namespace l2m::test;
  test_batches_are_those_of_the_core();
  test_what_a_loader_tells();
  test_several_batches_may_be_held();
  test_any_number_of_fields_and_any_type_of_classes();
  test_rows_come_in_the_given_order_without_classes();
  test_a_state_resumes_at_every_step_and_damage_is_refused();
}
