#include "l2m/loss/window.hpp"

#include <algorithm>
#include <stdexcept>
#include <utility>

#include "l2m/base/errors.hpp"
#include "l2m/base/max_count.hpp"

namespace l2m {

void LossSums::add(const LossSums& other) {
  for (std::size_t k = 0; k < sum.size(); ++k) {
    if (other.count[k] == 0) continue;  // most of many classes
    sum[k].add(other.sum[k]);
    count[k] = std::min(count[k] + other.count[k], kMaxCount);
  }
}

void LossSums::clear() {
  for (std::size_t k = 0; k < sum.size(); ++k)
    if (std::exchange(count[k], 0) > 0) sum[k] = {};
}

bool LossSums::empty() const {
  return std::ranges::all_of(count, [](std::int64_t n) { return n == 0; });
}

namespace {

constexpr std::size_t kLastDigit = kSumDigits - 1;

}  // namespace

std::vector<double> LossSums::to_values() const {
  std::vector<double> values;
  values.reserve(kValues * sum.size());
  for (std::size_t k = 0; k < sum.size(); ++k) {
    for (std::size_t i = 0; i < kLastDigit; ++i) values.push_back(static_cast<double>(sum[k].digit[i]));
    values.push_back(static_cast<double>(sum[k].digit[kLastDigit] & 0xFFFFFFFF));
    values.push_back(static_cast<double>(sum[k].digit[kLastDigit] >> 32));
    values.push_back(static_cast<double>(count[k]));
  }
  return values;
}

LossSums LossSums::from_values(std::span<const double> values) {
  LossSums all(values.size() / kValues);
  for (std::size_t k = 0; k < all.sum.size(); ++k) {
    const std::span<const double> of_class = values.subspan(k * kValues, kValues);
    const auto clamped = [&](std::size_t i, double limit) {
      return static_cast<std::int64_t>(std::clamp(of_class[i], -limit, limit));
    };
    for (std::size_t i = 0; i <= kLastDigit; ++i) all.sum[k].digit[i] = clamped(i, 0x1p60);
    all.sum[k].digit[kLastDigit] += clamped(kLastDigit + 1, 0x1p29) * (std::int64_t{1} << 32);
    all.sum[k].carry();
    all.count[k] = clamped(kValues - 1, static_cast<double>(kMaxCount));
    if (all.count[k] < 0)
      throw_error<std::runtime_error>("all_reduce must sum the number of losses of a class (got ", all.count[k], ")");
  }
  return all;
}

LossSums LossSlot::total() const {
  LossSums sums(host.sum.size());
  sums.add(host);
  if (device) sums.add(device->read());
  return sums;
}

bool LossSlot::all_finite() const { return !skipped && (!device || device->all_finite()); }

void LossSlot::move_to_host() {
  if (!device) return;
  LossSums sums = total();
  skipped = !all_finite();
  host = std::move(sums);
  device.reset();
}

OpenWindows::OpenWindows(std::size_t num_classes, std::optional<std::int64_t> every, std::int64_t lookahead)
    : num_classes_(num_classes), every_(every), lookahead_(lookahead) {
  windows_.emplace_back(num_classes);
}

std::size_t OpenWindows::index_of(std::int64_t batch) const {
  return every_ && batch >= 0 ? static_cast<std::size_t>(std::max<std::int64_t>(batch / *every_ - first_open(), 0)) : 0;
}

LossSlot& OpenWindows::window(std::size_t index) {
  while (windows_.size() <= index) windows_.emplace_back(num_classes_);
  return windows_[index];
}

LossSlot& OpenWindows::slot(std::int64_t batch) {
  if (lookahead_ == 0) return window(index_of(batch));
  for (; !batches_.empty() && batches_.begin()->first < batch - lookahead_; batches_.erase(batches_.begin())) {
    auto& [old, slot] = *batches_.begin();
    slot.move_to_host();
    LossSlot& whole = window(index_of(old));
    whole.host.add(slot.host);
    whole.skipped = whole.skipped || slot.skipped;
  }
  return batches_.try_emplace(batch, num_classes_).first->second;
}

template <class F>
void OpenWindows::for_oldest(F&& f) const {
  if (pending_) {
    for (const LossSlot& part : *pending_) f(part);
    return;
  }
  f(windows_.front());
  for (const auto& [batch, slot] : batches_)
    if (index_of(batch) == 0) f(slot);
}

bool OpenWindows::has_losses() const {
  bool has = false;
  for_oldest([&](const LossSlot& slot) { has = has || slot.device != nullptr || !slot.host.empty(); });
  return has;
}

bool OpenWindows::is_on_device() const {
  bool is = false;
  for_oldest([&](const LossSlot& slot) { is = is || slot.device != nullptr; });
  return is;
}

bool OpenWindows::all_finite() const {
  bool all = true;
  for_oldest([&](const LossSlot& slot) { all = slot.all_finite() && all; });
  return all;
}

void OpenWindows::close_oldest() {
  std::vector<LossSlot> parts;
  for_oldest([&](const LossSlot& slot) {
    if (slot.device) slot.device->start_reading();
    parts.push_back(slot);
  });
  window(1);  // first, because it may throw
  std::erase_if(batches_, [&](const auto& entry) { return index_of(entry.first) == 0; });
  windows_.erase(windows_.begin());
  pending_ = std::move(parts);
}

LossSums OpenWindows::total() const {
  LossSums sums;
  for_oldest([&](const LossSlot& slot) {
    if (sums.sum.empty()) {
      sums = slot.total();
    } else {
      sums.add(slot.total());
    }
  });
  return sums;
}

void OpenWindows::drop(bool count) noexcept {
  if (pending_) {
    pending_.reset();
  } else {
    std::erase_if(batches_, [&](const auto& entry) { return index_of(entry.first) == 0; });
    if (windows_.size() > 1) {
      windows_.erase(windows_.begin());
    } else {
      windows_.front().host.clear();
      windows_.front().device.reset();
      windows_.front().skipped = false;
    }
  }
  if (count) ++applied_;
}

std::vector<LossSums> OpenWindows::as_of(std::int64_t total_step) const {
  std::vector<LossSums> open;
  for (std::size_t index = 0; index <= index_of(total_step - 1); ++index)
    open.push_back(index < windows_.size() ? windows_[index].total() : LossSums(num_classes_));
  for (const auto& [batch, slot] : batches_)
    if (batch < total_step) open[index_of(batch)].add(slot.total());
  return open;
}

void OpenWindows::restore(std::int64_t applied, std::vector<LossSums> open) {
  std::vector<LossSlot> windows;
  for (LossSums& sums : open) windows.emplace_back(num_classes_).host = std::move(sums);
  windows_ = std::move(windows);
  applied_ = applied;
  pending_.reset();
  batches_.clear();
  newest_.reset();
}

}  // namespace l2m
