#pragma once

#include <cstdint>
#include <memory>
#include <numeric>
#include <span>
#include <vector>

#include "l2m/plan/class_index.hpp"
#include "reference.hpp"

namespace l2m::test {

/// Index of classes of the given sizes, with randomly interleaved rows.
struct Classes {
  explicit Classes(const std::vector<std::int64_t>& sizes) {
    for (std::size_t k = 0; k < sizes.size(); ++k)
      class_of_row.insert(class_of_row.end(), static_cast<std::size_t>(sizes[k]), static_cast<std::int32_t>(k));
    reference_fisher_yates(std::span(class_of_row), some_randomness(99));
    rows = rows_of_classes(class_of_row, std::ssize(sizes));
  }

  [[nodiscard]] std::shared_ptr<const ClassIndex> index(int min_id_bytes = 2, bool shuffle = true) const {
    return index_of(class_of_row, std::ssize(rows), shuffle, min_id_bytes);
  }
  [[nodiscard]] std::shared_ptr<const ClassIndex> packed_index() const {
    return packed_index_of(class_of_row, std::ssize(rows));
  }

  std::vector<std::int32_t> class_of_row;
  ClassRows rows;
};

inline std::vector<std::int64_t> iota(std::int64_t size) {
  std::vector<std::int64_t> rows(static_cast<std::size_t>(size));
  std::iota(rows.begin(), rows.end(), 0);
  return rows;
}

}  // namespace l2m::test
