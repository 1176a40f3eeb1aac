#pragma once

#include <cstdint>

namespace l2m {

/// The largest count in a saved state: every integer up to it is exact as a double, as which some readers of JSON take it.
inline constexpr std::int64_t kMaxCount = std::int64_t{1} << 53;

/// The largest epoch that may be asked for: far enough below for all epochs and passes that may follow.
inline constexpr std::uint64_t kMaxEpoch = std::uint64_t{1} << 52;

}  // namespace l2m
