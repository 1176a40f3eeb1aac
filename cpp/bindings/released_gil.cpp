#include "released_gil.hpp"

#include <atomic>
#include <chrono>
#include <thread>

#include "l2m/run/thread_pool.hpp"

namespace l2m::bindings {
namespace {

namespace py = pybind11;

std::atomic<bool> exiting = false;
std::atomic<int> threads_without_gil = 0;

/// Reset the count of threads in a forked child, which has none of those of the parent.
void reset_in_forked_child() {
  static std::atomic<int> last_forks = 0;
  if (last_forks.exchange(forks()) != forks()) threads_without_gil = 0;
}

PyThreadState* release_gil() {
  reset_in_forked_child();
  ++threads_without_gil;  // before looking, so that the exit sees this thread or this thread the exit
  if (!exiting) return PyEval_SaveThread();
  --threads_without_gil;
  return nullptr;
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
