#pragma once

#include <pybind11/critical_section.h>
#include <pybind11/pybind11.h>

#include <functional>
#include <thread>

namespace l2m::bindings {

/// Lock that allows one call at a time on a loader. A second call is refused, whether it comes from another thread or
/// from within the first: from a callback, a signal handler or garbage collection.
///
/// Where Python has no GIL, a critical section of `object()` takes its place for all that belongs to the loader: the
/// thread in it leaves it where it would release the GIL.
class Guard {
 public:
  [[nodiscard]] pybind11::handle object() const { return object_; }

  /// @throws std::runtime_error  a call is in progress.
  void enter();
  void exit();

  [[nodiscard]] bool is_inside() const;

  /// Call `function` when the current call ends, on its thread. Return false if there is no such call.
  bool defer(std::function<void()> function);

 private:
  const pybind11::object object_ = pybind11::module_::import("builtins").attr("object")();
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
