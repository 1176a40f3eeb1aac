#pragma once

#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <exception>
#include <functional>
#include <memory>
#include <mutex>
#include <stdexcept>

namespace l2m {

using Task = std::function<void()>;

/// A queue wants threads and the system grants none.
class NoThread : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

/// A bounded queue of tasks that the process-wide thread pool works off for one owner.
///
/// The pool is made on first use, grows to the largest `max_threads` any queue asked for and lives as long as the
/// process; at most `max_threads` of its threads work on one queue at a time. max_threads = 0 runs every task in
/// the caller. A forked child finds queues made before the fork without threads, and with locks that threads may hold that
/// do not exist there: it may only forget them, neither use nor destroy them. See forks().
class TaskQueue {
 public:
  /// @param capacity  tasks that may wait; a push to a full queue runs the task in the caller instead.
  /// @throws NoThread
  explicit TaskQueue(int max_threads, std::size_t capacity = 1024);
  /// Cancels.
  ~TaskQueue();
  TaskQueue(const TaskQueue&) = delete;
  TaskQueue& operator=(const TaskQueue&) = delete;

  /// Runs `task` soon on some thread. Thread-safe. Ignored after cancel().
  void push(Task task);

  /// Drops the tasks that wait and returns when those that run have ended. Idempotent; the queue stays empty.
  void cancel();

  /// The first exception that a task threw, or null.
  [[nodiscard]] std::exception_ptr first_error() const;

  [[nodiscard]] int max_threads() const { return max_threads_; }

 private:
  friend class ThreadPool;
  void run(const Task& task);

  const int max_threads_;
  const std::size_t capacity_;
  class ThreadPool* const pool_;

  // Below: guarded by the pool's mutex.
  std::deque<Task> tasks_;
  int running_ = 0;
  bool cancelled_ = false;
  std::exception_ptr first_error_;
  std::condition_variable idle_;
};

/// Calls body(i) for every i in [0, count), on the caller and up to num_threads - 1 threads of the pool, as far as threads
/// can be started.
///
/// Which thread gets which i is not determined: bodies write to places of their own. Returns when all are done; the
/// first exception is kept, stops the rest and is thrown.
void parallel_for(int num_threads, std::int64_t count, const std::function<void(std::int64_t)>& body);

/// Forks between the process that loaded the library and this one: a change means that queues were left behind.
int forks();

/// Threads the pool of this process has now.
int pool_threads();

}  // namespace l2m
