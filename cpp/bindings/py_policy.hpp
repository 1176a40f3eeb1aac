#pragma once

#include <pybind11/stl.h>

#include <algorithm>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "convert.hpp"
#include "interrupt.hpp"
#include "l2m/mixing/policy.hpp"
#include "py_loader.hpp"

namespace l2m::bindings {

/// Policy written in Python: held.policy, whose methods return checked types and shapes.
class PythonPolicy final : public Policy {
 public:
  PythonPolicy(std::shared_ptr<HeldObjects> held, Kind kind, std::int64_t memory_rows, std::string description)
      : held_(std::move(held)), kind_(kind), memory_rows_(memory_rows), description_(std::move(description)) {}

  [[nodiscard]] Kind kind() const override { return kind_; }
  [[nodiscard]] std::string describe() const override { return description_; }
  [[nodiscard]] std::int64_t memory_rows() const override { return memory_rows_; }
  [[nodiscard]] bool uses_rows() const override { return true; }

  [[nodiscard]] std::vector<double> initial(std::span<const std::int64_t> class_sizes) const override {
    return interruptible(
        [&] { return to_vector(held_->policy.attr("initial")(to_array(class_sizes)).cast<Array<double>>()); });
  }

  void update(const Window& window, std::span<double> proportions, std::span<double> memory) const override {
    interruptible([&] {
      const auto [new_proportions, new_memory] =
          held_->policy
              .attr("update")(to_array(window.proportions), to_array(window.class_losses), to_array(window.class_sizes),
                              to_array(window.counts), to_array(window.rows_drawn),
                              to_array<std::int64_t>(window.passes, [](std::uint64_t pass) { return pass; }),
                              window.step, window.total_steps, to_array(window.memory))
              .cast<std::pair<Array<double>, std::optional<Array<double>>>>();
      std::ranges::copy(view<double>(new_proportions), proportions.begin());
      if (new_memory) std::ranges::copy(view<double>(*new_memory), memory.begin());
    });
  }

 private:
  const std::shared_ptr<HeldObjects> held_;
  const Kind kind_;
  const std::int64_t memory_rows_;
  const std::string description_;
};

}  // namespace l2m::bindings
