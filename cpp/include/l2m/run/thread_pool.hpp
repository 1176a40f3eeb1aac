#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <exception>
#include <functional>
#include <memory>
#include <stdexcept>

#include "l2m/base/platform.hpp"
#include "l2m/base/threads.hpp"

namespace l2m {

using Task = std::function<void()>;

/// Error raised if a queue needs threads and the system cannot start any.
class NoThread : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

/// Bounded queue of tasks that one owner submits to the process-wide thread pool.
///
/// The pool is created on first use, grows to the largest `max_threads` of any queue, and lives as long as the process.
/// At most `max_threads` of its threads work on one queue at a time; with max_threads = 0 every task runs in the
/// caller. In a forked child, queues created before the fork have no threads, and their locks may be held by threads
/// that do not exist. The child must neither use nor destroy them, only leak them. See forks().
class TaskQueue {
 public:
  /// @param capacity  maximum number of waiting tasks; beyond it, push() runs the task in the caller.
  /// @throws NoThread
  explicit TaskQueue(int max_threads, std::size_t capacity = 1024);
  /// Cancel the queue.
  ~TaskQueue();
  TaskQueue(const TaskQueue&) = delete;
  TaskQueue& operator=(const TaskQueue&) = delete;

  /// Run `task` soon on some thread. Thread-safe. Ignored after cancel().
  void push(Task task);

  /// Drop the waiting tasks and return when the running ones have ended. Idempotent; the queue stays empty.
  void cancel();

  /// Return the first exception that a task threw, or null.
  [[nodiscard]] std::exception_ptr first_error() const;

  [[nodiscard]] int max_threads() const { return usable_threads(max_threads_); }

 private:
  friend class ThreadPool;
  void run(const Task& task);

  const int max_threads_;
  const std::size_t capacity_;
  class ThreadPool* const pool_;

  // Guarded by the mutex of the pool:
  std::deque<Task> tasks_;
  int running_ = 0;
  bool canceled_ = false;
  std::exception_ptr first_error_;
  Condition idle_;
};

/// parallel_for() with at least 2 threads and calls.
void call_on_threads(int num_threads, std::int64_t count, const std::function<void(std::int64_t)>& body);

/// Number of threads that stands for usable_cpus(), which is called only if there is work for more than one thread.
constexpr int kUsableCpus = -1;

/// Call body(i) for every i in [0, count), on the caller and up to num_threads - 1 pool threads, as far as available.
///
/// The assignment of indices to threads is unspecified. Returns when all calls are done. The first exception stops the
/// remaining calls and is rethrown.
template <class Body>
void parallel_for(int num_threads, std::int64_t count, const Body& body) {
  if (kHasThreads && num_threads == kUsableCpus && count > 1) num_threads = usable_cpus();
  if (usable_threads(num_threads) > 1 && count > 1)
    call_on_threads(num_threads, count, std::cref(body));
  else
    for (std::int64_t i = 0; i < count; ++i) body(i);
}

/// Return the number of forks between the process that loaded the library and this one. A change means that this is a
/// forked child, which must abandon existing queues.
int forks();

/// Return the number of threads that the pool of this process has now.
int pool_threads();

}  // namespace l2m
