#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <memory>
#include <optional>
#include <span>
#include <string_view>
#include <utility>
#include <vector>

#include "check.hpp"
#include "l2m/base/hash.hpp"
#include "l2m/base/math.hpp"
#include "l2m/base/random.hpp"
#include "l2m/base/threads.hpp"
#include "l2m/data/dense.hpp"
#include "l2m/data/normalize.hpp"
#include "l2m/data/row_ids.hpp"
#include "l2m/loader.hpp"
#include "l2m/loader_state.hpp"
#include "l2m/mixing/named.hpp"

// Runs of the whole loader, whose batches, proportions and states have the same bits on every machine.

namespace l2m::test {
namespace {

constexpr std::uint64_t kGolden = 0x0c97a5542eba2a96;

Sfc64 randomness(std::uint64_t number) { return Sfc64(RandomStream(number, Purpose::kShuffle, 0)); }

/// Return a number in [0, 1).
double uniform(Sfc64& random) { return static_cast<double>(random() >> 11) * 0x1p-53; }

/// Add results of the elementary functions for arguments of all sizes.
void add_functions(Hash& hash) {
  Sfc64 random = randomness(1);
  for (int i = 0; i < 2000; ++i) {
    const double x = std::ldexp(uniform(random), i % 80 - 70);  // up to 2^9
    hash.add(log(x));
    hash.add(exp(i % 2 == 0 ? x : -x));
    hash.add(expm1(i % 2 == 0 ? x : -x));
    hash.add(pow(uniform(random), x));
  }
}

struct Golden {
  const char* policy = "Learn2Mix";
  std::vector<PolicyParameter> parameters;
  std::optional<std::int64_t> update_every{};
  std::int64_t lookahead = 0;
  std::int64_t batch_size = 24;
  std::vector<std::int64_t> class_sizes{7, 0, 3, 300, 1, 100};
  bool grouped = false;
  bool shuffle = true;
  std::int64_t rank = 0;
  std::int64_t world_size = 1;
};

/// Rows of the data: 5 bytes, 4 bytes to be normalized, and the class.
struct Rows {
  explicit Rows(std::span<const std::int64_t> class_sizes) {
    for (std::size_t k = 0; k < class_sizes.size(); ++k)
      classes.insert(classes.end(), static_cast<std::size_t>(class_sizes[k]), static_cast<std::uint8_t>(k));
    fisher_yates(std::span(classes), randomness(2));
    Sfc64 random = randomness(3);
    for (std::size_t i = 0; i < 9 * classes.size(); ++i) bytes.push_back(static_cast<std::byte>(random()));
  }

  [[nodiscard]] Fields fields() const {
    const std::vector<float> mean{100.5F, 0.0F}, std{17.25F, 3.0F};
    const Dense pixels(bytes.data() + 5, 9, 4);
    return {std::make_shared<Dense>(bytes.data(), 9, 5), std::make_shared<Normalize<float>>(pixels, mean, std, 1),
            std::make_shared<Normalize<Float16>>(pixels, mean, std, 2), std::make_shared<RowIdField>()};
  }

  std::vector<std::uint8_t> classes;
  std::vector<std::byte> bytes;
};

LoaderOptions options_of(const Golden& golden, const Rows& rows, int num_threads) {
  const auto num_classes = std::ssize(golden.class_sizes);
  LoaderOptions options;
  options.has_classes = num_classes > 1;
  options.index = options.has_classes
                      ? std::make_shared<const ClassIndex>(std::span<const std::uint8_t>(rows.classes), num_classes,
                                                           std::ssize(rows.classes), std::nullopt, num_threads)
                      : std::make_shared<const ClassIndex>(std::ssize(rows.classes));
  options.fields = rows.fields();
  const bool is_static = golden.policy == std::string_view("Static");
  options.mixing = named_policy(golden.policy, golden.parameters,
                                is_static ? std::vector{0.125, 0.0, 0.25, 0.3, 0.2, 0.125} : std::vector<double>{});
  options.batch_size = golden.batch_size;
  options.rank = golden.rank;
  options.world_size = golden.world_size;
  options.shuffle = golden.shuffle;
  options.grouped = golden.grouped;
  options.update_every = golden.update_every;
  options.lookahead = golden.lookahead;
  options.seed = 0x123456789ABCDEF0U;
  options.num_threads = num_threads;
  options.all_reduce = [](std::span<double> values) {
    for (double& value : values) value *= 2;
  };  // as if all ranks had the same losses
  return options;
}

/// Record a loss for each row, different for each class and falling with time; some are not finite.
void record_losses(Loader& loader) {
  const BatchPlan plan = loader.plan().value();
  std::vector<float> losses;
  for (const PlannedRow& row : plan) {
    const auto number = static_cast<float>(row.row % 17 + 3 * row.class_id) + 0.1F;
    losses.push_back(row.row % 50 == 49 ? HUGE_VALF : number / static_cast<float>(loader.total_step() + 2));
  }
  loader.record(std::span<const float>(losses));
}

/// Return the bytes of the state.
std::vector<std::byte> saved(Loader& loader) {
  const LoaderState state = loader.state();
  std::vector<std::byte> bytes(encoded_size(state));
  encode(state, bytes);
  return bytes;
}

/// Add every batch, proportion and some states of three epochs, with a resumption after 10 batches.
void add_run(Hash& hash, const Golden& golden, int num_threads) {
  const Rows rows(golden.class_sizes);
  const LoaderOptions options = options_of(golden, rows, num_threads);
  Loader loader(options);
  int batches = 0;
  while (loader.epoch() < 3) {
    Iteration iteration = loader.iterate();
    while (const std::optional<FilledBatch> batch = loader.next(iteration)) {
      hash.add(static_cast<std::uint64_t>(batch->num_rows));
      const BatchPlan plan = loader.plan().value();
      for (const PlannedRow& row : plan) {
        hash.add(static_cast<std::uint64_t>(row.row));
        hash.add(static_cast<std::uint64_t>(row.class_id));
      }
      for (std::size_t f = 0; f + 1 < batch->blocks.size(); ++f) {  // row ids are not little-endian everywhere
        const auto size = static_cast<std::size_t>(batch->num_rows * options.fields[f]->row_size());
        hash.add(std::span<const std::byte>(batch->blocks[f].data(), size));
      }
      for (const double p : loader.proportions()) hash.add(p);
      if (options.has_classes && batches % 6 != 4) record_losses(loader);
      if (++batches % 5 != 0) continue;
      const std::vector<std::byte> state = saved(loader);
      hash.add(state);
      if (batches != 10) continue;
      loader.load(decode(state));
      iteration = loader.iterate();
    }
  }
}

std::uint64_t golden_hash(int num_threads) {
  const Golden runs[] = {
      {.parameters = {{"mixing_rate", 0.3}}, .update_every = 4},
      {.parameters = {{"mixing_rate", 0.9}, {"min_share", 0.01}, {"balanced", 1}},
       .update_every = 3,
       .lookahead = 2,
       .grouped = true},
      {.parameters = {}, .batch_size = 10, .rank = 1, .world_size = 3},
      {.policy = "GroupDRO", .parameters = {{"step_size", 0.7}}, .lookahead = 1},
      {.policy = "Static", .parameters = {}, .shuffle = false},
      {.policy = "Temperature", .parameters = {{"t", 3}}, .batch_size = 100},
      {.policy = "EffectiveNumber", .parameters = {{"beta", 0.99}}},
      {.policy = "Balanced", .parameters = {}, .class_sizes = std::vector<std::int64_t>(50, 9)},
      {.policy = "Proportional", .parameters = {}},
      {.policy = "Proportional", .parameters = {}, .class_sizes = {1000}},
      {.policy = "Proportional", .parameters = {}, .class_sizes = {250}, .shuffle = false, .rank = 2, .world_size = 4},
  };
  Hash hash;
  add_functions(hash);
  for (const Golden& golden : runs) {
    add_run(hash, golden, num_threads);
    std::fprintf(stderr, "%016llx after %s\n", static_cast<unsigned long long>(hash.value()), golden.policy);
  }
  return hash.value();
}

}  // namespace
}  // namespace l2m::test

int main() {
  using namespace l2m::test;
  for (const int num_threads : {0, 2})
    if (l2m::usable_threads(num_threads) == num_threads) CHECK(golden_hash(num_threads) == kGolden);
}
