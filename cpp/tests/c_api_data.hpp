#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <numeric>
#include <string>
#include <vector>

#include "check.hpp"
#include "l2m.h"

/// Options of the C API for a small data set, and calls that are checked.
namespace l2m::test {

constexpr std::int64_t kRows = 60;
constexpr std::size_t kClasses = 3;

/// Arrays of the caller, and options that name them.
struct Data {
  std::vector<std::int64_t> ids = std::vector<std::int64_t>(kRows);
  std::vector<float> x = std::vector<float>(3 * kRows);
  std::vector<std::int32_t> classes;
  std::array<l2m_field, 2> fields;
  l2m_parameter rate{"mixing_rate", 0.5};
  l2m_options options;

  Data() {
    std::iota(ids.begin(), ids.end(), 0);
    std::iota(x.begin(), x.end(), 0.0F);
    for (std::int64_t row = 0; row < kRows; ++row) classes.push_back(row < 40 ? 0 : row < 55 ? 1 : 2);
    fields = {{{ids.data(), 8, 0}, {x.data(), 12, 12}}};
    CHECK(l2m_options_init(&options, sizeof(options)) == L2M_OK);
    options.num_rows = kRows;
    options.fields = fields.data();
    options.num_fields = 2;
    options.classes = classes.data();
    options.class_type = L2M_INT32;
    options.batch_size = 8;
    options.mixing = "Learn2Mix";
    options.parameters = &rate;
    options.num_parameters = 1;
  }
  Data(const Data&) = delete;
  Data& operator=(const Data&) = delete;
};

using Handle = std::unique_ptr<l2m_loader, void (*)(l2m_loader*)>;

inline Handle create(const l2m_options& options, std::uint64_t seed = 5) {
  l2m_loader* loader = nullptr;
  char error[300] = "";
  if (l2m_create(&options, seed, &loader, error, sizeof(error)) != L2M_OK) fail(__FILE__, __LINE__, error);
  return {loader, [](l2m_loader* one) { CHECK(l2m_free(one) == L2M_OK); }};
}

inline bool has(const std::string& text, const char* part) { return text.find(part) != std::string::npos; }

/// Check the code and the message of a call.
inline void expect(const Handle& loader, int code, int expected, const char* part) {
  if (code == expected && has(l2m_errmsg(loader.get()), part)) return;
  fail(part, code, l2m_errmsg(loader.get()));
}

inline std::vector<float> losses_of(const l2m_batch& batch) {
  std::vector<float> losses;
  for (std::int64_t i = 0; i < batch.num_rows; ++i)
    losses.push_back(static_cast<float>((batch.rows[i] * 7 + static_cast<std::int64_t>(batch.step)) % 13));
  return losses;
}

/// Take a batch, check its memory, record its losses and release it. Return its rows; none at the end of an epoch.
inline std::vector<std::int64_t> train(const Handle& loader) {
  const l2m_batch* batch = nullptr;
  const int code = l2m_next(loader.get(), &batch);
  if (code == L2M_END) {
    CHECK(batch == nullptr);
    return {};
  }
  CHECK(code == L2M_OK);
  const auto* const ids = static_cast<const std::int64_t*>(batch->fields[0]);
  const auto* const x = static_cast<const float*>(batch->fields[1]);
  for (std::int64_t i = 0; i < batch->num_rows; ++i) {
    const std::int64_t row = batch->rows[i];
    CHECK(ids[i] == row && x[3 * i + 2] == static_cast<float>(3 * row + 2));
    CHECK(batch->classes[i] == (row < 40 ? 0 : row < 55 ? 1 : 2));
  }
  CHECK(reinterpret_cast<std::uintptr_t>(ids) % 64 == 0 && reinterpret_cast<std::uintptr_t>(x) % 64 == 0);
  const std::vector<std::int64_t> rows(batch->rows, batch->rows + batch->num_rows);
  CHECK(l2m_record(loader.get(), losses_of(*batch).data(), batch->num_rows, nullptr, L2M_LAST) == L2M_OK);
  CHECK(l2m_release(loader.get(), batch) == L2M_OK);
  return rows;
}

inline std::vector<std::byte> save(const Handle& loader, std::int64_t step = L2M_LAST) {
  std::size_t size = 0, written = 0;
  CHECK(l2m_state_size(loader.get(), step, &size) == L2M_OK);
  std::vector<std::byte> state(size);
  CHECK(l2m_state_save(loader.get(), step, state.data(), size, &written) == L2M_OK && written == size);
  return state;
}

inline std::uint64_t total_step(const Handle& loader) {
  std::uint64_t step = 0;
  CHECK(l2m_progress(loader.get(), nullptr, nullptr, &step) == L2M_OK);
  return step;
}

/// Return the message of a refused creation.
inline std::string refusal(const l2m_options& options, int expected = L2M_INVALID) {
  auto* loader = reinterpret_cast<l2m_loader*>(8);
  char error[600] = "";
  const int code = l2m_create(&options, 5, &loader, error, sizeof(error));
  if (code != expected) fail(__FILE__, code, error);
  CHECK(loader == nullptr);
  CHECK(l2m_create(&options, 5, &loader, nullptr, 0) == expected);
  char brief[10];
  CHECK(l2m_create(&options, 5, &loader, brief, sizeof(brief)) == expected);
  CHECK(std::strlen(brief) == 9 && std::string(error).starts_with(brief));
  return error;
}

/// Call every function with a loader. Return their codes.
inline std::vector<int> call_all(l2m_loader* loader) {
  const l2m_batch* batch = nullptr;
  std::int64_t number = 0;
  std::uint64_t epoch = 0;
  std::size_t size = 0;
  std::array<double, 3> values{};
  std::array<std::int64_t, 3> sizes{};
  const float loss = 1;
  const double exact = 1;
  const std::int32_t k = 0;
  std::array<char, 3000> state{};
  const void* const states[] = {state.data()};
  return {l2m_next(loader, &batch),
          l2m_record(loader, &loss, 1, &k, L2M_LAST),
          l2m_record_double(loader, &exact, 1, &k, L2M_LAST),
          l2m_update(loader),
          l2m_set_epoch(loader, 3),
          l2m_progress(loader, &epoch, &number, &epoch),
          l2m_epoch_size(loader, &number),
          l2m_num_classes(loader, &size),
          l2m_class_sizes(loader, sizes.data(), 3),
          l2m_proportions(loader, values.data(), 3),
          l2m_class_losses(loader, values.data(), 3),
          l2m_state_size(loader, L2M_LAST, &size),
          l2m_state_save(loader, L2M_LAST, state.data(), state.size(), &size),
          l2m_state_load(loader, state.data(), state.size()),
          l2m_state_load_ranks(loader, states, &size, 1)};
}

}  // namespace l2m::test
