#include "l2m.h"

#include <algorithm>
#include <chrono>
#include <cmath>
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
#include "l2m/data/dense.hpp"
#include "l2m/loader.hpp"
#include "l2m/mixing/named.hpp"

// The C API: converts and checks arguments, calls the core, and converts exceptions to codes.

namespace {

using l2m::check_range;
using l2m::message;
using l2m::refuse;

constexpr std::int64_t kMaxBytes = std::numeric_limits<std::ptrdiff_t>::max();

/// Exception for a callback that failed.
class CallbackFailed : public std::runtime_error {
  using std::runtime_error::runtime_error;
};

void check_pointer(const char* name, const void* pointer) {
  if (pointer == nullptr) refuse(name, " must not be NULL (got NULL)");
}

void check_status(int status, const char* function) {
  if (status != 0) throw CallbackFailed(message(function, " must return 0 (got ", status, ")"));
}

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

/// Policy of the caller.
class CallerPolicy final : public l2m::Policy {
 public:
  explicit CallerPolicy(const l2m_policy& policy) : policy_(policy), description_(policy.description) {}

  [[nodiscard]] Kind kind() const override {
    return policy_.kind == L2M_FIXED      ? Kind::kFixed
           : policy_.kind == L2M_SCHEDULE ? Kind::kSchedule
                                          : Kind::kFollowsLosses;
  }
  [[nodiscard]] std::string describe() const override { return description_; }
  [[nodiscard]] std::int64_t memory_rows() const override { return policy_.memory_rows; }
  [[nodiscard]] bool uses_rows() const override { return true; }
  [[nodiscard]] std::vector<double> initial(std::span<const std::int64_t> class_sizes) const override {
    std::vector<double> proportions(class_sizes.size());
    const int status = policy_.initial(policy_.user_data, class_sizes.size(), class_sizes.data(), proportions.data());
    check_status(status, "initial() of the policy");
    return proportions;
  }
  [[nodiscard]] Update update(const l2m::Window& window) const override {
    const l2m_window given{
        window.class_sizes.size(),     window.proportions.data(), window.class_losses.data(), window.class_sizes.data(),
        window.counts.data(),          window.rows_drawn.data(),  window.passes.data(),       window.step,
        window.total_steps.value_or(0)};
    Update update{{window.proportions.begin(), window.proportions.end()},
                  std::vector<double>(window.memory.begin(), window.memory.end())};
    const int status = policy_.update(policy_.user_data, &given, update.proportions.data(), update.memory->data());
    check_status(status, "update() of the policy");
    return update;
  }

 private:
  const l2m_policy policy_;
  const std::string description_;
};

std::shared_ptr<const l2m::Policy> policy_of(const l2m_options& o, std::size_t num_classes) {
  if (o.policy != nullptr) {
    if (o.mixing != nullptr) refuse("mixing must be NULL if a policy is given (got ", l2m::shortened(o.mixing), ")");
    check_pointer("description of the policy", o.policy->description);
    check_range("kind of the policy", o.policy->kind, L2M_FIXED, L2M_FOLLOWS_LOSSES);
    check_range("memory_rows of the policy", o.policy->memory_rows, 0, 1 << 16);
    if (o.policy->initial == nullptr) refuse("initial of the policy must not be NULL (got NULL)");
    if (o.policy->update == nullptr && o.policy->kind != L2M_FIXED)
      refuse("update of the policy must not be NULL (got NULL)");
    return std::make_shared<CallerPolicy>(*o.policy);
  }
  if (o.num_parameters > 0) check_pointer("parameters", o.parameters);
  std::vector<l2m::PolicyParameter> parameters;
  for (std::size_t i = 0; i < o.num_parameters; ++i) {
    check_pointer("the name of a parameter", o.parameters[i].name);
    parameters.push_back({o.parameters[i].name, o.parameters[i].value});
  }
  std::vector<double> proportions;
  if (o.proportions != nullptr) proportions.assign(o.proportions, o.proportions + num_classes);
  return l2m::named_policy(o.mixing != nullptr ? o.mixing : "Proportional", parameters, std::move(proportions));
}

/// Call f with a span over the classes.
template <class F>
auto with_classes(const l2m_options& o, F&& f) {
  const auto call = [&]<class Class>(Class) {
    if (o.num_rows > kMaxBytes / static_cast<std::int64_t>(sizeof(Class)))
      refuse("classes must fit into memory (got ", o.num_rows, " rows)");
    return f(std::span(static_cast<const Class*>(o.classes), static_cast<std::size_t>(o.num_rows)));
  };
  switch (o.class_type) {
    case L2M_INT8:
      return call(std::int8_t{});
    case L2M_INT16:
      return call(std::int16_t{});
    case L2M_INT32:
      return call(std::int32_t{});
    case L2M_INT64:
      return call(std::int64_t{});
    case L2M_UINT8:
      return call(std::uint8_t{});
    case L2M_UINT16:
      return call(std::uint16_t{});
    case L2M_UINT32:
      return call(std::uint32_t{});
    default:
      refuse("class_type must be L2M_INT8 to L2M_UINT32 (got ", o.class_type, ")");
  }
}

std::shared_ptr<const l2m::ClassIndex> index_of(const l2m_options& o) {
  if ((o.rows == nullptr) != (o.num_selected == 0))
    refuse("rows and num_selected must both be given or both be 0 (got ", o.rows == nullptr ? "NULL" : "rows", " and ",
           o.num_selected, ")");
  std::optional<std::span<const std::int64_t>> rows;
  if (o.rows != nullptr) {
    check_range("num_selected", o.num_selected, 1, o.num_rows);
    rows.emplace(o.rows, static_cast<std::size_t>(o.num_selected));
  }
  const int threads = std::max(o.num_threads, 1);
  if (o.classes == nullptr) {
    if (o.num_classes != 0) refuse("num_classes must be 0 without classes (got ", o.num_classes, ")");
    if (!rows) return std::make_shared<l2m::ClassIndex>(o.num_rows);
    const bool as_given = o.shuffle == 0;
    return std::make_shared<l2m::ClassIndex>(std::span<const std::int64_t>{}, 1, o.num_rows, rows, threads, as_given);
  }
  return with_classes(o, [&](auto classes) -> std::shared_ptr<const l2m::ClassIndex> {
    // Larger ids are probably keys of another kind, and would need much memory.
    const std::int64_t max_classes = std::max<std::int64_t>(1 << 20, 8 * std::min(o.num_rows, l2m::kMaxCount));
    std::int64_t num_classes = o.num_classes;
    const std::int64_t max = std::min<std::int64_t>(max_classes, std::numeric_limits<std::int32_t>::max());
    if (num_classes == 0) {
      const auto largest = static_cast<std::int64_t>(std::ranges::max(classes));
      check_range("the largest class", largest, 0, max - 1);
      num_classes = largest + 1;
    }
    check_range("num_classes", num_classes, 1, max);
    return std::make_shared<l2m::ClassIndex>(classes, num_classes, o.num_rows, rows, threads);
  });
}

l2m::Fields fields_of(const l2m_options& o) {
  if (o.num_fields > 0) check_pointer("fields", o.fields);
  l2m::Fields fields;
  for (std::size_t f = 0; f < o.num_fields; ++f) {
    const l2m_field& field = o.fields[f];
    const std::string name = "field " + std::to_string(f);
    check_pointer((name + ": data").c_str(), field.data);
    check_range((name + ": row_bytes").c_str(), field.row_bytes, 1, kMaxBytes / o.batch_size);
    const std::int64_t stride = field.stride == 0 ? field.row_bytes : field.stride;
    const std::int64_t max_stride = (kMaxBytes - field.row_bytes) / std::max<std::int64_t>(o.num_rows - 1, 1);
    check_range((name + ": stride").c_str(), stride, -max_stride, max_stride);
    fields.push_back(std::make_shared<l2m::Dense>(static_cast<const std::byte*>(field.data), stride, field.row_bytes));
  }
  return fields;
}

template <class Int>
std::optional<Int> unless_zero(Int value) {
  return value == 0 ? std::nullopt : std::optional(value);
}

/// Replace sums by those of all ranks.
void reduce(const l2m_options& o, l2m::LossSums& sums) {
  std::vector<double> values(sums.sum.begin(), sums.sum.end());
  values.insert(values.end(), sums.count.begin(), sums.count.end());
  values.push_back(1);  // becomes the number of ranks that took part
  check_status(o.all_reduce(o.user_data, values.data(), values.size()), "all_reduce()");
  if (values.back() != static_cast<double>(o.world_size))
    throw CallbackFailed(message("all_reduce() must sum over all ", o.world_size, " ranks (got ", values.back(),
                                 " for a value that is 1 on each)"));
  const std::size_t num_classes = sums.sum.size();
  for (std::size_t k = 0; k < num_classes; ++k) {
    const double count = values[num_classes + k];
    if (!(count >= 0 && count <= 0x1p53 * static_cast<double>(o.world_size) && count == std::floor(count)))
      throw CallbackFailed(message("all_reduce() must return a whole number of losses (got ", count, ")"));
    sums.sum[k] = values[k];
    sums.count[k] = static_cast<std::int64_t>(std::min(count, 0x1p62));
  }
}

/// Convert options after checking them.
l2m::LoaderOptions options_of(const l2m_options& o, std::uint64_t seed) {
  check_range("num_rows", o.num_rows, 1, kMaxBytes);
  check_range("batch_size", o.batch_size, 1, std::numeric_limits<std::int32_t>::max());
  check_range("steps_per_epoch", o.steps_per_epoch, 0, l2m::kMaxCount);
  check_range("shuffle", o.shuffle, 0, 1);
  check_range("grouped", o.grouped, 0, 1);
  check_range("drop_last", o.drop_last, 0, 1);
  check_range("max_batches", o.max_batches, 1, 1 << 16);
  check_range("update_every", o.update_every, 0, l2m::kMaxCount);
  if (o.total_steps > std::uint64_t{l2m::kMaxCount})
    refuse("total_steps must be at most ", l2m::kMaxCount, " (got ", o.total_steps, ")");
  check_range("num_threads", o.num_threads, 0, 1024);
  check_range("prefetch", o.prefetch, 0, 1 << 16);
  l2m::LoaderOptions options;
  options.index = index_of(o);
  options.fields = fields_of(o);
  options.mixing = policy_of(o, static_cast<std::size_t>(options.index->num_classes()));
  options.mixing_name = l2m::shortened(options.mixing->describe());
  options.batch_size = o.batch_size;
  options.rank = o.rank;
  options.world_size = o.world_size;
  options.has_classes = o.classes != nullptr;
  options.shuffle = o.shuffle != 0;
  options.grouped = o.grouped != 0;
  options.drop_last = o.drop_last != 0;
  options.steps_per_epoch = unless_zero(o.steps_per_epoch);
  options.total_steps = unless_zero(o.total_steps);
  options.update_every = unless_zero(o.update_every);
  options.lookahead = o.lookahead;
  options.seed = seed;
  options.prefetch = o.prefetch;
  options.num_threads = o.num_threads;
  if (o.warn != nullptr)
    options.warn = [warn = o.warn, user_data = o.user_data](const std::string& text) { warn(user_data, text.c_str()); };
  if (o.all_reduce != nullptr) options.all_reduce = [o](l2m::LossSums& sums) { reduce(o, sums); };
  return options;
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
      : core(options_of(o, seed)), max_batches(static_cast<std::size_t>(o.max_batches)) {}

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
    check_range("count", count, 0, kMaxBytes / static_cast<std::int64_t>(sizeof(double)));
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
