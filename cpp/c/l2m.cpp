#include "l2m.h"

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <memory>
#include <new>
#include <optional>
#include <span>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "l2m/base/errors.hpp"
#include "l2m/base/max_count.hpp"
#include "l2m/loader.hpp"
#include "options.hpp"

// The C API: converts and checks arguments, calls the core, and converts exceptions to codes.

namespace {

using l2m::CallbackFailed;
using l2m::check_pointer;
using l2m::check_range;
using l2m::message;
using l2m::refuse;

/// Copy a text with its final 0, cut between two UTF-8 characters if it is too long.
void copy_text(const char* text, char* to, std::size_t capacity) noexcept {
  if (to == nullptr || capacity == 0) return;
  std::size_t size = std::strlen(text);
  if (size >= capacity) {
    size = capacity - 1;
    while (size > 0 && (static_cast<unsigned char>(text[size]) & 0xC0) == 0x80) --size;
  }
  std::memcpy(to, text, size);
  to[size] = '\0';
}

/// Call f(). Return its code, or the code of what it throws, whose text is copied to `error`.
/// @param invalid  code of an invalid argument.
template <class F>
int code_of(char* error, std::size_t capacity, int invalid, F&& f) noexcept {
  const auto failed = [&](int code, const char* text) {
    copy_text(text, error, capacity);
    return code;
  };
  try {
    return f();
  } catch (const CallbackFailed& failure) {
    return failed(L2M_CALLBACK, failure.what());
  } catch (const l2m::OutOfMemory& failure) {
    return failed(L2M_NO_MEMORY, failure.what());
  } catch (const std::bad_alloc&) {
    return failed(L2M_NO_MEMORY, "out of memory");
  } catch (const std::length_error&) {  // more than a vector can hold
    return failed(L2M_NO_MEMORY, "out of memory");
  } catch (const std::invalid_argument& failure) {
    return failed(invalid, failure.what());
  } catch (const std::out_of_range& failure) {
    return failed(invalid, failure.what());
  } catch (const std::exception& failure) {
    return failed(L2M_FAILED, failure.what());
  } catch (...) {
    return failed(L2M_FAILED, "a callback has thrown an exception");
  }
}

std::optional<std::uint64_t> step_of(std::int64_t step) {
  if (step == L2M_LAST) return {};
  check_range("step", step, 0, l2m::kMaxCount);
  return static_cast<std::uint64_t>(step);
}

/// Batch whose memory is used again after its release.
struct Batch {
  l2m_batch view{};
  bool held = false;
  std::vector<std::int64_t> rows;
  std::vector<std::int32_t> classes;
  std::vector<double> proportions;
  std::vector<const void*> pointers;
  std::vector<l2m::Block> blocks;
};

}  // namespace

struct l2m_loader {
  l2m_loader(const l2m_options& o, std::uint64_t seed)
      : core(l2m::options_of(o, seed)), max_batches(static_cast<std::size_t>(o.max_batches)) {}

  l2m::Loader core;
  const std::size_t max_batches;
  std::optional<l2m::Iteration> iteration;
  std::vector<std::unique_ptr<Batch>> batches;
  bool busy = false, closed = false;
  char error[512] = "";

  int fail(int code, const char* text) {
    copy_text(text, error, sizeof(error));
    return code;
  }

  /// Return a batch that is not held.
  Batch& free_batch() {
    for (const auto& batch : batches)
      if (!batch->held) return *batch;
    batches.push_back(std::make_unique<Batch>());
    return *batches.back();
  }

  int next(const l2m_batch** result) {
    const auto num_held = std::ranges::count_if(batches, [](const auto& batch) { return batch->held; });
    if (static_cast<std::size_t>(num_held) >= max_batches) {
      const std::string text = message("the caller must hold at most max_batches = ", max_batches,
                                       " batches (got another call): release one first");
      return fail(L2M_TOO_MANY, text.c_str());
    }
    if (!iteration) iteration = core.iterate();
    if (!core.prepare(*iteration)) {
      iteration.reset();
      return L2M_END;
    }
    while (!core.wait(std::chrono::seconds(1))) continue;
    Batch& batch = free_batch();
    const std::uint64_t epoch = core.epoch(), step = core.total_step();
    batch.blocks = std::move(core.take()->blocks);
    try {
      batch.rows.clear();
      batch.classes.clear();
      for (const l2m::PlannedRow& planned : core.due()) {
        batch.rows.push_back(planned.row);
        batch.classes.push_back(planned.class_id);
      }
      batch.pointers.clear();
      for (const l2m::Block& block : batch.blocks) batch.pointers.push_back(block.data());
      batch.proportions = core.proportions();
      core.commit();
    } catch (...) {
      batch.blocks.clear();
      core.retry();  // so that the batch is not lost
      throw;
    }
    batch.view = {static_cast<std::int64_t>(batch.rows.size()),
                  batch.pointers.data(),
                  batch.rows.data(),
                  batch.classes.data(),
                  batch.proportions.data(),
                  epoch,
                  step};
    batch.held = true;
    *result = &batch.view;
    return L2M_OK;
  }

  int release(const l2m_batch* view) {
    const auto batch = std::ranges::find_if(batches, [&](const auto& one) { return one->held && &one->view == view; });
    if (batch == batches.end())
      return fail(L2M_INVALID, "batch must be one of this loader that is not released yet (got another)");
    (*batch)->held = false;
    core.reuse({std::move((*batch)->blocks), 0});
    return L2M_OK;
  }

  template <class Loss>
  int record(const Loss* losses, std::int64_t count, const std::int32_t* classes, std::int64_t step) {
    check_range("count", count, 0, std::numeric_limits<std::ptrdiff_t>::max() / std::int64_t{sizeof(double)});
    if (count > 0) check_pointer("losses", losses);
    const auto size = static_cast<std::size_t>(count);
    if (classes != nullptr) {
      core.record(std::span(losses, size), std::span(classes, size), step_of(step));
    } else {
      core.record(std::span(losses, size), step_of(step));
    }
    return L2M_OK;
  }

  template <class T, class Values>
  int copy(const char* name, const Values& values, T* to, std::size_t num_classes) const {
    check_pointer(name, to);
    if (num_classes != values.size())
      refuse(name, " must have num_classes = ", values.size(), " values (got ", num_classes, ")");
    std::ranges::copy(values, to);
    return L2M_OK;
  }

  int load(const void* const* states, const std::size_t* sizes, std::size_t num_states) {
    check_pointer("states", states);
    check_pointer("sizes", sizes);
    for (std::size_t i = 0; i < num_states; ++i) check_pointer("state", states[i]);
    return code_of(error, sizeof(error), L2M_BAD_STATE, [&] {
      std::vector<l2m::LoaderState> decoded;
      for (std::size_t i = 0; i < num_states; ++i)
        decoded.push_back(l2m::decode({static_cast<const std::byte*>(states[i]), sizes[i]}));
      core.load(std::move(decoded));
      iteration.reset();
      return L2M_OK;
    });
  }
};

namespace {

/// Make a call on a loader, unless one is in progress.
template <class F>
int guarded(l2m_loader* loader, F&& f) noexcept {
  if (loader == nullptr) return L2M_INVALID;
  if (loader->busy) return loader->fail(L2M_BUSY, "a loader must not be called from its callbacks (got such a call)");
  loader->busy = true;
  const int code = code_of(loader->error, sizeof(loader->error), L2M_INVALID, f);
  loader->busy = false;
  return code;
}

/// Make a call on an open loader.
template <class F>
int call(l2m_loader* loader, F&& f) noexcept {
  return guarded(loader, [&] {
    return loader->closed ? loader->fail(L2M_CLOSED, "the loader must be open (got a closed one)") : f();
  });
}

}  // namespace

extern "C" {

int l2m_options_init(l2m_options* options, size_t size) {
  if (options == nullptr || size != sizeof(l2m_options)) return L2M_INVALID;
  *options = {};
  options->size = sizeof(l2m_options);
  options->version = L2M_OPTIONS_VERSION;
  options->batch_size = 1;
  options->shuffle = 1;
  options->max_batches = 1;
  options->world_size = 1;
  options->prefetch = 4;
  return L2M_OK;
}

int l2m_set_allocator(const l2m_allocator* allocator) {
  if (allocator == nullptr) {
    l2m::set_allocator(nullptr);
    return L2M_OK;
  }
  if (allocator->allocate == nullptr || allocator->free == nullptr) return L2M_INVALID;
  const l2m::Allocator converted{allocator->allocate, allocator->free, allocator->user_data};
  l2m::set_allocator(&converted);
  return L2M_OK;
}

int l2m_create(const l2m_options* options, uint64_t seed, l2m_loader** loader, char* error, size_t error_size) {
  if (loader != nullptr) *loader = nullptr;
  return code_of(error, error_size, L2M_INVALID, [&] {
    check_pointer("options", options);
    check_pointer("loader", loader);
    if (options->size != sizeof(l2m_options) || options->version != L2M_OPTIONS_VERSION)
      refuse("options must be set by l2m_options_init(), with size ", sizeof(l2m_options), " and version ",
             L2M_OPTIONS_VERSION, " (got size ", options->size, " and version ", options->version, ")");
    *loader = std::make_unique<l2m_loader>(*options, seed).release();
    return L2M_OK;
  });
}

const char* l2m_errmsg(const l2m_loader* loader) {
  return loader == nullptr ? "loader must not be NULL (got NULL)" : loader->error;
}

int l2m_next(l2m_loader* loader, const l2m_batch** batch) {
  if (batch != nullptr) *batch = nullptr;
  return call(loader, [&] {
    check_pointer("batch", batch);
    return loader->next(batch);
  });
}

int l2m_release(l2m_loader* loader, const l2m_batch* batch) {
  return guarded(loader, [&] { return loader->release(batch); });
}

int l2m_record(l2m_loader* loader, const float* losses, int64_t count, const int32_t* classes, int64_t step) {
  return call(loader, [&] { return loader->record(losses, count, classes, step); });
}

int l2m_record_double(l2m_loader* loader, const double* losses, int64_t count, const int32_t* classes, int64_t step) {
  return call(loader, [&] { return loader->record(losses, count, classes, step); });
}

int l2m_update(l2m_loader* loader) {
  return call(loader, [&] {
    loader->core.update();
    return L2M_OK;
  });
}

int l2m_set_epoch(l2m_loader* loader, uint64_t epoch) {
  return call(loader, [&] {
    loader->core.set_epoch(epoch);
    return L2M_OK;
  });
}

int l2m_progress(l2m_loader* loader, uint64_t* epoch, int64_t* step, uint64_t* total_step) {
  return call(loader, [&] {
    if (epoch != nullptr) *epoch = loader->core.epoch();
    if (step != nullptr) *step = loader->core.step();
    if (total_step != nullptr) *total_step = loader->core.total_step();
    return L2M_OK;
  });
}

int l2m_epoch_size(l2m_loader* loader, int64_t* num_batches) {
  return call(loader, [&] {
    check_pointer("num_batches", num_batches);
    *num_batches = loader->core.size();
    return L2M_OK;
  });
}

int l2m_num_classes(l2m_loader* loader, size_t* num_classes) {
  return call(loader, [&] {
    check_pointer("num_classes", num_classes);
    *num_classes = loader->core.class_sizes().size();
    return L2M_OK;
  });
}

int l2m_class_sizes(l2m_loader* loader, int64_t* class_sizes, size_t num_classes) {
  return call(loader,
              [&] { return loader->copy("class_sizes", loader->core.class_sizes(), class_sizes, num_classes); });
}

int l2m_proportions(l2m_loader* loader, double* proportions, size_t num_classes) {
  return call(loader,
              [&] { return loader->copy("proportions", loader->core.proportions(), proportions, num_classes); });
}

int l2m_class_losses(l2m_loader* loader, double* class_losses, size_t num_classes) {
  return call(loader, [&] {
    loader->core.apply_pending();
    return loader->copy("class_losses", loader->core.class_losses(), class_losses, num_classes);
  });
}

int l2m_state_size(l2m_loader* loader, int64_t step, size_t* size) {
  return call(loader, [&] {
    check_pointer("size", size);
    *size = l2m::encoded_size(loader->core.state(step_of(step)));
    return L2M_OK;
  });
}

int l2m_state_save(l2m_loader* loader, int64_t step, void* state, size_t capacity, size_t* size) {
  return call(loader, [&] {
    check_pointer("state", state);
    const l2m::LoaderState saved = loader->core.state(step_of(step));
    const std::size_t needed = l2m::encoded_size(saved);
    if (capacity < needed) refuse("capacity must be at least ", needed, " bytes (got ", capacity, ")");
    l2m::encode(saved, {static_cast<std::byte*>(state), needed});
    if (size != nullptr) *size = needed;
    return L2M_OK;
  });
}

int l2m_state_load(l2m_loader* loader, const void* state, size_t size) {
  return l2m_state_load_ranks(loader, &state, &size, 1);
}

int l2m_state_load_ranks(l2m_loader* loader, const void* const* states, const size_t* sizes, size_t num_states) {
  return call(loader, [&] { return loader->load(states, sizes, num_states); });
}

int l2m_close(l2m_loader* loader) {
  return guarded(loader, [&] {
    loader->core.close();
    loader->closed = true;
    return L2M_OK;
  });
}

int l2m_free(l2m_loader* loader) {
  if (loader == nullptr) return L2M_OK;
  const int code = l2m_close(loader);
  if (code == L2M_OK) delete loader;
  return code;
}

}  // extern "C"
