#pragma once

#include <pybind11/pybind11.h>

namespace l2m::bindings {

/// Scope that releases the GIL.
///
/// Python terminates a thread that reacquires the GIL of a finalized interpreter, in the middle of C++ code, which C++
/// does not survive. The interpreter's exit therefore waits for threads in this scope; afterwards, the GIL is not
/// released.
class ReleasedGil {
 public:
  ReleasedGil();
  ~ReleasedGil();
  ReleasedGil(const ReleasedGil&) = delete;
  ReleasedGil& operator=(const ReleasedGil&) = delete;

 private:
  PyThreadState* const state_;
};

/// Make the interpreter's exit wait for threads that have released the GIL.
void wait_for_threads_at_exit();

}  // namespace l2m::bindings
