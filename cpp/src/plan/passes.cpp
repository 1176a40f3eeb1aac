#include "l2m/plan/passes.hpp"

#include <algorithm>
#include <cmath>
#include <utility>

#include "l2m/base/errors.hpp"

namespace l2m {
namespace {

constexpr bool kSlices = Permutation::kMaxSlices > 1;
constexpr std::int64_t kInlineRows = 8192;    // shuffled within about 16 us, too short for a task
constexpr std::int64_t kSliceRows = 1 << 26;  // most rows in a buffer, as far as kMaxSlices slices suffice

/// Return the number of slices in which the passes of large classes are computed. Each of them draws the buckets of all rows.
std::int64_t slices_for(std::int64_t num_rows) {
  std::int64_t slices = 1;
  while (slices < Permutation::kMaxSlices && num_rows / slices > kSliceRows) slices *= 2;
  return slices;
}

}  // namespace

Passes::Passes(std::shared_ptr<const ClassIndex> index, std::uint64_t seed, bool shuffle, bool in_background,
               std::int64_t max_slices)
    : index_(std::move(index)),
      seed_(seed),
      shuffle_(shuffle),
      in_background_(in_background),
      max_slices_(max_slices == 0 ? slices_for(index_->num_rows()) : max_slices) {
  if (!shuffle_ && index_->packed()) refuse("an index for shuffled rows needs shuffle = true (got false)");
  if (!shuffle_) return;
  if (kSlices && max_slices_ > 1) {
    offsets_.push_back(0);
    for (std::int64_t k = 0; k < index_->num_classes(); ++k) {
      offsets_.push_back(offsets_.back() + max_rows(k));
      if (is_sliced(k)) sliced_[k];
    }
  }
  for (std::size_t i = 0; i < num_buffers(); ++i) order_[i] = RowIds(rows_in_buffer(), index_->id_bytes());
  made_.resize(static_cast<std::size_t>(index_->num_classes()) * num_buffers());
}

std::int64_t Passes::rows_in_buffer() const { return offsets_.empty() ? index_->num_rows() : offsets_.back(); }

/// Return the room for a class in a buffer.
std::int64_t Passes::max_rows(std::int64_t class_id) const {
  const std::int64_t size = index_->size(class_id);
  if (!is_sliced(class_id)) return size;
  // The size of a slice is binomial. By Chernoff's bound, one in 10^50 is 16 standard deviations larger than the mean.
  const std::int64_t mean = size / num_slices(class_id) + 1;
  return mean + 16 * static_cast<std::int64_t>(std::sqrt(static_cast<double>(mean)));
}

void Passes::prefetch_class(std::int64_t class_id) const {
  index_->prefetch_offset(class_id);
  if (shuffle_) __builtin_prefetch(&made_[buffer(class_id, 0)]);
}

void Passes::prefetch_rows(std::int64_t class_id, std::uint64_t pass, std::int64_t position) const {
  if (!shuffle_ || is_sliced(class_id)) return;
  order(pass).visit([&](auto ids) {
    if (ids.empty()) return;
    const auto* const rows = ids.data() + offset(class_id) + position;
    __builtin_prefetch(rows);
    __builtin_prefetch(rows + 16);
  });
}

Permutation Passes::permutation(std::int64_t class_id, std::uint64_t unit) const {
  Permutation::Slice slice{.offset = offset(class_id), .max_rows = max_rows(class_id)};
  std::uint64_t pass = unit;
  if (is_sliced(class_id)) {
    const auto slices = static_cast<std::uint64_t>(num_slices(class_id));
    pass = unit / slices;
    slice.number = static_cast<std::int64_t>(unit % slices);
    slice.count = num_slices(class_id);
    if (const Permutation::Buckets* const buckets = buckets_of(class_id, pass)) slice.buckets = *buckets;
  }
  return {*index_, class_id, order(unit), std::move(slice), seed_, pass};
}

/// Return whether other threads compute the passes of a class.
bool Passes::in_background(std::int64_t class_id) const {
  return kHasThreads && in_background_ && index_->size(class_id) > kInlineRows;
}

/// Return the buckets of a pass of a sliced class if one of its slices is in a buffer, else null.
const Permutation::Buckets* Passes::buckets_of(std::int64_t class_id, std::uint64_t pass) const {
  for (unsigned i = 0; kSlices && i < num_buffers(); ++i) {
    const std::uint64_t made = made_[buffer(class_id, i)];
    if (made > 0 && (made - 1) / static_cast<std::uint64_t>(num_slices(class_id)) == pass)
      return &sliced_.find(class_id)->second.buckets[i];
  }
  return nullptr;
}

/// Return the unit at a position of a pass. Of a sliced class, it is a guess until the buckets of the pass are known.
std::uint64_t Passes::unit_at(std::int64_t class_id, std::uint64_t pass, std::int64_t position) const {
  if (!is_sliced(class_id)) return pass;
  const std::int64_t size = index_->size(class_id), slices = num_slices(class_id);
  std::int64_t slice = position == size ? slices : std::min(position / (size / slices), slices - 1);
  if (const Permutation::Buckets* const buckets = buckets_of(class_id, pass)) {
    slice = 0;
    while (slice < slices && position >= buckets->begin(slice + 1, slices)) ++slice;
  }
  return pass * static_cast<std::uint64_t>(slices) + static_cast<std::uint64_t>(slice);
}

/// Complete the slice that has a row of a pass.
const Passes::Sliced& Passes::slice_at(std::int64_t class_id, std::uint64_t pass, std::int64_t position) {
  Sliced& slice = sliced_.find(class_id)->second;
  if (!kSlices) return slice;
  const std::int64_t slices = num_slices(class_id);
  while (slice.unit / static_cast<std::uint64_t>(slices) != pass || position < slice.begin || position >= slice.end ||
         made_[buffer(class_id, slice.unit)] != slice.unit + 1) {
    const std::uint64_t unit = unit_at(class_id, pass, position);
    make_current(class_id, unit);
    const Permutation::Buckets& buckets = slice.buckets[unit & (num_buffers() - 1)];
    const auto number = static_cast<std::int64_t>(unit % static_cast<std::uint64_t>(slices));
    slice.unit = unit;
    slice.begin = buckets.begin(number, slices);
    slice.end = buckets.begin(number + 1, slices);
  }
  return slice;
}

/// Complete a unit in its buffer, and start on the next one.
void Passes::make_current(std::int64_t class_id, std::uint64_t unit) {
  const std::size_t index = buffer(class_id, unit);
  if (made_[index] != unit + 1) {
    Permutation::Buckets* const buckets =
        is_sliced(class_id) ? &sliced_.find(class_id)->second.buckets[unit & (num_buffers() - 1)] : nullptr;
    if (in_background(class_id)) {
      prepare_unit(class_id, unit);
      const std::shared_ptr<Job> job = pending_.extract(index).mapped();
      finish(*job);
      if (buckets != nullptr) *buckets = job->permutation.buckets();
    } else {
      if (order_[0].size() == 0) order_[0] = RowIds(rows_in_buffer(), index_->id_bytes());
      Permutation work = permutation(class_id, unit);
      made_[index] = 0;  // drop what the buffer held
      for (; !work.done(); work.next_stage())
        for (std::int64_t task = 0; task < work.tasks(); ++task) work.run(task);
      if (buckets != nullptr) *buckets = work.buckets();
    }
    made_[index] = unit + 1;
  }
  prepare_unit(class_id, unit + 1);
}

void Passes::prepare(std::int64_t class_id, std::uint64_t pass, std::int64_t position) {
  if (kHasThreads) prepare_unit(class_id, unit_at(class_id, pass, position));
}

void Passes::prepare_unit(std::int64_t class_id, std::uint64_t unit) {
  if (!kHasThreads || !shuffle_ || !in_background(class_id)) return;
  const std::size_t index = buffer(class_id, unit);
  if (made_[index] == unit + 1) return;
  std::shared_ptr<Job>& job = pending_[index];
  if (job && job->unit == unit) return;
  std::list<std::shared_ptr<Job>> fresh;
  fresh.push_back(std::make_shared<Job>(Job{permutation(class_id, unit), unit}));
  if (job) cancel(*std::exchange(job, nullptr));
  made_[index] = 0;  // drop what the buffer held
  const Lock lock(mutex_);
  job = fresh.front();
  jobs_.splice(jobs_.end(), fresh);
  ++open_jobs_;
}

void Passes::release() {
  if (num_buffers() > 1) return;
  std::ranges::fill(made_, 0);
  order_[0] = RowIds();
}

/// Work on a job until it is done.
void Passes::finish(Job& job) {
  Lock lock(mutex_);
  while (!job.permutation.done())
    if (!run_task(job, lock)) progress_.wait(lock);
}

/// Cancel a job. Its buffer has unspecified content afterwards.
void Passes::cancel(Job& job) {
  Lock lock(mutex_);
  if (job.next < job.permutation.tasks()) --open_jobs_;
  job.canceled = true;
  while (job.next != job.finished) progress_.wait(lock);
}

/// Run one task of a job without the lock, if any is available. Return whether one was.
bool Passes::run_task(Job& job, Lock& lock) {
  if (!kHasThreads || job.canceled || job.next == job.permutation.tasks()) return false;
  const std::int64_t task = job.next++;
  if (job.next == job.permutation.tasks()) --open_jobs_;
  lock.unlock();
  job.permutation.run(task);
  lock.lock();
  if (++job.finished == job.permutation.tasks()) {
    job.permutation.next_stage();
    job.next = job.finished = 0;
    if (!job.canceled && !job.permutation.done()) ++open_jobs_;
  }
  progress_.notify_all();
  return true;
}

bool Passes::in_progress() {
  if (!kHasThreads) return false;
  const Lock lock(mutex_);
  return std::ranges::any_of(jobs_, [](const auto& job) { return !job->canceled && !job->permutation.done(); });
}

bool Passes::work() {
  if (!kHasThreads) return false;
  Lock lock(mutex_);
  std::erase_if(jobs_, [](const auto& job) { return job->canceled || job->permutation.done(); });
  for (const auto& candidate : jobs_) {
    const std::shared_ptr<Job> job = candidate;  // keeps the job alive if jobs_ changes
    if (run_task(*job, lock)) return true;
  }
  return false;
}

}  // namespace l2m
