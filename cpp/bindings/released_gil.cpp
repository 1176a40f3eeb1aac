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
int threads_out = 0;

/// Reset the count of threads in a forked child, which has none of those of the parent.
void forget_threads_of_parent() {
  static int last_forks = 0;
  if (std::exchange(last_forks, forks()) != forks()) threads_out = 0;
}

PyThreadState* go_out() {
  if (exiting) return nullptr;
  forget_threads_of_parent();
  ++threads_out;
  return PyEval_SaveThread();
}

void wait_for_threads() {
  exiting = true;
  forget_threads_of_parent();
  while (threads_out > 0) {
    {
      const py::gil_scoped_release release;
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    if (PyErr_CheckSignals() != 0) throw py::error_already_set();
  }
}

}  // namespace

ReleasedGil::ReleasedGil() : state_(go_out()) {}

ReleasedGil::~ReleasedGil() {
  if (state_ == nullptr) return;
  PyEval_RestoreThread(state_);
  --threads_out;
}

void wait_for_threads_at_exit() { py::module_::import("atexit").attr("register")(py::cpp_function(&wait_for_threads)); }

}  // namespace l2m::bindings
