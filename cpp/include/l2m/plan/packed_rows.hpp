#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

#include "l2m/base/memory.hpp"

namespace l2m {

/// Row ids of each class in ascending order, stored as gaps: a byte for each row, and one more for each 255 rows of its gap.
///
/// The rows are divided into parts. A segment has the rows of one class in one part, and its first gap is from the begin of
/// the part: threads can write the parts side by side, and a reader can begin at any segment.
class PackedRows {
 public:
  /// Return the number of bytes of a gap, which is the difference of two ids.
  static constexpr std::int64_t bytes_of(std::int64_t gap) { return 1 + (gap - 1) / kLongGap; }
  /// Write a gap to `out`, and return where the next one goes.
  static std::uint8_t* write(std::int64_t gap, std::uint8_t* out) {
    for (; gap > kLongGap; gap -= kLongGap) *out++ = kLongGap;
    *out = static_cast<std::uint8_t>(gap - 1);
    return out + 1;
  }

  /// Create segments with unspecified gaps, class by class.
  ///
  /// @param first_rows     [parts] a lower bound of the ids in each part, above those of earlier parts.
  /// @param segment_rows   [K, parts] number of rows of each segment.
  /// @param segment_bytes  [K, parts] bytes of its gaps.
  /// @throws OutOfMemory
  PackedRows(std::vector<std::int64_t> first_rows, std::vector<std::int64_t> segment_rows,
             std::vector<std::int64_t> segment_bytes);

  /// Return where the gaps of a segment go.
  [[nodiscard]] std::uint8_t* gaps(std::int64_t class_id, std::int64_t part) {
    return gaps_at(segment(class_id, part));
  }

  /// Return whether a class has a row. O(rows of a segment)
  [[nodiscard]] bool contains(std::int64_t class_id, std::int64_t row) const;

  /// Reader of the rows from a position on, where those of all classes follow each other.
  class Reader {
   public:
    Reader(const PackedRows& rows, std::int64_t position);

    /// Return the row at a position, which must not be less than that of an earlier call.
    std::int64_t operator()(std::int64_t position) {
      while (position >= end_) read_more();
      return ids_[static_cast<std::size_t>(position + kBuffered - end_)];
    }

   private:
    static constexpr std::int64_t kBuffered = 512;
    void read_more();

    const PackedRows* rows_;
    std::size_t segment_;
    const std::uint8_t* next_;  // gap
    std::int64_t row_;          // before that gap
    std::int64_t end_;          // of the positions of ids_
    std::array<std::int64_t, kBuffered> ids_;
  };

 private:
  static constexpr std::uint8_t kLongGap = 255;

  /// Return the begin of each segment, and the end of the last one.
  static std::vector<std::int64_t> begins_of(std::vector<std::int64_t> sizes) {
    std::int64_t total = 0;
    for (std::int64_t& size : sizes) total += std::exchange(size, total);
    sizes.push_back(total);
    return sizes;
  }
  [[nodiscard]] std::size_t segment(std::int64_t class_id, std::int64_t part) const {
    return static_cast<std::size_t>(class_id) * first_rows_.size() + static_cast<std::size_t>(part);
  }
  [[nodiscard]] std::uint8_t* gaps_at(std::size_t segment) const {
    return reinterpret_cast<std::uint8_t*>(gaps_.data()) + first_byte_[segment];
  }
  /// Return the id from which the first gap of a segment counts.
  [[nodiscard]] std::int64_t row_before(std::size_t segment) const {
    return first_rows_[segment % first_rows_.size()] - 1;
  }

  std::vector<std::int64_t> first_rows_;      // [parts]
  std::vector<std::int64_t> first_position_;  // [K * parts + 1] of each segment, then the number of rows
  std::vector<std::int64_t> first_byte_;      // [K * parts + 1] of each segment, then the number of bytes
  Memory gaps_;
};

inline PackedRows::PackedRows(std::vector<std::int64_t> first_rows, std::vector<std::int64_t> segment_rows,
                              std::vector<std::int64_t> segment_bytes)
    : first_rows_(std::move(first_rows)),
      first_position_(begins_of(std::move(segment_rows))),
      first_byte_(begins_of(std::move(segment_bytes))),
      gaps_(memory_for("the gaps between ids", first_byte_.back(), 1)) {}

inline bool PackedRows::contains(std::int64_t class_id, std::int64_t row) const {
  const std::int64_t part = std::ranges::upper_bound(first_rows_, row) - first_rows_.begin() - 1;
  if (part < 0) return false;
  const std::size_t at = segment(class_id, part);
  Reader reader(*this, first_position_[at]);
  for (std::int64_t position = first_position_[at]; position < first_position_[at + 1]; ++position)
    if (reader(position) == row) return true;
  return false;
}

inline PackedRows::Reader::Reader(const PackedRows& rows, std::int64_t position) : rows_(&rows) {
  // Of empty segments at the position, any will do.
  const auto& positions = rows.first_position_;
  segment_ = static_cast<std::size_t>(std::ranges::upper_bound(positions, position) - positions.begin()) - 1;
  segment_ = std::min(segment_, positions.size() - 2);
  next_ = rows.gaps_at(segment_);
  row_ = rows.row_before(segment_);
  end_ = positions[segment_];
}

inline void PackedRows::Reader::read_more() {
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
