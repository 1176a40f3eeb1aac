#pragma once

#include <algorithm>
#include <cstdint>
#include <deque>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

namespace l2m {

/// Sum and number of the losses of each class.
struct LossSums {
  LossSums() = default;
  explicit LossSums(std::size_t num_classes) : sum(num_classes), count(num_classes) {}

  std::vector<double> sum;          ///< [K]
  std::vector<std::int64_t> count;  ///< [K]

  /// Adds others; sums that would not be finite stop at the largest double, and counts at kMaxCount.
  void add(const LossSums& other);
  [[nodiscard]] bool empty() const;
  bool operator==(const LossSums&) const = default;
};

/// Sums of losses that are made elsewhere, such as on a GPU.
class LossSource {
 public:
  virtual ~LossSource() = default;
  /// Has the sums brought here, without waiting for them.
  virtual void start_reading() = 0;
  /// Waits for the sums of all losses added so far.
  virtual LossSums read() = 0;
  /// Whether none of them was left out for not being finite. Waits likewise.
  virtual bool all_finite() = 0;
};

/// Where losses are added: sums here, and at most one source elsewhere.
struct LossSlot {
  explicit LossSlot(std::size_t num_classes) : here(num_classes) {}
  LossSums here;
  std::shared_ptr<LossSource> there;
  bool left_out = false;  ///< a source that was here before left out losses that are not finite

  /// Waits for the source, as do the others.
  [[nodiscard]] LossSums total() const;
  /// Whether no source left out a loss for not being finite.
  [[nodiscard]] bool all_finite() const;
  /// Adds the sums of the source to those here, and lets go of it. What is thrown changes nothing.
  void bring_here();
};

/// The losses of the windows that have not acted yet. With lookahead, those of the last batches are kept apart, so that a state
/// can leave them out.
///
/// A batch is named by its total step, counted from 0; what comes before the first batch is named -1.
class OpenWindows {
 public:
  /// @param every  steps of a window; nothing: windows end when they are closed.
  OpenWindows(std::size_t num_classes, std::optional<std::int64_t> every, std::int64_t lookahead);

  /// Number of windows that acted.
  [[nodiscard]] std::int64_t closed() const { return closed_; }
  /// Whether the window of a batch takes losses yet.
  [[nodiscard]] bool takes(std::int64_t batch) const { return !every_ || batch / *every_ >= first_open(); }

  /// Where the losses of a batch are added; those of a window that has ended go to the next. Valid until the next call.
  LossSlot& slot(std::int64_t batch);
  /// To be called when losses of a batch were added.
  void added(std::int64_t batch) { newest_ = newest_ ? std::max(*newest_, batch) : batch; }
  /// The newest batch with losses, since the run began or was restored.
  [[nodiscard]] std::optional<std::int64_t> newest() const { return newest_; }

  /// Whether any loss, here or elsewhere, was added to the oldest window.
  [[nodiscard]] bool has_losses() const;
  /// Whether losses of the oldest window are elsewhere.
  [[nodiscard]] bool is_elsewhere() const;
  /// Ends the oldest window before it acts, and has sums that are elsewhere brought here: losses go to the next one from now on.
  void end();
  [[nodiscard]] bool has_ended() const { return ended_.has_value(); }
  /// The sums of the oldest window. Waits for those that are elsewhere.
  [[nodiscard]] LossSums total() const;
  /// Whether no loss that was summed elsewhere was left out of it for not being finite. Waits likewise.
  [[nodiscard]] bool all_finite() const;
  /// Forgets the oldest window, which has acted. @param counts  whether it counts as closed.
  void drop(bool counts) noexcept;

  /// The sums of each open window as of `total_step`, without those of later batches. No window has ended. Waits for those that are
  /// elsewhere.
  [[nodiscard]] std::vector<LossSums> as_of(std::int64_t total_step) const;
  /// Goes on after `closed` windows, with the sums of open ones.
  void restore(std::int64_t closed, std::vector<LossSums> open);

 private:
  [[nodiscard]] std::int64_t first_open() const { return closed_ + (ended_ ? 1 : 0); }
  /// Place among the open windows that have not ended.
  [[nodiscard]] std::size_t place_of(std::int64_t batch) const;
  LossSlot& window(std::size_t place);
  /// Calls f with every slot of the oldest window, in the order in which they add up.
  template <class F>
  void for_oldest(F&& f) const;

  std::size_t num_classes_;
  std::optional<std::int64_t> every_;
  std::int64_t lookahead_;
  std::int64_t closed_ = 0;
  std::optional<std::vector<LossSlot>> ended_;             // the oldest window, in parts
  std::deque<LossSlot> windows_;                           // at least one
  std::deque<std::pair<std::int64_t, LossSlot>> batches_;  // with lookahead: the last ones with losses, ascending
  std::optional<std::int64_t> newest_;
};

}  // namespace l2m
