#include "guard.hpp"

#include <stdexcept>
#include <utility>

#include "l2m/run/thread_pool.hpp"
#include "register.hpp"

namespace l2m::bindings {

namespace py = pybind11;

/// A forked child has none of the threads that were inside.
bool Guard::is_inside() const { return busy_ && forks_ == forks(); }

void Guard::enter() {
  if (is_inside())
    throw std::runtime_error(
        thread_ == std::this_thread::get_id()
            ? "the loader is in use: this call comes from inside another one, from a callback, a signal handler or garbage "
              "collection"
            : "a loader has one consumer at a time: another thread is using it");
  forks_ = forks();
  thread_ = std::this_thread::get_id();
  busy_ = true;
}

void Guard::exit() {
  busy_ = false;
  if (!deferred_) return;
  const py::error_scope error;  // of the call that ends
  try {
    std::exchange(deferred_, {})();
  } catch (py::error_already_set& failed) {
    failed.discard_as_unraisable("a deferred call");
  }
}

bool Guard::defer(py::object function) {
  if (!is_inside() || thread_ != std::this_thread::get_id()) return false;
  deferred_ = std::move(function);
  return true;
}

void register_guard(py::module_& m) {
  py::classh<Guard>(m, "Guard",
                    "Lets one call at a time use a loader, as a context manager; a second one is a RuntimeError.")
      .def(py::init<>())
      .def("__enter__", &Guard::enter)
      .def("__exit__", [](Guard& self, const py::args&) { self.exit(); })
      .def("defer", &Guard::defer, py::arg("function"),
           "Call `function` when the call of this thread that is inside has ended; False where there is none.");
}

}  // namespace l2m::bindings
