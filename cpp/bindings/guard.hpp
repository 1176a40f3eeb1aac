#pragma once

#include <pybind11/pybind11.h>

#include <atomic>
#include <functional>
#include <thread>

namespace l2m::bindings {

/// Lets one call at a time use a loader. A second one is refused, whether it comes from another thread or from inside the
/// first: from a callback, a signal handler or garbage collection.
class Guard {
 public:
  /// @throws std::runtime_error  a call is inside.
  void enter();
  void exit();

  [[nodiscard]] bool is_inside() const;

  /// Calls `function` when the call that is inside has ended, on its thread. Returns false where there is none.
  bool defer(std::function<void()> function);

 private:
  std::atomic<bool> busy_{false};
  int forks_ = 0;
  std::thread::id thread_;
  std::function<void()> deferred_;
};

/// One call, to its end.
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
