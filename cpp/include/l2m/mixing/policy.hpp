#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

namespace l2m {

/// What a policy makes the next proportions of: a window of losses that has ended, over all ranks. Arrays are [K].
struct Window {
  std::span<const double> proportions;   ///< the newest, which the next ones follow
  std::span<const double> class_losses;  ///< see without_gaps(); all 0 where none was ever recorded
  std::span<const std::int64_t> class_sizes;
  std::span<const std::int64_t> counts;      ///< losses recorded in the window
  std::span<const std::int64_t> rows_drawn;  ///< since the beginning of training, when the window closes
  std::span<const std::uint64_t> passes;     ///< number of the pass that each class is in, likewise
  std::uint64_t step = 0;                    ///< batches since the beginning of training
  std::optional<std::uint64_t> total_steps;  ///< of the whole training, where it is known
  std::span<const double> memory;            ///< [memory_rows, K] that the last update left; zeros at first
};

/// How the proportions of the classes evolve.
class Policy {
 public:
  enum class Kind {
    kFixed,          ///< the initial proportions stay
    kSchedule,       ///< updated at the end of every window; needs no losses
    kFollowsLosses,  ///< updated at the end of every window in which losses were recorded
  };
  struct Update {
    std::vector<double> proportions;            ///< [K]
    std::optional<std::vector<double>> memory;  ///< [memory_rows, K]; nothing: it stays
  };

  virtual ~Policy() = default;

  [[nodiscard]] virtual Kind kind() const { return Kind::kFollowsLosses; }
  /// Rows of the memory, the only state of a policy.
  [[nodiscard]] virtual std::int64_t memory_rows() const { return 0; }
  /// Whether update() looks at the rows drawn and the passes of a window, which cost O(K) to find out.
  [[nodiscard]] virtual bool looks_at_rows() const { return false; }
  /// Proportions of the first batches. @param class_sizes  [K] rows of each class, at least one above 0.
  [[nodiscard]] virtual std::vector<double> initial(std::span<const std::int64_t> class_sizes) const = 0;
  /// Proportions that follow those of the window.
  [[nodiscard]] virtual Update update(const Window& window) const {
    return {{window.proportions.begin(), window.proportions.end()}, {}};
  }
};

}  // namespace l2m
