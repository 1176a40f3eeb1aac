#pragma once

#include <pybind11/pybind11.h>

#include "l2m/loader_state.hpp"

namespace l2m::bindings {

/// Convert a state to a dict of ints, floats, bools, None and lists, without the fingerprint.
pybind11::dict to_dict(const LoaderState& state);

/// Convert a dict to a state. Checks the types of entries and the ranges of the core's types.
LoaderState to_state(const pybind11::dict& dict);

}  // namespace l2m::bindings
