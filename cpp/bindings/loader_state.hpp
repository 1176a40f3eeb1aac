#pragma once

#include <pybind11/pybind11.h>

#include "l2m/loader_state.hpp"

namespace l2m::bindings {

/// A state as a dict of ints, floats, bools, None and lists: all of it but the fingerprint.
pybind11::dict to_dict(const LoaderState& state);

/// A state from a dict, whose entries are checked for their types and for what the core's types can hold.
LoaderState to_state(const pybind11::dict& dict);

}  // namespace l2m::bindings
