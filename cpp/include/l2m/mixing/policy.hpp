#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

namespace l2m {

/// Closed loss window, over all ranks, from which a policy computes the next proportions. Arrays are [K].
struct Window {
  std::span<const double> proportions;   ///< the newest proportions, to be updated
  std::span<const double> class_losses;  ///< see fill_gaps(); all 0 if no loss was ever recorded
  std::span<const std::int64_t> class_sizes;
  std::span<const std::int64_t> counts;      ///< losses recorded in the window
  std::span<const std::int64_t> rows_drawn;  ///< since the beginning of training, as of the end of the window
  std::span<const std::uint64_t> passes;     ///< number of the current pass of each class, as of the end of the window
  std::uint64_t step = 0;                    ///< batches since the beginning of training
  std::optional<std::uint64_t> total_steps;  ///< length of the training, if known
  std::span<const double> memory;            ///< [memory_rows, K] as returned by the last update; initially zeros
};

/// Rule by which the proportions of the classes evolve.
class Policy {
 public:
  enum class Kind {
    kFixed,          ///< keeps the initial proportions
    kSchedule,       ///< updated at the end of every window; needs no losses
    kFollowsLosses,  ///< updated at the end of every window with recorded losses
  };
  virtual ~Policy() = default;

  [[nodiscard]] virtual Kind kind() const { return Kind::kFollowsLosses; }
  /// Return the name and all parameters, by value. Saved states contain it, and fit only policies that return the same.
  [[nodiscard]] virtual std::string describe() const = 0;
  /// Return the number of rows of the memory, the only state of a policy.
  [[nodiscard]] virtual std::int64_t memory_rows() const { return 0; }
  /// Return whether update() uses Window::rows_drawn and Window::passes, which cost O(K) to compute.
  [[nodiscard]] virtual bool uses_rows() const { return false; }
  /// Return whether update() uses Window::total_steps, which must then be given.
  [[nodiscard]] virtual bool needs_total_steps() const { return false; }
  /// Return the proportions of the first batches. @param class_sizes  [K] rows of each class, at least one > 0.
  [[nodiscard]] virtual std::vector<double> initial(std::span<const std::int64_t> class_sizes) const = 0;
  /// Replace the proportions [K] and the memory [memory_rows, K], which hold the values of the window before. If this
  /// throws, the loader keeps those values.
  virtual void update(const Window& /*window*/, std::span<double> /*proportions*/, std::span<double> /*memory*/) const {
  }
};

}  // namespace l2m
