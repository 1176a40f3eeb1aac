#pragma once

#include <algorithm>
#include <cstdint>
#include <span>
#include <string>

#include "convert.hpp"
#include "l2m/loss/window.hpp"

namespace l2m::bindings {

static_assert(sizeof(ExactSum) == kSumDigits * sizeof(std::int64_t));

/// Return the number of classes of an array [K * (kSumDigits + 1)]: the digits of each sum, then the counts.
inline std::size_t num_classes_of(std::size_t num_words) {
  if (num_words % (kSumDigits + 1) != 0)
    throw py::value_error("words must be " + std::to_string(kSumDigits + 1) + " for each class (got " +
                          std::to_string(num_words) + ")");
  return num_words / (kSumDigits + 1);
}

/// Class sums in the memory of such an array.
struct ClassWords {
  explicit ClassWords(std::span<std::int64_t> words)
      : sum(reinterpret_cast<ExactSum*>(words.data()), num_classes_of(words.size())),
        count(words.subspan(kSumDigits * sum.size())) {}

  std::span<ExactSum> sum;        ///< [K]
  std::span<std::int64_t> count;  ///< [K]
};

/// Return a copy of such an array.
inline LossSums to_sums(const Array<std::int64_t>& words) {
  const std::span<const std::int64_t> all = view<std::int64_t>(words);
  LossSums sums(num_classes_of(all.size()));
  const auto digits = all.first(kSumDigits * sums.sum.size());
  std::copy(digits.begin(), digits.end(), reinterpret_cast<std::int64_t*>(sums.sum.data()));
  std::copy(all.begin() + std::ssize(digits), all.end(), sums.count.begin());
  return sums;
}

}  // namespace l2m::bindings
