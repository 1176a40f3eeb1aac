#include "l2m/plan/batch_plan.hpp"

#include <algorithm>
#include <utility>

namespace l2m {

void BatchPlans::advance(SamplerState& state, std::int64_t from, std::int64_t to) const {
  if (from == to) return;
  const auto is_between = [&](const Turn& turn) { return turn.batch >= from && turn.batch < to; };
  HeldRows held;  // collected first, so that nothing fails halfway
  for (const Turn& turn : turns_) {
    if (!is_between(turn)) continue;
    if (turn.held_begin == turn.held_end)
      held.erase(turn.class_id);
    else
      held[turn.class_id].assign(held_.begin() + static_cast<std::ptrdiff_t>(turn.held_begin),
                                 held_.begin() + static_cast<std::ptrdiff_t>(turn.held_end));
  }
  state.total_step += static_cast<std::uint64_t>(to - from);
  if (pass_ && from == 0) {
    state.cursors[0] = {.pass = *pass_, .position = 0};
    state.held.erase(0);
  }
  auto turn = turns_.begin();
  for (const auto& [class_id, whole, begin, end] : quotas_.classes) {
    const auto k = static_cast<std::size_t>(class_id);
    const auto extra_at = [&, extras = std::span(quotas_.batch).subspan(begin, end - begin)](std::int64_t batch) {
      return std::ranges::lower_bound(extras, batch) - extras.begin();
    };
    const std::ptrdiff_t first = extra_at(from), last = extra_at(to);
    if (first != last) {
      state.due.visits[k] += static_cast<std::uint64_t>(last - first);
      state.due.due[k] = quotas_.due[begin + static_cast<std::size_t>(last)];
      state.due.offsets[k] = quotas_.offset[begin + static_cast<std::size_t>(last)];
    }
    std::int64_t since = from;
    for (; turn != turns_.end() && turn->class_id == class_id; ++turn) {
      if (!is_between(*turn)) continue;
      state.held.erase(class_id);
      since = turn->batch + 1;
      state.cursors[k] = turn->cursor;
    }
    state.cursors[k].position += whole * (to - since) + (last - extra_at(since));
    state.drawn[k] += whole * (to - from) + (last - first);
  }
  state.held.merge(held);
}

}  // namespace l2m
