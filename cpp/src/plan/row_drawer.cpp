#include "l2m/plan/row_drawer.hpp"

#include <algorithm>
#include <utility>

#include "l2m/base/compact.hpp"

namespace l2m {
namespace {

bool holds(const SamplerState& state, std::int64_t class_id) {
  return !state.held.empty() && state.held.contains(class_id);
}

}  // namespace

/// Draw the rows of one class for all batches.
void RowDrawer::draw(const Quotas::Class& quota, SamplerState& state, BatchPlans& plans) {
  quota.whole == 0 ? draw_extras(quota, state, plans) : draw_wholes(quota, state, plans);
  state.drawn[static_cast<std::size_t>(quota.class_id)] +=
      quota.whole * plans.size() + static_cast<std::int64_t>(quota.end - quota.begin);
}

/// Draw for a class with at most one row per batch. No batch can get a row twice, so passes simply follow each other.
void RowDrawer::draw_extras(const Quotas::Class& quota, SamplerState& state, BatchPlans& plans) {
  const std::vector<std::int32_t>& batch_of = plans.quotas_.batch;
  Cursor& cursor = state.cursors[static_cast<std::size_t>(quota.class_id)];
  const std::int64_t size = index_->size(quota.class_id);
  for (std::size_t i = quota.begin; i < quota.end;) {
    if (holds(state, quota.class_id)) {  // left from a larger quota
      draw_for_batch(quota.class_id, 1, batch_of[i++], state, plans);
      continue;
    }
    if (cursor.position == size) {
      cursor = {.pass = cursor.pass + 1, .position = 0};
      plans.turns_.push_back({quota.class_id, batch_of[i], {.pass = cursor.pass, .position = 1}, 0, 0});
    }
    passes_.visit(quota.class_id, cursor.pass, cursor.position, [&](auto row_at, std::int64_t end_of_rows) {
      const std::size_t end = i + std::min(quota.end - i, static_cast<std::size_t>(end_of_rows - cursor.position));
      std::int64_t position = cursor.position;
      for (; i < end; ++i) dealer_.deal(batch_of[i], quota.class_id, row_at(position++));
      cursor.position = position;
    });
  }
}

/// Draw for a class with rows in every batch.
void RowDrawer::draw_wholes(const Quotas::Class& quota, SamplerState& state, BatchPlans& plans) {
  const std::vector<std::int32_t>& batch_of = plans.quotas_.batch;
  Cursor& cursor = state.cursors[static_cast<std::size_t>(quota.class_id)];
  const std::int64_t size = index_->size(quota.class_id);
  std::size_t extra = quota.begin;
  const auto rows_in = [&](std::int64_t batch) {
    return quota.whole + (extra < quota.end && batch_of[extra] == batch ? 1 : 0);
  };
  for (std::int64_t batch = 0; batch < plans.size(); ++batch) {
    std::int64_t rows = rows_in(batch);
    if (cursor.position + rows <= size && !holds(state, quota.class_id)) {
      passes_.visit(quota.class_id, cursor.pass, cursor.position, [&](auto row_at, std::int64_t end) {
        while (cursor.position + rows <= end) {
          dealer_.deal(batch, quota.class_id, rows, [&](std::int64_t i) { return row_at(cursor.position + i); });
          cursor.position += rows;
          extra += static_cast<std::size_t>(rows - quota.whole);
          if (++batch == plans.size()) return;
          rows = rows_in(batch);
        }
      });
      if (batch == plans.size()) return;
    }
    draw_for_batch(quota.class_id, rows, batch, state, plans);
    extra += static_cast<std::size_t>(rows - quota.whole);
  }
}

/// Draw the next `count` rows of a class for one batch, handling held rows and the end of a pass.
void RowDrawer::draw_for_batch(std::int64_t class_id, std::int64_t count, std::int64_t batch, SamplerState& state,
                               BatchPlans& plans) {
  Cursor& cursor = state.cursors[static_cast<std::size_t>(class_id)];
  HeldRows::node_type entry;
  held_.clear();
  if (holds(state, class_id)) {
    entry = state.held.extract(class_id);
    held_.swap(entry.mapped());
  }
  drawn_.clear();
  draw_one_by_one(class_id, count, cursor);
  dealer_.deal(batch, class_id, count, [&](std::int64_t i) { return drawn_[static_cast<std::size_t>(i)]; });
  plans.turns_.push_back({class_id, batch, cursor, plans.held_.size(), plans.held_.size() + held_.size()});
  plans.held_.insert(plans.held_.end(), held_.begin(), held_.end());
  if (held_.empty()) return;
  if (entry) state.held.insert(std::move(entry));
  state.held[class_id] = held_;
}

/// Draw rows one by one, for batches with held rows or in which a pass ends.
void RowDrawer::draw_one_by_one(std::int64_t class_id, std::int64_t count, Cursor& cursor) {
  const std::int64_t size = index_->size(class_id);
  // A round takes every row of the class at most once. A quota larger than the class takes several rounds.
  std::size_t round = 0;  // begin of the round in drawn_
  std::swap(waiting_, held_);
  held_.clear();
  std::size_t waited = 0;  // number of waiting rows drawn so far
  tail_.clear();
  while (std::ssize(drawn_) < count) {
    if (std::ssize(drawn_) - static_cast<std::int64_t>(round) == size) {
      round = drawn_.size();
      std::swap(waiting_, held_);
      held_.clear();
      waited = 0;
      tail_.clear();
    }
    if (waited < waiting_.size()) {
      drawn_.push_back(waiting_[waited++]);
      continue;
    }
    if (cursor.position == size) {
      cursor = {.pass = cursor.pass + 1, .position = 0};
      tail_.assign(drawn_.begin() + static_cast<std::ptrdiff_t>(round), drawn_.end());
      sort_items(std::span(tail_));
    }
    passes_.visit(class_id, cursor.pass, cursor.position, [&](auto row_at, std::int64_t end) {
      const std::int64_t most = std::min(end - cursor.position, count - std::ssize(drawn_));
      if (tail_.empty()) {
        for (std::int64_t i = 0; i < most; ++i) drawn_.push_back(row_at(cursor.position++));
        return;
      }
      const std::int64_t row = row_at(cursor.position++);
      (std::ranges::binary_search(tail_, row) ? held_ : drawn_).push_back(row);
    });
  }
  held_.insert(held_.begin(), waiting_.begin() + static_cast<std::ptrdiff_t>(waited), waiting_.end());
}

}  // namespace l2m
