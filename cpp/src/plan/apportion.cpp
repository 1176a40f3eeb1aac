#include "l2m/plan/apportion.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <utility>

#include "l2m/base/compact.hpp"
#include "l2m/base/random.hpp"

namespace l2m {
namespace {

// Due times listed at once: numbered in 32 bits, and twice as many fit in the address space with all their scratch.
constexpr std::int64_t kMaxTimes =
    std::min<std::int64_t>(std::numeric_limits<std::uint32_t>::max() / 2, PTRDIFF_MAX / 64);
constexpr std::int64_t kTimesPerBucket = 16;
constexpr std::int32_t kNoCandidate = -1;
constexpr std::int32_t kNotServed = std::numeric_limits<std::int32_t>::max();

constexpr std::int32_t kInterval = 1 << 16;  // in units of an offset
constexpr double kOffset = 1.0 / kInterval;

/// Return the offset of the next visit: up to half an interval away, reflected at the ends of the interval.
std::int32_t next_offset(std::int32_t offset, std::int32_t quarter) {
  std::int32_t moved = offset + quarter - kInterval / 2;
  moved ^= moved >> 31;                           // -1 - moved if it is negative
  moved ^= -(moved >> 16) & (2 * kInterval - 1);  // 2 * kInterval - 1 - moved if it is not below kInterval
  return moved;
}

}  // namespace

Apportioner::Apportioner(std::uint64_t seed, std::int64_t batch_size) : seed_(seed), batch_size_(batch_size) {}

Apportioner::Share Apportioner::share(double proportion) const {
  const double rows = proportion * static_cast<double>(batch_size_);
  const double whole = std::floor(rows);
  const double fraction = rows - whole;
  // A smaller fraction would be due after more steps than a double can count.
  return {static_cast<std::int64_t>(whole), fraction < 0x1p-500 ? 0.0 : fraction};
}

void Apportioner::start(std::span<const double> proportions, std::uint64_t step, DueTimes& due) const {
  const std::vector<double> none(proportions.size(), 0.0);
  due.visits.assign(proportions.size(), 0);
  due.offsets.clear();
  due.due.clear();
  for (std::size_t k = 0; k < proportions.size(); ++k) {
    due.offsets.push_back(RandomStream(seed_, Purpose::kDue, k).quarters(0)[0]);
    due.due.push_back(due.offsets[k] * kOffset);
  }
  change(none, proportions, step, due);
}

void Apportioner::change(std::span<const double> from, std::span<const double> to, std::uint64_t step,
                         DueTimes& due) const {
  const auto now = static_cast<double>(step);
  for (std::size_t k = 0; k < to.size(); ++k) {
    const double old_fraction = share(from[k]).fraction;
    const double new_fraction = share(to[k]).fraction;
    if (new_fraction == old_fraction) continue;
    const double missing = old_fraction == 0 ? due.due[k] : (due.due[k] - now) * old_fraction;
    due.due[k] = new_fraction == 0 ? missing : now + missing / new_fraction;
  }
}

void Apportioner::set(std::span<const double> proportions) {
  class_ids_.clear();
  whole_.clear();
  fraction_.clear();
  extra_ = batch_size_;
  for (std::size_t k = 0; k < proportions.size(); ++k) {
    const auto [whole, fraction] = share(proportions[k]);
    if (whole == 0 && fraction == 0) continue;
    class_ids_.push_back(static_cast<std::int64_t>(k));
    whole_.push_back(whole);
    fraction_.push_back(fraction);
    extra_ -= whole;
  }
  // Proportions sum to 1 within K * 2^-53, so the fractions sum to extra_ within much less than 1. Hence at least
  // extra_ classes have a fraction, and the whole rows never exceed the batch.
}

void Quotas::clear() {
  num_batches = 0;
  classes.clear();
  batch.clear();
}

std::int64_t Apportioner::max_batches_at_once(std::int64_t extra_rows, std::int64_t max_batches) {
  return std::min(max_batches, kMaxTimes / (2 * extra_rows) - 1);
}

void Apportioner::next(std::uint64_t step, std::int64_t max_batches, DueTimes& due, Quotas& quotas) {
  quotas.clear();
  if (extra_ == 0) {
    for (std::size_t i = 0; i < class_ids_.size(); ++i) quotas.classes.push_back({class_ids_[i], whole_[i], 0, 0});
    quotas.num_batches = max_batches;
    return;
  }
  const auto limit = static_cast<std::int32_t>(max_batches_at_once(extra_, max_batches));
  const bool found = limit > 0 && find_candidates(step, limit, due, quotas);
  quotas.num_batches = found ? serve_candidates(limit, quotas) : 0;
  if (quotas.num_batches == 0) return next_single(due, quotas);

  std::erase_if(quotas.classes, [&](Quotas::Class& of) {
    while (of.end > of.begin && quotas.batch[of.end - 1] >= quotas.num_batches) --of.end;
    if (of.end == of.begin) return of.whole == 0;
    const auto k = static_cast<std::size_t>(of.class_id);
    due.visits[k] += of.end - of.begin;
    due.due[k] = quotas.due[of.end];
    due.offsets[k] = quotas.offset[of.end];
    return false;
  });
}

/// List the times before `horizon` at which a class is due, at most `max_times`, and the next one. Return their number
/// without the last.
std::size_t Apportioner::visits(std::size_t k, double interval, std::int32_t max_times, double horizon,
                                const DueTimes& due, double* times, std::uint16_t* offsets) const {
  const RandomStream stream(seed_, Purpose::kDue, k);
  std::uint64_t next = due.visits[k] + 1;
  double time = due.due[k];
  std::int32_t offset = due.offsets[k];
  const double unit = kOffset * interval;  // scaled by a power of two, so that the times are those of intervals
  std::size_t count = 0;
  while (count < static_cast<std::size_t>(max_times) && time < horizon) {
    const auto quarters = stream.quarters(next / 16);
    const auto first = static_cast<std::size_t>(next % 16);
    const std::size_t end = std::min(quarters.size() - first, static_cast<std::size_t>(max_times) - count) + first;
    for (std::size_t i = first; i < end && time < horizon; ++i) {
      offsets[count] = static_cast<std::uint16_t>(offset);
      times[count++] = time;
      const std::int32_t before = std::exchange(offset, next_offset(offset, quarters[i]));
      time += static_cast<double>(kInterval + offset - before) * unit;
    }
    next += end - first;
  }
  offsets[count] = static_cast<std::uint16_t>(offset);
  times[count] = time;
  return count;
}

/// List the due times up to the end of the batches. Return false if there are too many.
///
/// A time that is not a candidate precedes those of the first class and follows those of each class.
bool Apportioner::find_candidates(std::uint64_t step, std::int32_t max_batches, const DueTimes& due, Quotas& quotas) {
  // Until a time, about as many extra rows are due as there are steps, so nearly all batches can be filled.
  const auto now = static_cast<double>(step);
  const double horizon = now + static_cast<double>(max_batches + 1);
  const std::int64_t expected = extra_ * (std::int64_t{max_batches} + 1);
  const auto max_times = static_cast<std::size_t>(std::min(4 * (std::ssize(class_ids_) + expected), kMaxTimes));
  const auto num_buckets = static_cast<std::size_t>(expected / kTimesPerBucket + 1);
  const double buckets_per_step = static_cast<double>(num_buckets) / static_cast<double>(max_batches + 2);
  const auto bucket_of = [=, last = static_cast<double>(num_buckets - 1)](double time) {
    return static_cast<std::int32_t>(std::min(std::max((time - (now - 1)) * buckets_per_step, 0.0), last));
  };
  std::vector<double>& times = quotas.due;
  std::size_t size = 1;
  bucket_end_.assign(num_buckets + 1, 0);
  for (std::size_t i = 0; i < class_ids_.size(); ++i) {
    const auto k = static_cast<std::size_t>(class_ids_[i]);
    double time = due.due[k];
    if (fraction_[i] == 0 || !(time < horizon)) {
      if (whole_[i] > 0) quotas.classes.push_back({class_ids_[i], whole_[i], 0, 0});
      continue;
    }
    if (size > max_times) return false;  // rare in training, but a restored state may have any due times
    // At most one extra row per batch, and the due time after them.
    const std::size_t max_size = size + static_cast<std::size_t>(max_batches) + 1;
    if (max_size > quotas.offset.size()) {  // the last to grow, so it is short if memory ran out
      times.resize(2 * max_size);
      quotas.offset.resize(2 * max_size);
    }
    if (max_size > bucket_.size()) bucket_.resize(2 * max_size);
    const std::size_t begin = size;
    size += visits(k, 1.0 / fraction_[i], max_batches, horizon, due, &times[begin], &quotas.offset[begin]);
    for (std::size_t at = begin; at < size; ++at) bucket_[at] = bucket_of(times[at]);
    for (std::size_t at = begin; at < size; ++at) ++bucket_end_[static_cast<std::size_t>(bucket_[at]) + 1];
    quotas.classes.push_back({class_ids_[i], whole_[i], begin, size});
    ++size;
  }

  for (std::size_t b = 0; b < num_buckets; ++b) bucket_end_[b + 1] += bucket_end_[b];
  order_.resize(bucket_end_.back());
  quotas.batch.assign(size, kNotServed);
  quotas.batch[0] = kNoCandidate;
  for (const Quotas::Class& of : quotas.classes) {
    if (of.begin == of.end) continue;
    for (std::size_t i = of.begin; i < of.end; ++i)
      order_[bucket_end_[static_cast<std::size_t>(bucket_[i])]++] = static_cast<std::uint32_t>(i);
    quotas.batch[of.end] = kNoCandidate;
  }
  bucket_end_.pop_back();
  return true;
}

/// Serve the candidates by time and class: extra_ per batch, at most one per class. Return the number of complete
/// batches.
std::int32_t Apportioner::serve_candidates(std::int32_t max_batches, Quotas& quotas) {
  std::int32_t batch = 0;
  std::int64_t served = 0;
  // The entry before the first candidate of a class is kNoCandidate, which counts as served.
  const auto serve = [&, batch_of = quotas.batch.data()](std::uint32_t i) {
    if (batch_of[i - 1] >= batch) return false;
    batch_of[i] = batch;
    ++served;
    return true;
  };
  deferred_.clear();  // their classes were served in this batch, so all of them fit in the next
  std::size_t begin = 0;
  for (const std::size_t end : bucket_end_) {
    const std::span bucket = std::span(order_).subspan(begin, end - begin);
    begin = end;
    // The order matters only if a batch may fill up within this bucket.
    if (served + std::ssize(bucket) >= extra_)
      sort_items(bucket, [&](std::uint32_t i, std::uint32_t j) {
        return quotas.due[i] < quotas.due[j] || (quotas.due[i] == quotas.due[j] && i < j);
      });
    for (const std::uint32_t i : bucket) {
      if (!serve(i)) deferred_.push_back(i);
      while (served == extra_) {
        if (++batch == max_batches) return batch;
        served = 0;
        std::erase_if(deferred_, serve);
      }
    }
  }
  return batch;
}

/// Apply the rule literally, to a single batch.
void Apportioner::next_single(DueTimes& due, Quotas& quotas) {
  quotas.clear();
  quotas.due.clear();
  quotas.offset.clear();
  quotas.num_batches = 1;
  waiting_.clear();
  for (std::size_t i = 0; i < class_ids_.size(); ++i)
    if (fraction_[i] > 0) waiting_.emplace_back(due.due[static_cast<std::size_t>(class_ids_[i])], i);
  const auto served_end = waiting_.begin() + static_cast<std::ptrdiff_t>(extra_);
  if constexpr (kCompact)
    sort_items(std::span(waiting_));
  else
    std::nth_element(waiting_.begin(), served_end - 1, waiting_.end());
  sort_items(std::span(waiting_).first(static_cast<std::size_t>(extra_)),
             [](const auto& a, const auto& b) { return a.second < b.second; });
  auto served = waiting_.begin();
  for (std::size_t i = 0; i < class_ids_.size(); ++i) {
    const std::size_t begin = quotas.batch.size();
    if (served != served_end && served->second == i) {
      ++served;
      const auto k = static_cast<std::size_t>(class_ids_[i]);
      double times[2];
      std::uint16_t offsets[2];
      visits(k, 1.0 / fraction_[i], 1, HUGE_VAL, due, times, offsets);
      quotas.batch.insert(quotas.batch.end(), {0, kNoCandidate});
      quotas.due.insert(quotas.due.end(), {times[0], times[1]});
      quotas.offset.insert(quotas.offset.end(), {offsets[0], offsets[1]});
      ++due.visits[k];
      due.due[k] = times[1];
      due.offsets[k] = offsets[1];
    }
    if (whole_[i] > 0 || quotas.batch.size() > begin)
      quotas.classes.push_back({class_ids_[i], whole_[i], begin, std::min(begin + 1, quotas.batch.size())});
  }
}

}  // namespace l2m
