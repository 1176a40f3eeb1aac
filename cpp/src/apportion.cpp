#include "l2m/apportion.hpp"

#include <algorithm>
#include <bit>
#include <cmath>
#include <utility>

#include "l2m/philox.hpp"

namespace l2m {
namespace {

double jitter(std::uint64_t seed, std::size_t class_id, std::uint64_t visit) {
  return RandomStream(seed, Purpose::kDue, class_id).uniform(visit);
}

constexpr std::size_t kAhead = 8;  // classes whose state is fetched ahead of their turn

/// Eighths of a step.
std::uint64_t key_of(double due) {
  // By way of a signed integer, which converts in one instruction.
  return static_cast<std::uint64_t>(static_cast<std::int64_t>(std::min(std::max(due * 8, 0.0), 0x1p62)));
}

}  // namespace

void DueQueue::clear() {
  now_ = 0;
  near_.clear();
  for (auto& level : far_)
    for (auto& bucket : level) bucket.clear();
}

void DueQueue::push(Entry entry) {
  const std::uint64_t key = key_of(entry.due);
  if (key <= now_) {
    near_.push_back(entry);
    return;
  }
  const int level = (static_cast<int>(std::bit_width(key ^ now_)) - 1) / kDigitBits;
  far_[static_cast<std::size_t>(level)][digit(key, level)].push_back(entry);
}

void DueQueue::advance() {
  for (int level = 0; level < kLevels; ++level) {
    auto& buckets = far_[static_cast<std::size_t>(level)];
    const auto nearest = std::find_if(buckets.begin() + static_cast<std::ptrdiff_t>(digit(now_, level)), buckets.end(),
                                      [](const auto& bucket) { return !bucket.empty(); });
    if (nearest == buckets.end()) continue;
    if (level == 0) {  // all of one key
      now_ = key_of(nearest->front().due);
      near_.swap(*nearest);
      return;
    }
    now_ = key_of(std::ranges::min(*nearest).due);
    nearest->swap(moving_);
    for (const Entry& entry : moving_) push(entry);
    moving_.clear();
    return;
  }
}

void DueQueue::take(std::size_t count, std::vector<Entry>& taken) {
  while (count > 0) {
    if (near_.empty()) advance();
    const auto some = static_cast<std::ptrdiff_t>(std::min(count, near_.size()));
    if (some < std::ssize(near_)) std::nth_element(near_.begin(), near_.begin() + some, near_.end());
    taken.insert(taken.end(), near_.begin(), near_.begin() + some);
    near_.erase(near_.begin(), near_.begin() + some);
    count -= static_cast<std::size_t>(some);
  }
}

void ClassSet::resize(std::size_t num_classes) {
  members_.assign((num_classes + 63) / 64, 0);
  words_.assign((members_.size() + 63) / 64, 0);
}

void ClassSet::insert(std::int64_t class_id) {
  const auto k = static_cast<std::size_t>(class_id);
  members_[k / 64] |= std::uint64_t{1} << (k % 64);
  words_[k / 4096] |= std::uint64_t{1} << (k / 64 % 64);
}

void ClassSet::drain_to(std::vector<std::int64_t>& ascending) {
  for (std::size_t i = 0; i < words_.size(); ++i) {
    for (; words_[i] != 0; words_[i] &= words_[i] - 1) {
      const std::size_t word = 64 * i + static_cast<std::size_t>(std::countr_zero(words_[i]));
      for (; members_[word] != 0; members_[word] &= members_[word] - 1)
        ascending.push_back(static_cast<std::int64_t>(64 * word) + std::countr_zero(members_[word]));
    }
  }
}

Apportioner::Apportioner(std::uint64_t seed, std::int64_t batch_size) : seed_(seed), batch_size_(batch_size) {}

Apportioner::Share Apportioner::share(double proportion) const {
  const double rows = proportion * static_cast<double>(batch_size_);
  const double whole = std::floor(rows);
  const double fraction = rows - whole;
  // Less would be due in more steps than a double can count.
  return {static_cast<std::int64_t>(whole), fraction < 0x1p-500 ? 0.0 : fraction};
}

void Apportioner::start(std::span<const double> proportions, std::uint64_t step, std::span<DueTime> due) const {
  const std::vector<double> none(proportions.size(), 0.0);
  change(none, proportions, step, due);
}

void Apportioner::change(std::span<const double> from, std::span<const double> to, std::uint64_t step,
                         std::span<DueTime> due) const {
  const auto now = static_cast<double>(step);
  for (std::size_t k = 0; k < due.size(); ++k) {
    const double old_fraction = share(from[k]).fraction;
    const double new_fraction = share(to[k]).fraction;
    if (new_fraction == old_fraction) continue;
    if (new_fraction == 0) {
      due[k].due = 0.0;
    } else if (old_fraction == 0) {
      due[k].due = now + jitter(seed_, k, due[k].visit) / new_fraction;
    } else {
      due[k].due = now + (due[k].due - now) * (old_fraction / new_fraction);
    }
  }
}

void Apportioner::set(std::span<const double> proportions, std::span<const DueTime> due) {
  whole_.clear();
  queue_.clear();
  served_.resize(proportions.size());
  fraction_.resize(proportions.size());
  extra_ = batch_size_;
  for (std::size_t k = 0; k < proportions.size(); ++k) {
    const auto [whole, fraction] = share(proportions[k]);
    const auto class_id = static_cast<std::int64_t>(k);
    if (whole > 0) whole_.push_back({class_id, whole});
    if (fraction > 0) queue_.push({due[k].due, class_id});
    fraction_[k] = fraction;
    extra_ -= whole;
  }
  // Proportions sum to 1 within K * 2^-53, so their fractions sum to extra_ within far less than 1: there are always
  // at least extra_ classes with a fraction, and never more whole rows than the batch has.
}

void Apportioner::serve(std::int64_t class_id, DueTime& due) {
  const RandomStream random(seed_, Purpose::kDue, static_cast<std::uint64_t>(class_id));
  const auto words = random.block(due.visit / 4);
  const auto word = due.visit % 4;
  const double before = RandomStream::to_unit(words[word]);
  const double after = word < 3 ? RandomStream::to_unit(words[word + 1]) : random.uniform(due.visit + 1);
  ++due.visit;
  due.due += ((1.0 + after) - before) / fraction_[static_cast<std::size_t>(class_id)];
}

std::span<const Quota> Apportioner::next(std::span<DueTime> due) {
  taken_.clear();
  queue_.take(static_cast<std::size_t>(extra_), taken_);
  for (std::size_t i = 0; i < taken_.size(); ++i) {
    if (i + kAhead < taken_.size()) {
      const auto later = static_cast<std::size_t>(taken_[i + kAhead].class_id);
      __builtin_prefetch(&due[later], 1);
      __builtin_prefetch(&fraction_[later]);
    }
    const std::int64_t class_id = taken_[i].class_id;
    DueTime& moved = due[static_cast<std::size_t>(class_id)];
    serve(class_id, moved);
    queue_.push({moved.due, class_id});
    served_.insert(class_id);
  }
  served_ascending_.clear();
  served_.drain_to(served_ascending_);

  quotas_.clear();
  auto extra = served_ascending_.begin();
  for (const Quota& quota : whole_) {
    for (; extra != served_ascending_.end() && *extra < quota.class_id; ++extra) quotas_.push_back({*extra, 1});
    const bool one_more = extra != served_ascending_.end() && *extra == quota.class_id;
    if (one_more) ++extra;
    quotas_.push_back({quota.class_id, quota.rows + (one_more ? 1 : 0)});
  }
  for (; extra != served_ascending_.end(); ++extra) quotas_.push_back({*extra, 1});
  return quotas_;
}

}  // namespace l2m
