#pragma once

#include <algorithm>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "l2m/base/exact_sums.hpp"

namespace l2m {

/// Sum and number of the losses of each class. The sum of a class without losses is 0.
struct LossSums {
  LossSums() = default;
  explicit LossSums(std::size_t num_classes) : sum(num_classes), count(num_classes) {}

  std::vector<ExactSum> sum;        ///< [K]
  std::vector<std::int64_t> count;  ///< [K]

  /// Add other sums, and carry all digits. Sums are clamped as in ExactSum, counts to kMaxCount.
  void add(const LossSums& other);
  void clear();
  [[nodiscard]] bool empty() const;
  bool operator==(const LossSums&) const = default;

  // For sums over ranks: integers of which sums are exact doubles for up to 2^21 ranks.
  static constexpr std::size_t kValues = kSumDigits + 2;  ///< values per class: digits, the last as two, and the count
  [[nodiscard]] std::vector<double> to_values() const;    ///< [K * kValues] the digits must be carried
  /// @param values  [K * kValues] sums of the results of to_values() over all ranks.
  static LossSums from_values(std::span<const double> values);
};

/// Loss sums computed on another device, such as a GPU.
class LossSource {
 public:
  virtual ~LossSource() = default;
  /// Start copying the sums to the host, without blocking.
  virtual void start_reading() = 0;
  /// Return the sums of all losses added so far. Blocks.
  virtual LossSums read() = 0;
  /// Return whether no loss was skipped for being non-finite. Blocks.
  virtual bool all_finite() = 0;
};

/// Accumulator of losses: sums on the host, and at most one source on a device.
struct LossSlot {
  explicit LossSlot(std::size_t num_classes) : host(num_classes) {}
  LossSums host;
  std::shared_ptr<LossSource> device;
  bool skipped = false;  ///< an earlier source skipped non-finite losses

  /// Return the sums of both. Blocks until those of the source are there, as the other functions do.
  [[nodiscard]] LossSums total() const;
  /// Return whether no source skipped a non-finite loss.
  [[nodiscard]] bool all_finite() const;
  /// Add the sums of the source to those on the host, and drop the source. Nothing changes if this throws.
  void move_to_host();
};

/// Loss windows that have not been applied yet.
///
/// A window is closed when it accepts no more losses, and pending until it is applied. With lookahead, the losses of
/// the last batches are kept apart, so that a state can leave them out. A batch is identified by its total step,
/// counted from 0; losses before the first batch have the step -1.
class OpenWindows {
 public:
  /// @param every  steps per window; nullopt: windows end when they are applied.
  OpenWindows(std::size_t num_classes, std::optional<std::int64_t> every, std::int64_t lookahead);

  /// Return the number of windows applied so far.
  [[nodiscard]] std::int64_t applied() const { return applied_; }
  /// Return whether the window of a batch still accepts losses.
  [[nodiscard]] bool accepts(std::int64_t batch) const { return !every_ || batch / *every_ >= first_open(); }

  /// Return the slot for the losses of a batch; those of a closed window go to the next one. Valid until the next call.
  LossSlot& slot(std::int64_t batch);
  /// Note that losses of a batch were added.
  void added(std::int64_t batch) { newest_ = newest_ ? std::max(*newest_, batch) : batch; }
  /// Return the newest batch with losses since the run began or was restored.
  [[nodiscard]] std::optional<std::int64_t> newest() const { return newest_; }

  /// Return whether the oldest window has any losses.
  [[nodiscard]] bool has_losses() const;
  /// Return whether the oldest window has losses on a device.
  [[nodiscard]] bool is_on_device() const;
  /// Close the oldest window and start copying its sums from the device. From now on, losses go to the next window.
  void close_oldest();
  [[nodiscard]] bool has_pending() const { return pending_.has_value(); }
  /// Return the sums of the oldest window. Blocks if some are on a device.
  [[nodiscard]] LossSums total() const;
  /// Return whether no loss of the oldest window was skipped on a device for being non-finite. Blocks as total() does.
  [[nodiscard]] bool all_finite() const;
  /// Drop the oldest window, which has been applied. @param count  whether to count it as applied.
  void drop(bool count) noexcept;

  /// Return the sums of each open window as of `total_step`, without later batches. No window may be pending. Blocks if
  /// some are on a device.
  [[nodiscard]] std::vector<LossSums> as_of(std::int64_t total_step) const;
  /// Resume after `applied` windows, with the sums of the open ones.
  void restore(std::int64_t applied, std::vector<LossSums> open);

 private:
  [[nodiscard]] std::int64_t first_open() const { return applied_ + (pending_ ? 1 : 0); }
  /// Return the index of a batch's window among those that are not closed.
  [[nodiscard]] std::size_t index_of(std::int64_t batch) const;
  LossSlot& window(std::size_t index);
  /// Call f with every slot of the oldest window, in the order of summation.
  template <class F>
  void for_oldest(F&& f) const;

  std::size_t num_classes_;
  std::optional<std::int64_t> every_;
  std::int64_t lookahead_;
  std::int64_t applied_ = 0;
  std::optional<std::vector<LossSlot>> pending_;  // slots of the oldest window, if it is pending
  std::vector<LossSlot> windows_;                 // never empty
  std::map<std::int64_t, LossSlot> batches_;      // with lookahead: the last batches with losses
  std::optional<std::int64_t> newest_;
};

}  // namespace l2m
