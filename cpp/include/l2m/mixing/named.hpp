#pragma once

#include <memory>
#include <span>
#include <string_view>
#include <vector>

#include "l2m/mixing/policy.hpp"

namespace l2m {

struct PolicyParameter {
  std::string_view name;
  double value;
};

/// Return a built-in policy.
///
/// @param parameters   those that are missing have their defaults, if they have any.
/// @param proportions  proportions of Static; empty for other policies.
/// @throws std::invalid_argument  the name or a parameter is unknown, missing or out of range.
std::shared_ptr<const Policy> named_policy(std::string_view name, std::span<const PolicyParameter> parameters,
                                           std::vector<double> proportions);

}  // namespace l2m
