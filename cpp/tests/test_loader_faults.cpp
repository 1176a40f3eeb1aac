#include <cmath>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <limits>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "check.hpp"
#include "l2m/base/errors.hpp"
#include "l2m/loader.hpp"
#include "loader_runs.hpp"

// Exceptions of callbacks, and refused arguments: the loader is unchanged and continues.

namespace l2m::test {
namespace {

constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();

/// Policy that fails a number of times, in the given way.
class Faulty final : public Following {
 public:
  enum class Fault { kThrows, kNonFinite, kEmptyClass, kMemoryNotFinite };
  static constexpr Fault kAll[] = {Fault::kThrows, Fault::kNonFinite, Fault::kEmptyClass, Fault::kMemoryNotFinite};

  explicit Faulty(Fault fault) : fault_(fault) {}
  void fail(int times) const { times_ = times; }

  void update(const Window& window, std::span<double> proportions, std::span<double> memory) const override {
    Following::update(window, proportions, memory);
    if (times_ == 0) return;
    --times_;
    switch (fault_) {
      case Fault::kThrows:
        throw std::runtime_error("a policy fails");
      case Fault::kNonFinite:
        proportions[0] = kNaN;
        break;
      case Fault::kEmptyClass:
        std::swap(proportions[0], proportions[1]);
        break;
      case Fault::kMemoryNotFinite:
        memory[0] = kNaN;
        break;
    }
  }

 private:
  const Fault fault_;
  mutable int times_ = 0;
};

/// Return whether a call throws a std::exception.
bool fails(const std::function<void()>& call) {
  try {
    call();
  } catch (const std::exception&) {
    return true;
  }
  return false;
}

/// Train until the next step() closes a window. Return false if there is no such window.
bool train_to_closing(Trainer& trainer, const Training& training, std::uint64_t window) {
  const bool at_end = !training.update_every && training.lookahead == 0;  // of the epoch; else before the next batch
  const std::uint64_t every = static_cast<std::uint64_t>(training.update_every.value_or(7));
  const std::uint64_t closing =
      every * (window + 1) + (training.update_every ? static_cast<std::uint64_t>(training.lookahead) : 0);
  if (closing >= training.total_steps()) return false;
  trainer.train(closing - trainer.loader().total_step());
  if (closing % 7 == 0 && !at_end) trainer.step();
  return true;
}

void test_a_policy_may_fail_once() {
  for (const Training& training : {following(3), following(3, 2), following({}), following({}, 2)}) {
    const Expected expected(training);
    for (const Faulty::Fault fault : Faulty::kAll) {
      const auto policy = std::make_shared<Faulty>(fault);
      LoaderOptions options = expected.options(1);
      options.mixing = policy;
      options.warn = [](const std::string&) { CHECK(false); };
      Trainer trainer(expected, std::move(options), static_cast<std::uint64_t>(training.lookahead));
      for (std::uint64_t window = 0; train_to_closing(trainer, training, window); ++window) {
        const LoaderState before = trainer.loader().state();
        policy->fail(1);
        CHECK(fails([&] { trainer.step(); }));
        CHECK(same(trainer.loader().state(), before));
      }
      trainer.train_all();
    }
  }
}

void test_proportions_stay_if_a_policy_fails_again() {
  for (const Faulty::Fault fault : Faulty::kAll) {
    const Expected expected(following(3));
    const auto policy = std::make_shared<Faulty>(fault);
    std::vector<std::string> warnings;
    int updates = 0;
    LoaderOptions options = expected.options();
    options.mixing = policy;
    options.mixing_name = "Faulty";
    options.warn = [&](const std::string& warning) { warnings.push_back(warning); };
    options.observe = [&](const UpdateRecord&) { ++updates; };
    Trainer trainer(expected, std::move(options));
    trainer.train(6);
    const LoaderState before = trainer.loader().state();
    policy->fail(2);
    CHECK(fails([&] { trainer.step(); }));
    CHECK(warnings.empty());
    trainer.step();
    CHECK(warnings.size() == 1 && warnings[0].starts_with("Faulty failed again"));
    const LoaderState after = trainer.loader().state();
    CHECK(updates == 1 && after.windows == 2 && after.class_losses != before.class_losses);
    CHECK(after.next_proportions == before.next_proportions && after.memory == before.memory);
    trainer.train(2);
    policy->fail(1);
    CHECK(fails([&] { trainer.step(); }));  // the first failure of a new window
  }
}

void test_an_exception_in_all_reduce_changes_nothing() {
  Training training = following(3, 1);
  training.run.options.world_size = 2;
  const Expected expected(training);
  int calls = 0;
  LoaderOptions options = expected.options(1);
  options.all_reduce = [&](std::span<double> values) {
    const std::size_t first = static_cast<std::size_t>(calls / 2) * 3;
    const bool fails = calls++ % 2 == 0;
    LossSums sums(6);
    for (std::size_t step = first; step < first + 3 && !fails; ++step) sums.add(expected.sums[step]);
    std::ranges::copy(sums.to_values(), values.begin());
    if (fails) throw std::runtime_error("another rank is gone");
  };
  Trainer trainer(expected, std::move(options), 1);
  for (std::uint64_t window = 0; train_to_closing(trainer, training, window); ++window) {
    const LoaderState before = trainer.loader().state();
    CHECK(fails([&] { trainer.step(); }));
    CHECK(same(trainer.loader().state(), before));
  }
  trainer.train_all();
  CHECK(calls == 2 * 8);
}

void test_a_seed_is_drawn_once_when_it_is_needed() {
  const Expected expected(following(3));
  int calls = 0;
  LoaderOptions options = expected.options();
  options.seed.reset();
  options.draw_seed = [&]() -> std::uint64_t {
    if (++calls == 1) throw std::runtime_error("no seed today");
    return expected.training.run.options.seed;
  };
  Trainer trainer(expected, std::move(options));
  CHECK(calls == 0 && !trainer.loader().seed());
  CHECK(fails([&] { trainer.step(); }));
  CHECK(!trainer.loader().seed() && trainer.loader().total_step() == 0);
  trainer.train_all();
  CHECK(calls == 2 && trainer.loader().seed() == expected.training.run.options.seed);
}

void test_a_check_of_the_data_may_fail() {
  const Expected expected(following({}));
  int calls = 0;
  LoaderOptions options = expected.options();
  options.check = [&] {
    if (++calls % 2 == 1) throw std::runtime_error("the data have changed");
  };
  Trainer trainer(expected, std::move(options));
  for (std::uint64_t epoch = 0; epoch < 4; ++epoch) {
    CHECK(fails([&] { trainer.step(); }));
    CHECK(trainer.loader().epoch() == epoch && trainer.loader().step() == 0);
    trainer.train(7);
    trainer.step();
  }
}

void test_an_iteration_without_end_goes_on_after_a_check_that_failed() {
  const Expected expected(following(3));
  int calls = 0;
  LoaderOptions options = expected.options();
  options.check = [&] {
    if (++calls % 2 == 1) throw std::runtime_error("the data have changed");
  };
  Loader loader(std::move(options));
  const Iteration iteration = loader.iterate(true);
  for (std::uint64_t step = 0; step < expected.training.total_steps(); ++step) {
    if (step % 7 == 0) CHECK(fails([&] { (void)loader.next(iteration); }));
    CHECK(loader.next(iteration) && loader.epoch() == step / 7);
    loader.record(std::span<const float>(losses_of(expected.batch(step), step)));
  }
}

/// Who is told of an update may throw: the window is closed all the same, and once.
void test_what_an_observer_throws_comes_after_the_update() {
  const auto schedule = std::make_shared<Schedule>();
  for (const Training& training : {following(3, 1), following({}), following({}, 2),
                                   Training{mixed_run(), {}, 0, schedule}, Training{mixed_run(), {}, 2, schedule}}) {
    const Expected expected(training);
    for (const bool updates : {false, true}) {  // also by hand, after each epoch
      if (updates && training.update_every) continue;
      int told = 0, failures = 0, calls = 0;
      LoaderOptions options = expected.options(), quiet = expected.options();
      options.observe = [&](const UpdateRecord&) { throw std::runtime_error(std::to_string(++told)); };
      quiet.observe = [&](const UpdateRecord&) { ++calls; };
      Loader loader(std::move(options)), other(std::move(quiet));
      const auto train = [&](Loader& of) {
        const auto try_to = [&](const std::function<void()>& call) {
          if (!fails(call)) return false;
          ++failures;
          return true;
        };
        for (std::uint64_t epoch = 0; epoch < 4; ++epoch) {
          const Iteration iteration = of.iterate();
          for (bool ended = false; !ended;) {
            const std::uint64_t step = of.total_step();
            std::optional<FilledBatch> batch;
            if (try_to([&] { batch = of.next(iteration); })) continue;
            ended = !batch;
            if (!ended) of.record(std::span<const float>(losses_of({of.plan()->begin(), of.plan()->end()}, step)));
          }
          if (!updates) continue;
          const std::vector<PlannedRow> rows(of.plan()->begin(), of.plan()->end());
          of.record(std::span<const float>(losses_of(rows, 5)));
          try_to([&] { of.update(); });
        }
      };
      train(loader);
      train(other);
      CHECK(told == failures && told == calls && calls > 2);
      CHECK(same(loader.state(), other.state()));
      CHECK(loader.proportions() == other.proportions());
    }
  }
}

void test_losses_that_cannot_be_recorded_are_refused() {
  const Expected expected(following(3, 1));
  Trainer trainer(expected, expected.options());
  Loader& loader = trainer.loader();
  const std::vector<float> losses(24, 1.0F), fewer(23, 1.0F);
  const std::span<const float> all = losses, short_ones = fewer;
  const std::vector<std::int32_t> classes(24, 3), others(24, 6);
  CHECK_THROWS(std::runtime_error, loader.record(all));
  trainer.train(5);
  LossSums too_many(6), alone(6);
  too_many.count[0] = (std::int64_t{1} << 53) + 1;
  alone.sum[0].add(1.0F);
  const LoaderState before = loader.state(4);
  const auto refuses = [&](const std::function<void()>& call) {
    CHECK(fails(call));
    CHECK(same(loader.state(4), before));
  };
  refuses([&] { loader.record(short_ones); });
  refuses([&] { loader.record(all, std::span<const std::int32_t>(others)); });
  refuses([&] { loader.record(short_ones, std::span<const std::int32_t>(classes)); });
  refuses([&] { loader.record(all, 2); });  // two batches back
  refuses([&] { loader.record(all, 5); });
  refuses([&] { loader.record(LossSums(5)); });
  refuses([&] { loader.record(too_many); });
  refuses([&] { loader.record(alone); });
  const Expected wide(following(3, 3));
  Trainer late(wide, wide.options(), 3);
  late.train(7);
  CHECK_THROWS(std::runtime_error, late.loader().record(all, 2));  // its window closed before batch 6
  late.loader().record(all, 4);
}

void test_warnings_about_losses_are_given_once() {
  const Expected expected(following(3));
  std::vector<std::string> warnings;
  LoaderOptions options = expected.options();
  options.mixing_name = "Following";
  options.warn = [&](const std::string& warning) { warnings.push_back(warning); };
  Loader loader(std::move(options));
  const Iteration iteration = loader.iterate();
  const std::vector<float> bad(24, std::numeric_limits<float>::infinity()), negative(24, -1.0F);
  for (int i = 0; i < 7; ++i) CHECK(loader.next(iteration));
  CHECK(warnings.size() == 1 && warnings[0].starts_with("Following follows losses, and none was recorded"));
  loader.record(std::span<const float>(bad));
  loader.record(std::span<const float>(bad));
  CHECK(warnings.size() == 2 && warnings[1].find("non-finite") != std::string::npos);
  CHECK(loader.state().losses[0].empty());
  const Iteration next = loader.iterate();
  for (int i = 0; i < 7; ++i) {  // two windows
    CHECK(loader.next(next));
    loader.record(std::span<const float>(negative));
  }
  CHECK(warnings.size() == 3 && warnings[2].find("negative") != std::string::npos);
  CHECK(loader.class_losses()[3] == 0);
}

void test_damaged_states_are_refused() {
  const Expected expected(following(3, 1));
  Trainer trainer(expected, expected.options(), 1);
  trainer.train(11);
  const LoaderState good = trainer.loader().state();
  CHECK(good.windows == 3 && good.sampler.total_step == 10);
  using Damage = std::function<void(LoaderState&)>;
  const std::vector<Damage> damages{
      [](LoaderState& s) { s.rank = 1; },
      [](LoaderState& s) { s.rank = -1; },
      [](LoaderState& s) { s.step = -1; },
      [](LoaderState& s) { s.step = 8; },
      [](LoaderState& s) { s.epoch = ~std::uint64_t{0}; },
      [](LoaderState& s) { s.next_epoch = ~std::uint64_t{0}; },
      [](LoaderState& s) { s.windows = 4; },
      [](LoaderState& s) { s.windows = 1; },
      [](LoaderState& s) { s.sampler.total_step = ~std::uint64_t{0}; },
      [](LoaderState& s) { s.losses.clear(); },
      [](LoaderState& s) { s.losses.emplace_back(6); },
      [](LoaderState& s) { s.losses[0] = LossSums(5); },
      [](LoaderState& s) { s.losses[0].count[0] = -1; },
      [](LoaderState& s) { s.losses[0].sum[1].add(1.0F); },
      [](LoaderState& s) { s.class_losses.pop_back(); },
      [](LoaderState& s) { s.class_losses[0] = -1; },
      [](LoaderState& s) { s.next_proportions.pop_back(); },
      [](LoaderState& s) { s.next_proportions[0] += 1e-9; },
      [](LoaderState& s) { std::swap(s.next_proportions[0], s.next_proportions[1]); },
      [](LoaderState& s) { s.memory.push_back(0); },
      [](LoaderState& s) { s.memory[0] = kNaN; },
      [](LoaderState& s) { s.sampler.cursors[0].position = 8; },
      [](LoaderState& s) { s.sampler.cursors.pop_back(); },
      [](LoaderState& s) { s.sampler.held[0] = {-1}; },
      [](LoaderState& s) { s.sampler.due.due[0] = kNaN; },
      [](LoaderState& s) { s.sampler.proportions[0] = 2; },
      [](LoaderState& s) { s.sampler.drawn[0] = -1; },
  };
  const LoaderState before = trainer.loader().state();
  for (const Damage& damage : damages) {
    LoaderState state = good;
    damage(state);
    CHECK_THROWS(std::invalid_argument, trainer.loader().load(std::move(state)));
    CHECK(same(trainer.loader().state(), before));
  }
  trainer.train_all();
}

void test_a_batch_with_too_many_bytes_is_refused() {
  const Expected expected(following(3));
  LoaderOptions options = expected.options();
  const std::byte row{};
  options.fields = {std::make_shared<Dense>(&row, 0, std::int64_t{1} << 36)};
  options.batch_size = std::int64_t{1} << 28;
  CHECK_THROWS(OutOfMemory, Loader(std::move(options)));
}

/// Sizes of batches whose low 32 bits are small, or 0.
void test_a_batch_beyond_the_address_space_is_refused() {
  const std::vector<std::byte> row(65'536);
  for (const std::int64_t batch_size : {32'768, 65'536, 65'537}) {
    for (const std::vector<std::int64_t>& sizes : {std::vector<std::int64_t>{65'536}, {32'768, 32'768}, {65'535, 1}}) {
      LoaderOptions options;
      options.index = std::make_shared<const ClassIndex>(65'537);
      for (const std::int64_t size : sizes) options.fields.push_back(std::make_shared<Dense>(row.data(), 0, size));
      options.batch_size = batch_size;
      options.seed = 1;
      if constexpr (sizeof(void*) == 4) {
        CHECK_THROWS(OutOfMemory, Loader(std::move(options)));
      } else {
        CHECK(Loader(std::move(options)).size() > 0);  // memory is taken for the first batch
      }
    }
  }
}

/// Policy with a memory of any size.
class Remembering final : public FixedPolicy {
 public:
  explicit Remembering(std::int64_t rows) : rows_(rows) {}
  [[nodiscard]] std::string describe() const override { return "Remembering()"; }
  [[nodiscard]] std::int64_t memory_rows() const override { return rows_; }
  [[nodiscard]] std::vector<double> initial(std::span<const std::int64_t> class_sizes) const override {
    return Proportional().initial(class_sizes);
  }

 private:
  std::int64_t rows_;
};

void test_inconsistent_options_are_refused() {
  const Expected expected(following(3));
  using Change = std::function<void(LoaderOptions&)>;
  const std::vector<Change> changes{
      [](LoaderOptions& o) { o.batch_size = 0; },
      [](LoaderOptions& o) { o.batch_size = std::int64_t{1} << 31; },
      [](LoaderOptions& o) { o.rank = 1; },
      [](LoaderOptions& o) { o.world_size = 0; },
      [](LoaderOptions& o) { o.world_size = 2; },  // without all_reduce
      [](LoaderOptions& o) { o.steps_per_epoch = 0; },
      [](LoaderOptions& o) { o.update_every = 0; },
      [](LoaderOptions& o) { o.lookahead = 4; },
      [](LoaderOptions& o) { o.lookahead = -1; },
      [](LoaderOptions& o) { o.has_classes = false; },
      [](LoaderOptions& o) { o.seed.reset(); },
      [](LoaderOptions& o) { o.mixing = std::make_shared<Remembering>(-1); },
      [](LoaderOptions& o) { o.mixing = std::make_shared<Remembering>(std::int64_t{1} << 62); },
      [](LoaderOptions& o) { o.mixing = std::make_shared<Static>(std::vector<double>(6, 1.0 / 6)); },
  };
  for (const Change& change : changes) {
    LoaderOptions options = expected.options();
    change(options);
    CHECK_THROWS(std::invalid_argument, Loader(std::move(options)));
  }
}

}  // namespace
}  // namespace l2m::test

int main() {
  using namespace l2m::test;
  test_a_policy_may_fail_once();
  test_proportions_stay_if_a_policy_fails_again();
  test_an_exception_in_all_reduce_changes_nothing();
  test_a_seed_is_drawn_once_when_it_is_needed();
  test_a_check_of_the_data_may_fail();
  test_an_iteration_without_end_goes_on_after_a_check_that_failed();
  test_what_an_observer_throws_comes_after_the_update();
  test_losses_that_cannot_be_recorded_are_refused();
  test_warnings_about_losses_are_given_once();
  test_damaged_states_are_refused();
  test_a_batch_with_too_many_bytes_is_refused();
  test_a_batch_beyond_the_address_space_is_refused();
  test_inconsistent_options_are_refused();
}
