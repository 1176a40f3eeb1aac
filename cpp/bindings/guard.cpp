#include "guard.hpp"

#include <stdexcept>
#include <utility>

namespace l2m::bindings {

namespace py = pybind11;

py::handle InPlaceOfGil::object() {
  if (forks_ != forks()) {
    (void)object_.release();  // never freed: a call of this thread may be in its section, and leaves it later
    *this = InPlaceOfGil();
  }
  return object_;
}

/// Return whether a call is in progress. In a forked child, those of the parent do not count.
bool Guard::is_inside() const { return busy_ && forks_ == forks(); }

void Guard::enter() {
  if (is_inside())
    throw std::runtime_error(
        thread_ == std::this_thread::get_id()
            ? "the loader is in use: this call comes from inside another one: from a callback, a signal handler or garbage "
              "collection"
            : "a loader has one consumer at a time: another thread is using it");
  forks_ = forks();
  thread_ = std::this_thread::get_id();
  busy_ = true;
}

void Guard::exit() {
  busy_ = false;
  if (!deferred_) return;
  const py::error_scope error;  // keeps the exception of the call that ends
  try {
    std::exchange(deferred_, {})();
  } catch (py::error_already_set& failed) {
    failed.discard_as_unraisable("a deferred call");
  }
}

bool Guard::defer(std::function<void()> function) {
  if (!is_inside()) return false;
  deferred_ = std::move(function);
  return true;
}

}  // namespace l2m::bindings
