#pragma once

#include <pybind11/pybind11.h>

#include <utility>

namespace l2m::bindings {

/// What Python code raised that is no error, such as KeyboardInterrupt: the core passes it on and never acts on it.
struct Interrupt {
  pybind11::error_already_set raised;
};

/// Calls Python code from inside the core.
template <class F>
auto interruptible(F&& f) {
  try {
    return f();
  } catch (pybind11::error_already_set& error) {
    if (error.matches(PyExc_StopIteration)) {  // which would pass for the end of the epoch
      pybind11::raise_from(error, PyExc_RuntimeError, "a policy, all_reduce or another callback raised StopIteration");
      throw pybind11::error_already_set();
    }
    if (error.matches(PyExc_Exception)) throw;
    throw Interrupt{std::move(error)};
  }
}

/// Raises interrupts in Python.
void register_interrupt();

}  // namespace l2m::bindings
