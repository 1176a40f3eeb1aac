#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <functional>
#include <new>
#include <utility>
#include <vector>

#include "c_api_data.hpp"
#include "check.hpp"
#include "l2m.h"

// The C API without memory, and with an allocator of the caller. Nothing is leaked or half changed.

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
    int failures = 0;
    for (int i = 0; i < 12; ++i) {
      const l2m_batch *batch = nullptr, *expected = nullptr;
      failures += call_without_memory([&] { return l2m_next(loader.get(), &batch); },
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
    CHECK(failures > 20);
    CHECK(call_without_memory([&] { return l2m_state_load(loader.get(), state.data(), state.size()); },
                              [&] { CHECK(save(loader) == state); }) > 20);
    CHECK(save(loader) == state);
  }
  CHECK(num_allocated == allocated);
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

}  // namespace
}  // namespace l2m::test

int main() {
  using namespace l2m::test;
  test_a_call_without_memory_returns_a_code_and_changes_nothing();
  test_calls_between_batches_without_memory_change_nothing();
  test_row_ids_and_batches_take_their_memory_from_an_allocator();
}
