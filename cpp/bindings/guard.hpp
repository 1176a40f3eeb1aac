#pragma once

#include <pybind11/pybind11.h>

#include <atomic>
#include <functional>
#include <thread>

namespace l2m::bindings {

/// Lock that allows one call at a time on a loader. A second call is refused, whether it comes from another thread or
/// from within the first: from a callback, a signal handler or garbage collection.
class Guard {
 public:
  /// @throws std::runtime_error  a call is in progress.
  void enter();
  void exit();

  [[nodiscard]] bool is_inside() const;

  /// Call `function` when the current call ends, on its thread. Return false if there is no such call.
  bool defer(std::function<void()> function);

 private:
  std::atomic<bool> busy_{false};
  int forks_ = 0;
  std::thread::id thread_;
  std::function<void()> deferred_;
};

/// Scope of one call.
class Guarded {
 public:
  explicit Guarded(Guard& guard) : guard_(guard) { guard_.enter(); }
  ~Guarded() { guard_.exit(); }
  Guarded(const Guarded&) = delete;
  Guarded& operator=(const Guarded&) = delete;

 private:
  Guard& guard_;
};

}  // namespace l2m::bindings
