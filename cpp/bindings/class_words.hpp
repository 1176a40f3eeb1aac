#pragma once

#include <cstdint>
#include <span>
#include <string>

#include "convert.hpp"
#include "l2m/loss/window.hpp"

namespace l2m::bindings {

/// Class sums in the memory of an int64 array [K * (kSumDigits + 1)]: the digits of each sum, then the counts.
struct ClassWords {
  explicit ClassWords(std::span<std::int64_t> words) {
    static_assert(sizeof(ExactSum) == kSumDigits * sizeof(std::int64_t));
    const std::size_t num_classes = words.size() / (kSumDigits + 1);
    if (words.size() != num_classes * (kSumDigits + 1))
      throw py::value_error("words must be " + std::to_string(kSumDigits + 1) + " for each class (got " +
                            std::to_string(words.size()) + ")");
    sum = {reinterpret_cast<ExactSum*>(words.data()), num_classes};
    count = words.subspan(kSumDigits * num_classes);
  }

  std::span<ExactSum> sum;        ///< [K]
  std::span<std::int64_t> count;  ///< [K]
};

inline LossSums to_sums(const Array<std::int64_t>& words) {
  std::vector<std::int64_t> copy = to_vector(words);
  const ClassWords of_classes(copy);
  LossSums sums;
  sums.sum.assign(of_classes.sum.begin(), of_classes.sum.end());
  sums.count.assign(of_classes.count.begin(), of_classes.count.end());
  return sums;
}

}  // namespace l2m::bindings
