#pragma once

namespace l2m {

/// Threads that the consumer uses for its own work, such as the OpenMP team that computes its model.
///
/// Such threads wait for work by spinning, so that other threads get little time of their CPUs. What they copy is
/// in their caches when they compute on it.
struct Team {
  using Task = void (*)(const void* context, int index);

  /// Return the number of threads that run() uses if this thread calls it.
  int (*size)();
  /// Call task(context, i) for all i in [0, count), and return when all calls have returned. Tasks do not throw.
  void (*run)(int count, Task task, const void* context);
};

}  // namespace l2m
