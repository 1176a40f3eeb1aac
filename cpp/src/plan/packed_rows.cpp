#include "l2m/plan/packed_rows.hpp"

#include <algorithm>
#include <utility>

namespace l2m {
namespace {

/// Return the begin of each segment, and the end of the last one.
std::vector<std::int64_t> begins_of(std::vector<std::int64_t> sizes) {
  std::int64_t total = 0;
  for (std::int64_t& size : sizes) total += std::exchange(size, total);
  sizes.push_back(total);
  return sizes;
}

}  // namespace

PackedRows::PackedRows(std::vector<std::int64_t> first_rows, std::vector<std::int64_t> segment_rows,
                       std::vector<std::int64_t> segment_bytes)
    : first_rows_(std::move(first_rows)),
      first_position_(begins_of(std::move(segment_rows))),
      first_byte_(begins_of(std::move(segment_bytes))),
      gaps_(memory_for("the gaps between ids", first_byte_.back(), 1)) {}

bool PackedRows::contains(std::int64_t class_id, std::int64_t row) const {
  const std::int64_t part = std::ranges::upper_bound(first_rows_, row) - first_rows_.begin() - 1;
  if (part < 0) return false;
  const std::size_t at = segment(class_id, part);
  Reader reader(*this, first_position_[at]);
  for (std::int64_t position = first_position_[at]; position < first_position_[at + 1]; ++position)
    if (reader(position) == row) return true;
  return false;
}

PackedRows::Reader::Reader(const PackedRows& rows, std::int64_t position) : rows_(&rows) {
  // Of empty segments at the position, any will do.
  const auto& positions = rows.first_position_;
  segment_ = static_cast<std::size_t>(std::ranges::upper_bound(positions, position) - positions.begin()) - 1;
  segment_ = std::min(segment_, positions.size() - 2);
  next_ = rows.gaps_at(segment_);
  row_ = rows.row_before(segment_);
  end_ = positions[segment_];
}

void PackedRows::Reader::read_more() {
  const std::vector<std::int64_t>& positions = rows_->first_position_;
  const std::uint8_t* next = next_;
  std::int64_t row = row_, i = 0;
  for (;;) {
    const std::int64_t end = std::min(kBuffered, positions[segment_ + 1] - end_);
    for (; i < end; ++i) {
      for (; *next == kLongGap; ++next) row += kLongGap;
      row += *next++ + 1;
      ids_[static_cast<std::size_t>(i)] = row;
    }
    if (i == kBuffered || segment_ + 2 == positions.size()) break;
    row = rows_->row_before(++segment_);
  }
  next_ = next;
  row_ = row;
  end_ += kBuffered;
}

}  // namespace l2m
