#include "l2m/loss/window.hpp"

#include <algorithm>
#include <limits>

#include "l2m/base/max_count.hpp"

namespace l2m {

void LossSums::add(const LossSums& other) {
  constexpr double kLargest = std::numeric_limits<double>::max();
  for (std::size_t k = 0; k < sum.size(); ++k) {
    sum[k] = std::clamp(sum[k] + other.sum[k], -kLargest, kLargest);
    count[k] = std::min(count[k] + other.count[k], kMaxCount);
  }
}

bool LossSums::empty() const {
  return std::ranges::all_of(count, [](std::int64_t n) { return n == 0; });
}

LossSums LossSlot::total() const {
  LossSums sums(here.sum.size());
  sums.add(here);
  if (there) sums.add(there->read());
  return sums;
}

OpenWindows::OpenWindows(std::size_t num_classes, std::optional<std::int64_t> every, std::int64_t lookahead)
    : num_classes_(num_classes), every_(every), lookahead_(lookahead) {
  windows_.emplace_back(num_classes);
}

std::size_t OpenWindows::place_of(std::int64_t batch) const {
  return every_ && batch >= 0 ? static_cast<std::size_t>(std::max<std::int64_t>(batch / *every_ - first_open(), 0)) : 0;
}

LossSlot& OpenWindows::window(std::size_t place) {
  while (windows_.size() <= place) windows_.emplace_back(num_classes_);
  return windows_[place];
}

LossSlot& OpenWindows::slot(std::int64_t batch) {
  if (lookahead_ == 0) return window(place_of(batch));
  for (; !batches_.empty() && batches_.front().first < batch - lookahead_; batches_.pop_front()) {
    const auto& [old, sums] = batches_.front();
    window(place_of(old)).here.add(sums.total());
  }
  auto at = std::ranges::find_if(batches_, [&](const auto& entry) { return entry.first >= batch; });
  if (at == batches_.end() || at->first != batch) at = batches_.emplace(at, batch, LossSlot(num_classes_));
  return at->second;
}

template <class F>
void OpenWindows::for_oldest(F&& f) const {
  if (ended_) {
    for (const LossSlot& part : *ended_) f(part);
    return;
  }
  f(windows_.front());
  for (const auto& [batch, slot] : batches_)
    if (place_of(batch) == 0) f(slot);
}

bool OpenWindows::has_losses() const {
  bool has = false;
  for_oldest([&](const LossSlot& slot) { has = has || slot.there != nullptr || !slot.here.empty(); });
  return has;
}

bool OpenWindows::is_elsewhere() const {
  bool is = false;
  for_oldest([&](const LossSlot& slot) { is = is || slot.there != nullptr; });
  return is;
}

bool OpenWindows::all_finite() const {
  bool all = true;
  for_oldest([&](const LossSlot& slot) { all = (slot.there == nullptr || slot.there->all_finite()) && all; });
  return all;
}

void OpenWindows::end() {
  std::vector<LossSlot> parts;
  for_oldest([&](const LossSlot& slot) {
    if (slot.there) slot.there->start_reading();
    parts.push_back(slot);
  });
  window(1);  // first, because it may throw
  std::erase_if(batches_, [&](const auto& entry) { return place_of(entry.first) == 0; });
  windows_.pop_front();
  ended_ = std::move(parts);
}

LossSums OpenWindows::total() const {
  LossSums sums(num_classes_);
  bool first = true;
  for_oldest([&](const LossSlot& slot) {
    if (std::exchange(first, false)) {
      sums = slot.total();
    } else {
      sums.add(slot.total());
    }
  });
  return sums;
}

void OpenWindows::drop(bool counts) noexcept {
  if (ended_) {
    ended_.reset();
  } else {
    std::erase_if(batches_, [&](const auto& entry) { return place_of(entry.first) == 0; });
    if (windows_.size() > 1) {
      windows_.pop_front();
    } else {
      std::ranges::fill(windows_.front().here.sum, 0.0);
      std::ranges::fill(windows_.front().here.count, 0);
      windows_.front().there.reset();
    }
  }
  if (counts) ++closed_;
}

std::vector<LossSums> OpenWindows::as_of(std::int64_t total_step) const {
  std::vector<LossSums> open;
  for (std::size_t place = 0; place <= place_of(total_step - 1); ++place)
    open.push_back(place < windows_.size() ? windows_[place].total() : LossSums(num_classes_));
  for (const auto& [batch, slot] : batches_)
    if (batch < total_step) open[place_of(batch)].add(slot.total());
  return open;
}

void OpenWindows::restore(std::int64_t closed, std::vector<LossSums> open) {
  std::deque<LossSlot> windows;
  for (LossSums& sums : open) windows.emplace_back(num_classes_).here = std::move(sums);
  windows_ = std::move(windows);
  closed_ = closed;
  ended_.reset();
  batches_.clear();
  newest_.reset();
}

}  // namespace l2m
