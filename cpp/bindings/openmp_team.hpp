#pragma once

#include "l2m/run/team.hpp"

namespace l2m::bindings {

/// Return the OpenMP team of torch, or null if torch is not loaded or does not use OpenMP.
const Team* openmp_team();

}  // namespace l2m::bindings
