#include "released_gil.hpp"

#include <chrono>
#include <thread>
#include <utility>

#include "l2m/run/thread_pool.hpp"

namespace l2m::bindings {
namespace {

namespace py = pybind11;

// Both are accessed with the GIL held.
bool exiting = false;
int threads_without_gil = 0;

/// Reset the count of threads in a forked child, which has none of those of the parent.
void reset_in_forked_child() {
  static int last_forks = 0;
  if (std::exchange(last_forks, forks()) != forks()) threads_without_gil = 0;
}

PyThreadState* release_gil() {
  if (exiting) return nullptr;
  reset_in_forked_child();
  ++threads_without_gil;
  return PyEval_SaveThread();
}

void wait_for_threads() {
  exiting = true;
  reset_in_forked_child();
  while (threads_without_gil > 0) {
    {
      const py::gil_scoped_release release;
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    if (PyErr_CheckSignals() != 0) throw py::error_already_set();
  }
}

}  // namespace

ReleasedGil::ReleasedGil() : state_(release_gil()) {}

ReleasedGil::~ReleasedGil() {
  if (state_ == nullptr) return;
  PyEval_RestoreThread(state_);
  --threads_without_gil;
}

void wait_for_threads_at_exit() { py::module_::import("atexit").attr("register")(py::cpp_function(&wait_for_threads)); }

}  // namespace l2m::bindings
