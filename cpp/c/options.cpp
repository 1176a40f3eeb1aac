#include "options.hpp"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <limits>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "l2m/base/errors.hpp"
#include "l2m/base/max_count.hpp"
#include "l2m/data/dense.hpp"
#include "l2m/mixing/named.hpp"
#include "l2m/mixing/proportions.hpp"

// Options of the C API, and the callbacks that they contain.

namespace l2m {
namespace {

constexpr std::int64_t kMaxBytes = std::numeric_limits<std::ptrdiff_t>::max();

void check_status(int status, const char* function) {
  if (status != 0) throw CallbackFailed(message(function, " must return 0 (got ", status, ")"));
}

/// Policy of the caller.
class CallerPolicy final : public Policy {
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
    check_result("initial() of the policy", proportions, class_sizes, {});
    return proportions;
  }
  void update(const Window& window, std::span<double> proportions, std::span<double> memory) const override {
    const l2m_window given{
        window.class_sizes.size(),     window.proportions.data(), window.class_losses.data(), window.class_sizes.data(),
        window.counts.data(),          window.rows_drawn.data(),  window.passes.data(),       window.step,
        window.total_steps.value_or(0)};
    const int status = policy_.update(policy_.user_data, &given, proportions.data(), memory.data());
    check_status(status, "update() of the policy");
    check_result("update() of the policy", proportions, window.class_sizes, memory);
  }

 private:
  static void check_result(const char* function, std::span<const double> proportions,
                           std::span<const std::int64_t> class_sizes, std::span<const double> memory) {
    try {
      check_proportions(proportions, class_sizes);
    } catch (const std::invalid_argument& error) {
      throw CallbackFailed(message(function, ": ", error.what()));
    }
    for (const double value : memory)
      if (!std::isfinite(value)) throw CallbackFailed(message(function, ": memory must be finite (got ", value, ")"));
  }

  const l2m_policy policy_;
  const std::string description_;
};

std::shared_ptr<const Policy> policy_of(const l2m_options& o, std::size_t num_classes) {
  if (o.policy != nullptr) {
    if (o.mixing != nullptr) refuse("mixing must be NULL if a policy is given (got ", shortened(o.mixing), ")");
    if (o.num_parameters > 0) refuse("num_parameters must be 0 if a policy is given (got ", o.num_parameters, ")");
    if (o.proportions != nullptr) refuse("proportions must be NULL if a policy is given (got an array)");
    check_pointer("description of the policy", o.policy->description);
    check_range("kind of the policy", o.policy->kind, L2M_FIXED, L2M_FOLLOWS_LOSSES);
    check_range("memory_rows of the policy", o.policy->memory_rows, 0, 1 << 16);
    if (o.policy->initial == nullptr) refuse("initial of the policy must not be NULL (got NULL)");
    if (o.policy->update == nullptr && o.policy->kind != L2M_FIXED)
      refuse("update of the policy must not be NULL (got NULL)");
    return std::make_shared<CallerPolicy>(*o.policy);
  }
  if (o.num_parameters > 0) check_pointer("parameters", o.parameters);
  std::vector<PolicyParameter> parameters;
  for (std::size_t i = 0; i < o.num_parameters; ++i) {
    check_pointer("the name of a parameter", o.parameters[i].name);
    parameters.push_back({o.parameters[i].name, o.parameters[i].value});
  }
  std::vector<double> proportions;
  if (o.proportions != nullptr) proportions.assign(o.proportions, o.proportions + num_classes);
  return named_policy(o.mixing != nullptr ? o.mixing : "Proportional", parameters, std::move(proportions));
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

std::shared_ptr<const ClassIndex> index_of(const l2m_options& o) {
  if ((o.rows == nullptr) != (o.num_selected == 0))
    refuse("rows and num_selected must both be given or both be 0 (got ", o.rows == nullptr ? "NULL" : "rows", " and ",
           o.num_selected, ")");
  std::optional<std::span<const std::int64_t>> rows;
  if (o.rows != nullptr) {
    check_range("num_selected", o.num_selected, 1, o.num_rows);
    rows.emplace(o.rows, static_cast<std::size_t>(o.num_selected));
  }
  const int threads = std::max(o.num_threads, 1);
  const bool shuffle = o.shuffle != 0;
  if (o.classes == nullptr) {
    if (o.num_classes != 0) refuse("num_classes must be 0 without classes (got ", o.num_classes, ")");
    if (o.class_type != 0) refuse("class_type must be 0 without classes (got ", o.class_type, ")");
    if (!rows) return std::make_shared<ClassIndex>(o.num_rows);
    return std::make_shared<ClassIndex>(std::span<const std::int64_t>{}, 1, o.num_rows, rows, threads, shuffle);
  }
  return with_classes(o, [&](auto classes) -> std::shared_ptr<const ClassIndex> {
    // Larger ids are probably keys of another kind, and would need much memory.
    const std::int64_t max_classes = std::max<std::int64_t>(1 << 20, 8 * std::min(o.num_rows, kMaxCount));
    std::int64_t num_classes = o.num_classes;
    const std::int64_t max = std::min<std::int64_t>(max_classes, std::numeric_limits<std::int32_t>::max());
    if (num_classes == 0) {
      const auto largest = static_cast<std::int64_t>(std::ranges::max(classes));
      check_range("the largest class", largest, 0, max - 1);
      num_classes = largest + 1;
    }
    check_range("num_classes", num_classes, 1, max);
    return std::make_shared<ClassIndex>(classes, num_classes, o.num_rows, rows, threads, shuffle);
  });
}

Fields fields_of(const l2m_options& o) {
  if (o.num_fields > 0) check_pointer("fields", o.fields);
  Fields fields;
  for (std::size_t f = 0; f < o.num_fields; ++f) {
    const l2m_field& field = o.fields[f];
    const std::string name = "field " + std::to_string(f);
    check_pointer((name + ": data").c_str(), field.data);
    check_range((name + ": row_bytes").c_str(), field.row_bytes, 1, kMaxBytes / o.batch_size);
    const std::int64_t stride = field.stride == 0 ? field.row_bytes : field.stride;
    const std::int64_t max_stride = (kMaxBytes - field.row_bytes) / std::max<std::int64_t>(o.num_rows - 1, 1);
    check_range((name + ": stride").c_str(), stride, -max_stride, max_stride);
    fields.push_back(std::make_shared<Dense>(static_cast<const std::byte*>(field.data), stride, field.row_bytes));
  }
  return fields;
}

template <class Int>
std::optional<Int> unless_zero(Int value) {
  return value == 0 ? std::nullopt : std::optional(value);
}

/// Replace values by their sums over all ranks.
void reduce(const l2m_options& o, std::span<double> values) {
  std::vector<double> given(values.begin(), values.end());
  constexpr double kProbe = 0x1p32 - 1;  // float would round it
  given.push_back(kProbe);
  given.push_back(1);  // becomes the number of ranks that took part
  check_status(o.all_reduce(o.user_data, given.data(), given.size()), "all_reduce()");
  if (given.back() != static_cast<double>(o.world_size))
    throw CallbackFailed(message("all_reduce() must sum over all ", o.world_size, " ranks (got ", given.back(),
                                 " for a value that is 1 on each)"));
  const auto world_size = static_cast<double>(o.world_size);
  bool exact = given[values.size()] == kProbe * world_size;
  for (std::size_t i = 0; i < values.size(); ++i) {
    values[i] = given[i];
    exact = exact && std::abs(values[i]) <= 0x1p53 * world_size && values[i] == std::floor(values[i]);
  }
  if (!exact) throw CallbackFailed("all_reduce() must sum doubles without rounding them");
}

}  // namespace

void check_pointer(const char* name, const void* pointer) {
  if (pointer == nullptr) refuse(name, " must not be NULL (got NULL)");
}

LoaderOptions options_of(const l2m_options& o, std::uint64_t seed) {
  check_range("num_rows", o.num_rows, 1, kMaxBytes);
  check_range("batch_size", o.batch_size, 1, std::numeric_limits<std::int32_t>::max());
  check_range("steps_per_epoch", o.steps_per_epoch, 0, kMaxCount);
  check_range("shuffle", o.shuffle, 0, 1);
  check_range("grouped", o.grouped, 0, 1);
  check_range("drop_last", o.drop_last, 0, 1);
  check_range("max_batches", o.max_batches, 1, 1 << 16);
  check_range("update_every", o.update_every, 0, kMaxCount);
  if (o.total_steps > std::uint64_t{kMaxCount})
    refuse("total_steps must be at most ", kMaxCount, " (got ", o.total_steps, ")");
  check_range("num_threads", o.num_threads, 0, 1024);
  check_range("prefetch", o.prefetch, 0, 1 << 16);
  LoaderOptions options;
  options.index = index_of(o);
  options.fields = fields_of(o);
  options.mixing = policy_of(o, static_cast<std::size_t>(options.index->num_classes()));
  options.mixing_name = shortened(options.mixing->describe());
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
  if (o.all_reduce != nullptr) options.all_reduce = [o](std::span<double> values) { reduce(o, values); };
  return options;
}

}  // namespace l2m
