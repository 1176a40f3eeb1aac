#pragma once

#include "l2m/base/float_types.hpp"
#include "l2m/data/dense.hpp"

namespace l2m {

/// Rows of bytes converted to floats: (x - mean) / std of their channel, computed in float and rounded once to Float.
///
/// A row is [outer, channels, inner] bytes. Each value comes from a lookup table.
template <class Float>
class Normalize final : public Field {
 public:
  /// @param bytes  source rows; their size must be a multiple of channels * inner.
  /// @param mean   [channels] finite.
  /// @param std    [channels] > 0.
  /// @param inner  consecutive bytes of one channel.
  /// @throws std::invalid_argument  sizes do not match.
  Normalize(Dense bytes, std::span<const float> mean, std::span<const float> std, std::int64_t inner);

  [[nodiscard]] std::int64_t row_size() const override {
    return bytes_.row_size() * static_cast<std::int64_t>(sizeof(Float));
  }
  [[nodiscard]] std::int64_t row_cost() const override { return 4 * bytes_.row_size(); }
  [[nodiscard]] std::string describe() const override;
  void copy(BatchPlan plan, std::byte* out, Writes writes, const Field* next) const override;
  void request(BatchPlan plan) const override { bytes_.request(plan); }

 private:
  const Dense bytes_;
  const std::int64_t channels_, inner_;
  std::vector<Float> table_;  // [channels, 256]
};

}  // namespace l2m
