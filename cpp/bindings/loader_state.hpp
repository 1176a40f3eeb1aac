#pragma once

#include <pybind11/pybind11.h>

#include <vector>

#include "l2m/loader_state.hpp"

namespace l2m::bindings {

/// Convert a state to a dict of dicts, lists, ints, floats, strings, bools and None.
pybind11::dict to_dict(const LoaderState& state);

/// Convert a dict to a state. Checks version, keys, types and ranges; the core checks all else.
LoaderState to_state(const pybind11::handle& object);
/// Convert a dict, or a list of dicts, to states.
std::vector<LoaderState> to_states(const pybind11::handle& object);

}  // namespace l2m::bindings
