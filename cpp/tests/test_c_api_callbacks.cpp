#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <limits>
#include <string>
#include <utility>
#include <vector>

#include "c_api_data.hpp"
#include "check.hpp"
#include "l2m.h"
#include "l2m/loss/window.hpp"

// The C API: callbacks, which may fail, but not call the loader.

namespace l2m::test {
namespace {

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
  const auto refused = [&](const std::function<void(l2m_policy&)>& spoil, const char* part, int code = L2M_INVALID) {
    Data data;
    Script script;
    l2m_policy policy = policy_of(script);
    spoil(policy);
    data.options.mixing = nullptr;
    data.options.num_parameters = 0;
    data.options.policy = &policy;
    const std::string error = refusal(data.options, code);
    if (!has(error, part)) fail(part, __LINE__, error.c_str());
  };
  refused([](l2m_policy& p) { p.description = nullptr; }, "description of the policy must not be NULL");
  refused([](l2m_policy& p) { p.kind = 3; }, "kind of the policy must be in [0, 2] (got 3)");
  refused([](l2m_policy& p) { p.memory_rows = -1; }, "memory_rows of the policy must be in [0, 65536]");
  refused([](l2m_policy& p) { p.initial = nullptr; }, "initial of the policy must not be NULL");
  refused([](l2m_policy& p) { p.update = nullptr; }, "update of the policy must not be NULL");
  refused([](l2m_policy& p) { p.initial = [](void*, std::size_t, const std::int64_t*, double*) { return 0; }; },
          "initial() of the policy: proportions must sum to 1", L2M_CALLBACK);
  Data data;
  Script script;
  l2m_policy policy = policy_of(script);
  data.options.policy = &policy;
  CHECK(has(refusal(data.options), "mixing must be NULL if a policy is given"));
  data.options.mixing = nullptr;
  CHECK(has(refusal(data.options), "num_parameters must be 0 if a policy is given (got 1)"));
  data.options.num_parameters = 0;
  const std::array<double, kClasses> proportions{1, 0, 0};
  data.options.proportions = proportions.data();
  CHECK(has(refusal(data.options), "proportions must be NULL if a policy is given"));
  data.options.proportions = nullptr;
  policy.kind = L2M_FIXED;
  policy.update = nullptr;
  const Handle loader = create(data.options);
  CHECK(train(loader).size() == 8);
}

/// Values that update() of a policy writes.
struct Written {
  double p, memory;
  const char* error;
};

void test_a_policy_that_writes_no_proportions_has_failed() {
  for (Written written : {Written{NAN, 0, "update() of the policy: proportions must be finite and >= 0 (got nan"},
                          Written{2, 0, "update() of the policy: proportions must sum to 1"},
                          Written{-1, 0, "update() of the policy: proportions must be finite and >= 0 (got -1"},
                          Written{1, INFINITY, "update() of the policy: memory must be finite (got inf"}}) {
    Data data;
    const l2m_policy policy{"Written()",
                            L2M_FOLLOWS_LOSSES,
                            2,
                            &written,
                            [](void* /*user_data*/, std::size_t num_classes, const std::int64_t* /*sizes*/, double* p) {
                              std::fill_n(p, num_classes, 1.0 / static_cast<double>(num_classes));
                              return 0;
                            },
                            [](void* user_data, const l2m_window* /*window*/, double* p, double* memory) {
                              const auto& [first, last, error] = *static_cast<const Written*>(user_data);
                              p[0] = first;
                              p[1] = p[2] = 0;
                              memory[2 * kClasses - 1] = last;
                              return 0;
                            }};
    data.options.mixing = nullptr;
    data.options.num_parameters = 0;
    data.options.policy = &policy;
    data.options.update_every = 2;
    const Handle loader = create(data.options);
    train(loader);
    train(loader);
    const l2m_batch* batch = nullptr;
    expect(loader, l2m_next(loader.get(), &batch), L2M_CALLBACK, written.error);
    CHECK(batch == nullptr && l2m_next(loader.get(), &batch) == L2M_OK);  // it failed twice, so the proportions stay
    std::array<double, kClasses> p{};
    CHECK(l2m_proportions(loader.get(), p.data(), kClasses) == L2M_OK && p[0] == p[2]);
  }
}

void test_losses_are_reduced_over_ranks() {
  Data data;
  Script script;
  data.options.world_size = 2;
  data.options.batch_size = 4;
  data.options.user_data = &script;
  data.options.all_reduce = [](void* user_data, double* values, std::size_t num_values) {
    auto& self = *static_cast<Script*>(user_data);
    CHECK(num_values == LossSums::kValues * kClasses + 2 && values[num_values - 1] == 1);
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

}  // namespace
}  // namespace l2m::test

int main() {
  using namespace l2m::test;
  test_callbacks_may_fail_but_not_reenter();
  test_wrong_policies_are_refused();
  test_a_policy_that_writes_no_proportions_has_failed();
  test_losses_are_reduced_over_ranks();
}
