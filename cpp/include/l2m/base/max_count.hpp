#pragma once

#include <cstdint>

namespace l2m {

/// Largest count in a saved state. Integers up to it are exact as doubles, as which some JSON readers parse them.
inline constexpr std::int64_t kMaxCount = std::int64_t{1} << 53;

/// Largest epoch that can be requested, which leaves room to count the epochs and passes that follow.
inline constexpr std::uint64_t kMaxEpoch = std::uint64_t{1} << 52;

}  // namespace l2m
