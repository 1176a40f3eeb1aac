#pragma once

#include <pybind11/pybind11.h>

#include "l2m/plan/sampler.hpp"

namespace l2m::bindings {

/// The state as a dict of ints and of lists of ints and floats.
pybind11::dict state_to_dict(const SamplerState& state);

/// The inverse; what the values mean is not checked. @throws pybind11::cast_error  a value of the wrong type.
SamplerState dict_to_state(const pybind11::dict& dict);

}  // namespace l2m::bindings
