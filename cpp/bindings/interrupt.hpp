#pragma once

#include <pybind11/pybind11.h>

#include <utility>

namespace l2m::bindings {

/// Python exception that is not an Exception, such as KeyboardInterrupt. The core passes it on without handling it.
struct Interrupt {
  pybind11::error_already_set raised;
};

/// Call Python code from within the core.
template <class F>
auto interruptible(F&& f) {
  try {
    return f();
  } catch (pybind11::error_already_set& error) {
    if (error.matches(PyExc_StopIteration)) {  // would be mistaken for the end of the epoch
      pybind11::raise_from(error, PyExc_RuntimeError, "a policy, all_reduce or another callback raised StopIteration");
      throw pybind11::error_already_set();
    }
    if (error.matches(PyExc_Exception)) throw;
    throw Interrupt{std::move(error)};
  }
}

/// Register the translator that raises interrupts in Python.
void register_interrupt();

}  // namespace l2m::bindings
