#pragma once

#include <pybind11/critical_section.h>
#include <pybind11/pybind11.h>

#include <functional>
#include <thread>

#include "l2m/run/thread_pool.hpp"

namespace l2m::bindings {

/// Object whose critical section takes the place of the GIL where Python has none: a thread in it leaves it where it would
/// release the GIL.
class InPlaceOfGil {
 public:
  /// Return the object. A forked child gets another one, because a thread that the child lacks may be in the section.
  pybind11::handle object();

 private:
  pybind11::object object_ = pybind11::module_::import("builtins").attr("object")();
  int forks_ = forks();
};

/// Lock that allows one call at a time on a loader. A second call is refused, whether it comes from another thread or
/// from within the first: from a callback, a signal handler or garbage collection.
/// Its calls need the critical section of `object()`, and so does all else that belongs to the loader.
class Guard {
 public:
  [[nodiscard]] pybind11::handle object() { return in_place_of_gil_.object(); }

  /// @throws std::runtime_error  a call is in progress.
  void enter();
  void exit();

  [[nodiscard]] bool is_inside() const;

  /// Call `function` when the current call ends, on its thread. Return false if there is no such call.
  bool defer(std::function<void()> function);

 private:
  InPlaceOfGil in_place_of_gil_;
  bool busy_ = false;
  int forks_ = 0;
  std::thread::id thread_;
  std::function<void()> deferred_;
};

/// Scope of one call, in a critical section of the guard's object.
class Entered {
 public:
  explicit Entered(Guard& guard) : guard_(guard) { guard_.enter(); }
  ~Entered() { guard_.exit(); }
  Entered(const Entered&) = delete;
  Entered& operator=(const Entered&) = delete;

 private:
  Guard& guard_;
};

/// Scope of one call.
class Guarded {
 public:
  explicit Guarded(Guard& guard) : critical_section_(guard.object()), entered_(guard) {}

 private:
  const pybind11::scoped_critical_section critical_section_;
  const Entered entered_;
};

}  // namespace l2m::bindings
