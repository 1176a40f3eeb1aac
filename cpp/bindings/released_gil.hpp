#pragma once

#include <pybind11/pybind11.h>

namespace l2m::bindings {

/// Gives up the GIL for a scope.
///
/// A thread that comes back to an interpreter that has gone is ended by Python in the middle of the C++ that called it,
/// which C++ does not survive. So the interpreter's exit waits for those that are out, and from then on none goes out.
class ReleasedGil {
 public:
  ReleasedGil();
  ~ReleasedGil();
  ReleasedGil(const ReleasedGil&) = delete;
  ReleasedGil& operator=(const ReleasedGil&) = delete;

 private:
  PyThreadState* const state_;
};

/// Has the interpreter's exit wait for threads that gave up the GIL.
void wait_for_threads_at_exit();

}  // namespace l2m::bindings
