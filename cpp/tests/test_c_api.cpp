#include <array>
#include <atomic>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <limits>
#include <memory>
#include <new>
#include <numeric>
#include <string>
#include <utility>
#include <vector>

#include "check.hpp"
#include "l2m.h"
#include "l2m/data/dense.hpp"
#include "l2m/loader.hpp"
#include "l2m/mixing/learn2mix.hpp"

// The C API: every call with valid and with bad arguments, from callbacks, after close, and without memory. A code and a
// message come back, and nothing is leaked or half changed.

namespace {

thread_local int allocations_until_failure = -1;  // 0: the next one fails; negative: none fails
std::atomic<std::int64_t> num_allocated{0};

void* allocate(std::size_t size, std::size_t alignment) {
  if (allocations_until_failure >= 0 && allocations_until_failure-- == 0) throw std::bad_alloc();
  void* const memory = std::aligned_alloc(alignment, (size / alignment + 1) * alignment);
  if (memory == nullptr) throw std::bad_alloc();
  ++num_allocated;
  return memory;
}

void release(void* memory) {
  if (memory != nullptr) --num_allocated;
  std::free(memory);
}

}  // namespace

// Not inline: gcc 12 reports inlined pairs of new and delete as a mismatch.
[[gnu::noinline]] void* operator new(std::size_t size) { return allocate(size, alignof(std::max_align_t)); }
[[gnu::noinline]] void* operator new(std::size_t size, std::align_val_t alignment) {
  return allocate(size, static_cast<std::size_t>(alignment));
}
[[gnu::noinline]] void operator delete(void* memory) noexcept { release(memory); }
[[gnu::noinline]] void operator delete(void* memory, std::size_t) noexcept { release(memory); }
[[gnu::noinline]] void operator delete(void* memory, std::align_val_t) noexcept { release(memory); }
[[gnu::noinline]] void operator delete(void* memory, std::size_t, std::align_val_t) noexcept { release(memory); }

namespace l2m::test {
namespace {

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

Handle create(const l2m_options& options, std::uint64_t seed = 5) {
  l2m_loader* loader = nullptr;
  char error[300] = "";
  if (l2m_create(&options, seed, &loader, error, sizeof(error)) != L2M_OK) fail(__FILE__, __LINE__, error);
  return {loader, [](l2m_loader* one) { CHECK(l2m_free(one) == L2M_OK); }};
}

bool has(const std::string& text, const char* part) { return text.find(part) != std::string::npos; }

/// Check the code and the message of a call.
void expect(const Handle& loader, int code, int expected, const char* part) {
  if (code == expected && has(l2m_errmsg(loader.get()), part)) return;
  fail(part, code, l2m_errmsg(loader.get()));
}

std::vector<float> losses_of(const l2m_batch& batch) {
  std::vector<float> losses;
  for (std::int64_t i = 0; i < batch.num_rows; ++i)
    losses.push_back(static_cast<float>((batch.rows[i] * 7 + static_cast<std::int64_t>(batch.step)) % 13));
  return losses;
}

/// Take a batch, check its memory, record its losses and release it. Return its rows; none at the end of an epoch.
std::vector<std::int64_t> train(const Handle& loader) {
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

std::vector<std::byte> save(const Handle& loader, std::int64_t step = L2M_LAST) {
  std::size_t size = 0, written = 0;
  CHECK(l2m_state_size(loader.get(), step, &size) == L2M_OK);
  std::vector<std::byte> state(size);
  CHECK(l2m_state_save(loader.get(), step, state.data(), size, &written) == L2M_OK && written == size);
  return state;
}

std::uint64_t total_step(const Handle& loader) {
  std::uint64_t step = 0;
  CHECK(l2m_progress(loader.get(), nullptr, nullptr, &step) == L2M_OK);
  return step;
}

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

/// Return the message of a refused creation.
std::string refusal(const l2m_options& options, int expected = L2M_INVALID) {
  auto* loader = reinterpret_cast<l2m_loader*>(8);
  char error[600] = "";
  const std::int64_t allocated = num_allocated;
  const int code = l2m_create(&options, 5, &loader, error, sizeof(error));
  if (code != expected) fail(__FILE__, code, error);
  CHECK(loader == nullptr && num_allocated == allocated);
  CHECK(l2m_create(&options, 5, &loader, nullptr, 0) == expected);
  char brief[10];
  CHECK(l2m_create(&options, 5, &loader, brief, sizeof(brief)) == expected);
  CHECK(std::strlen(brief) == 9 && std::string(error).starts_with(brief));
  return error;
}

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
  std::vector<std::int64_t> keys(kRows, largest);
  refused(
      [&](Data& d) {
        d.options.classes = keys.data();
        d.options.class_type = L2M_INT64;
      },
      "the largest class must be in [0, ");
  for (const char* name : {"", "mixing_rate, min_share", "mixing_rate,"})
    refused([&](Data& d) { d.rate.name = name; }, "the parameters of Learn2Mix must be ");
  refused([](Data& d) { d.options.classes = nullptr; }, "classes must be given, because Learn2Mix(mixing_rate=0.5");
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

/// Call every function with a loader. Return their codes.
std::vector<int> call_all(l2m_loader* loader) {
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

/// Orders for callbacks, and a record of their calls.
struct Script {
  l2m_loader* loader = nullptr;
  int status = 0;
  bool reenters = false;
  int calls = 0, ranks = 2;
  std::vector<std::string> warnings;
  std::vector<l2m_window> windows;

  int run() {
    ++calls;
    if (!reenters) return status;
    for (const int code : call_all(loader)) CHECK(code == L2M_BUSY);
    CHECK(l2m_free(loader) == L2M_BUSY && l2m_close(loader) == L2M_BUSY && l2m_release(loader, nullptr) == L2M_BUSY);
    CHECK(has(l2m_errmsg(loader), "must not be called from its callbacks"));
    return status;
  }
};

l2m_policy policy_of(Script& script) {
  return {"Alternating(rate=0.5)",
          L2M_FOLLOWS_LOSSES,
          2,
          &script,
          [](void* user_data, std::size_t num_classes, const std::int64_t* sizes, double* p) {
            for (std::size_t k = 0; k < num_classes; ++k)
              p[k] = sizes[k] > 0 ? 1.0 / static_cast<double>(num_classes) : 0;
            return static_cast<Script*>(user_data)->run();
          },
          [](void* user_data, const l2m_window* window, double* p, double* memory) {
            auto& self = *static_cast<Script*>(user_data);
            CHECK(window->num_classes == kClasses && window->class_sizes[0] == 40 && window->counts[0] >= 0);
            CHECK(window->rows_drawn[0] > 0 && window->passes[0] < 100 && window->class_losses[0] >= 0);
            CHECK(window->proportions[0] == p[0] && window->total_steps == 50);
            memory[0] += 1;
            memory[2 * kClasses - 1] = static_cast<double>(window->step);
            std::swap(p[0], p[2]);
            p[0] = 0.5 * p[0] + 0.1;
            p[1] = 1 - p[0] - p[2];
            return self.run();
          }};
}

void test_callbacks_may_fail_but_not_reenter() {
  Data data;
  Script script;
  const l2m_policy policy = policy_of(script);
  data.options.mixing = nullptr;
  data.options.num_parameters = 0;
  data.options.policy = &policy;
  data.options.update_every = 2;
  data.options.total_steps = 50;
  data.options.user_data = &script;
  data.options.warn = [](void* user_data, const char* text) {
    auto& self = *static_cast<Script*>(user_data);
    self.warnings.emplace_back(text);
    if (self.loader != nullptr) self.run();
  };
  script.status = 3;
  CHECK(refusal(data.options, L2M_CALLBACK) == "initial() of the policy must return 0 (got 3)");
  script.status = 0;
  const Handle loader = create(data.options);
  Script untouched;
  const l2m_policy policy_of_twin = policy_of(untouched);
  data.options.policy = &policy_of_twin;
  data.options.user_data = &untouched;
  const Handle twin = create(data.options);
  script.loader = loader.get();
  script.reenters = true;
  for (int i = 0; i < 9; ++i) CHECK(train(loader) == train(twin));
  CHECK(script.calls > 4);
  script.reenters = false;
  // An update that fails is repeated at the next call.
  std::vector<std::byte> before = save(loader);
  while (total_step(loader) % 2 == 1) CHECK(train(loader) == train(twin));
  CHECK(train(loader) == train(twin));
  before = save(loader);
  const std::uint64_t step = total_step(loader);
  script.status = -1;
  const l2m_batch* batch = nullptr;
  while (l2m_next(loader.get(), &batch) == L2M_OK) CHECK(l2m_release(loader.get(), batch) == L2M_OK);
  CHECK(has(l2m_errmsg(loader.get()), "update() of the policy must return 0 (got -1)") && batch == nullptr);
  script.status = 0;
  CHECK(total_step(loader) >= step && l2m_state_load(loader.get(), before.data(), before.size()) == L2M_OK);
  for (int i = 0; i < 9; ++i) CHECK(train(loader) == train(twin));
  CHECK(save(loader) == save(twin));
  // A warning comes through its callback.
  std::vector<double> losses(8, std::numeric_limits<double>::infinity());
  const std::vector<std::int32_t> classes(8, 0);
  CHECK(l2m_record_double(loader.get(), losses.data(), 8, classes.data(), L2M_LAST) == L2M_OK);
  CHECK(script.warnings.size() == 1 && has(script.warnings[0], "non-finite losses"));
}

void test_wrong_policies_are_refused() {
  const auto refused = [&](const std::function<void(l2m_policy&)>& spoil, const char* part) {
    Data data;
    Script script;
    l2m_policy policy = policy_of(script);
    spoil(policy);
    data.options.mixing = nullptr;
    data.options.policy = &policy;
    const std::string error = refusal(data.options);
    if (!has(error, part)) fail(part, __LINE__, error.c_str());
  };
  refused([](l2m_policy& p) { p.description = nullptr; }, "description of the policy must not be NULL");
  refused([](l2m_policy& p) { p.kind = 3; }, "kind of the policy must be in [0, 2] (got 3)");
  refused([](l2m_policy& p) { p.memory_rows = -1; }, "memory_rows of the policy must be in [0, 65536]");
  refused([](l2m_policy& p) { p.initial = nullptr; }, "initial of the policy must not be NULL");
  refused([](l2m_policy& p) { p.update = nullptr; }, "update of the policy must not be NULL");
  refused([](l2m_policy& p) { p.initial = [](void*, std::size_t, const std::int64_t*, double*) { return 0; }; },
          "proportions must sum to 1");
  Data data;
  Script script;
  l2m_policy policy = policy_of(script);
  data.options.policy = &policy;
  CHECK(has(refusal(data.options), "mixing must be NULL if a policy is given"));
  data.options.mixing = nullptr;
  data.options.num_parameters = 0;
  policy.kind = L2M_FIXED;
  policy.update = nullptr;
  const Handle loader = create(data.options);
  CHECK(train(loader).size() == 8);
}

void test_losses_are_reduced_over_ranks() {
  Data data;
  Script script;
  data.options.world_size = 2;
  data.options.batch_size = 4;
  data.options.user_data = &script;
  data.options.all_reduce = [](void* user_data, double* values, std::size_t num_values) {
    auto& self = *static_cast<Script*>(user_data);
    CHECK(num_values == 2 * kClasses + 1 && values[num_values - 1] == 1);
    for (std::size_t i = 0; i < num_values; ++i) values[i] *= self.ranks;
    return self.run();
  };
  const Handle loader = create(data.options);
  script.loader = loader.get();
  script.reenters = true;
  const auto finish = [&] {
    while (!train(loader).empty()) continue;
  };
  finish();
  CHECK(script.calls == 1);
  script.reenters = false;
  for (const int ranks : {1, 3}) {
    script.ranks = ranks;
    const l2m_batch* batch = nullptr;
    int code = L2M_OK;
    while ((code = l2m_next(loader.get(), &batch)) == L2M_OK) CHECK(l2m_release(loader.get(), batch) == L2M_OK);
    expect(loader, code, L2M_CALLBACK, "all_reduce() must sum over all 2 ranks (got ");
    script.ranks = 2;
    script.status = 9;
    expect(loader, l2m_next(loader.get(), &batch), L2M_CALLBACK, "all_reduce() must return 0 (got 9)");
    script.status = 0;
    CHECK(l2m_next(loader.get(), &batch) == L2M_END);
  }
  std::vector<std::vector<std::byte>> states;
  std::vector<const void*> pointers;
  std::vector<std::size_t> sizes;
  for (data.options.rank = 0; data.options.rank < 2; ++data.options.rank) {
    const Handle rank = create(data.options);
    train(rank);
    states.push_back(save(rank));
  }
  for (const auto& state : states) {
    pointers.push_back(state.data());
    sizes.push_back(state.size());
  }
  data.options.rank = 0;
  data.options.world_size = 1;
  data.options.batch_size = 8;
  const Handle alone = create(data.options);
  expect(alone, l2m_state_load(alone.get(), pointers[0], sizes[0]), L2M_BAD_STATE,
         "cannot resume as rank 0 of 1 alone");
  CHECK(l2m_state_load_ranks(alone.get(), pointers.data(), sizes.data(), 2) == L2M_OK);
  CHECK(total_step(alone) == 1 && train(alone).size() == 8);
}

/// Repeat a call, with one more successful allocation each time, until it succeeds. Return the number of failures.
int call_without_memory(const std::function<int()>& call, const std::function<void()>& check_unchanged) {
  for (int works = 0;; ++works) {
    allocations_until_failure = works;
    const int code = call();
    const bool failed = allocations_until_failure < 0;
    allocations_until_failure = -1;
    if (!failed) {
      CHECK(code == L2M_OK || code == L2M_END);
      return works;
    }
    if (code == L2M_OK || code == L2M_END) continue;  // it could do without
    CHECK(code == L2M_NO_MEMORY);
    check_unchanged();
  }
}

void test_a_call_without_memory_returns_a_code_and_changes_nothing() {
  Data data;
  data.options.update_every = 2;
  const std::int64_t allocated = num_allocated;
  {
    l2m_loader* created = nullptr;
    std::int64_t before = 0;
    char error[100] = "";
    CHECK(call_without_memory(
              [&] {
                CHECK(l2m_free(created) == L2M_OK);
                before = num_allocated;
                return l2m_create(&data.options, 5, &created, error, sizeof(error));
              },
              [&] { CHECK(created == nullptr && num_allocated == before && has(error, "out of memory")); }) > 20);
    const Handle loader(created, [](l2m_loader* one) { CHECK(l2m_free(one) == L2M_OK); });
    const Handle twin = create(data.options);
    std::vector<std::byte> state = save(loader);
    for (int i = 0; i < 12; ++i) {
      const l2m_batch *batch = nullptr, *expected = nullptr;
      int failures = call_without_memory([&] { return l2m_next(loader.get(), &batch); },
                                         [&] {
                                           CHECK(batch == nullptr);
                                           expect(loader, L2M_NO_MEMORY, L2M_NO_MEMORY, "out of memory");
                                         });
      if (l2m_next(twin.get(), &expected) == L2M_END) {
        CHECK(batch == nullptr);
        continue;
      }
      CHECK(std::vector(batch->rows, batch->rows + 8) == std::vector(expected->rows, expected->rows + 8));
      const std::vector<float> losses = losses_of(*expected);
      CHECK(l2m_record(twin.get(), losses.data(), 8, nullptr, L2M_LAST) == L2M_OK);
      const std::vector<std::byte> unrecorded = save(loader);
      failures += call_without_memory([&] { return l2m_record(loader.get(), losses.data(), 8, nullptr, L2M_LAST); },
                                      [&] { CHECK(save(loader) == unrecorded); });
      CHECK(l2m_release(loader.get(), batch) == L2M_OK && l2m_release(twin.get(), expected) == L2M_OK);
      state = save(twin);
      std::vector<std::byte> own(state.size());
      CHECK(call_without_memory([&] { return l2m_state_save(loader.get(), L2M_LAST, own.data(), own.size(), nullptr); },
                                [] {}) > 5);
      CHECK(own == state);
    }
    CHECK(call_without_memory([&] { return l2m_state_load(loader.get(), state.data(), state.size()); },
                              [&] { CHECK(save(loader) == state); }) > 20);
    CHECK(save(loader) == state);
  }
  CHECK(num_allocated == allocated);
}

void test_row_ids_and_batches_take_their_memory_from_an_allocator() {
  Data data;
  std::size_t taken = 0, now = 0;
  const auto take = [](void* user, std::size_t size, std::size_t alignment) -> void* {
    auto& [all, held] = *static_cast<std::pair<std::size_t&, std::size_t&>*>(user);
    all += size, held += size;
    return std::aligned_alloc(alignment, (size + alignment - 1) / alignment * alignment);
  };
  const auto give = [](void* user, void* memory, std::size_t size, std::size_t /*alignment*/) {
    static_cast<std::pair<std::size_t&, std::size_t&>*>(user)->second -= size;
    std::free(memory);
  };
  std::pair<std::size_t&, std::size_t&> user{taken, now};
  l2m_allocator allocator{take, give, &user};
  CHECK(l2m_set_allocator(&allocator) == L2M_OK);
  {
    const Handle loader = create(data.options);
    for (int i = 0; i < 20; ++i) train(loader);
    CHECK(now >= 2 * 2 * kRows + 8 * (8 + 12));  // row ids in order and shuffled, and a batch
    CHECK(l2m_set_allocator(nullptr) == L2M_OK);
  }
  CHECK(taken > 0 && now == 0);
  allocator.allocate = [](void* /*user*/, std::size_t /*size*/, std::size_t /*alignment*/) -> void* { return nullptr; };
  CHECK(l2m_set_allocator(&allocator) == L2M_OK);
  l2m_loader* none = nullptr;
  char error[100];
  CHECK(l2m_create(&data.options, 1, &none, error, sizeof(error)) == L2M_NO_MEMORY && none == nullptr);
  allocator.free = nullptr;
  CHECK(l2m_set_allocator(&allocator) == L2M_INVALID);
  CHECK(l2m_set_allocator(nullptr) == L2M_OK);
}

void test_calls_between_batches_without_memory_change_nothing() {
  Data data;
  using Call = std::function<int(l2m_loader*)>;
  std::array<double, kClasses> losses{};
  std::size_t size = 0;
  std::vector<std::byte> state;
  const std::vector<Call> calls{
      [](l2m_loader* loader) { return l2m_update(loader); },
      [](l2m_loader* loader) { return l2m_set_epoch(loader, 7); },
      [&](l2m_loader* loader) { return l2m_class_losses(loader, losses.data(), kClasses); },
      [&](l2m_loader* loader) { return l2m_state_size(loader, L2M_LAST, &size); },
      [&](l2m_loader* loader) { return l2m_state_load(loader, state.data(), state.size()); },
  };
  for (const Call& call : calls) {
    for (const int batches : {0, 3, 7, 8}) {
      const Handle loader = create(data.options), twin = create(data.options);
      for (int i = 0; i < batches; ++i) CHECK(train(loader) == train(twin));
      state = save(twin);
      call_without_memory([&] { return call(loader.get()); }, [&] { CHECK(save(loader) == state); });
      CHECK(call(twin.get()) == L2M_OK && save(loader) == save(twin));
      for (int i = 0; i < 9; ++i) CHECK(train(loader) == train(twin));
    }
  }
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
  test_bad_options_are_refused_by_name();
  test_calls_after_close_and_without_a_loader_return_a_code();
  test_bad_arguments_of_calls_are_refused_and_change_nothing();
  test_a_state_resumes_at_every_step_and_damage_is_refused();
  test_callbacks_may_fail_but_not_reenter();
  test_wrong_policies_are_refused();
  test_losses_are_reduced_over_ranks();
  test_a_call_without_memory_returns_a_code_and_changes_nothing();
  test_calls_between_batches_without_memory_change_nothing();
  test_row_ids_and_batches_take_their_memory_from_an_allocator();
}
