#include "l2m/run/thread_pool.hpp"

#include <algorithm>
#include <optional>
#include <stdexcept>
#include <system_error>
#include <utility>
#include <vector>

#include "l2m/base/errors.hpp"
#include "l2m/base/platform.hpp"

namespace l2m {

class ThreadPool {
 public:
  /// Return the pool of this process. It is never destroyed, so that no destructor has to join threads at exit.
  static ThreadPool& instance() {
    ThreadPool* pool = current_.load();
    while (pool == nullptr) {
      auto fresh = std::make_unique<ThreadPool>();
      if (current_.compare_exchange_strong(pool, fresh.get())) pool = fresh.release();
    }
    return *pool;
  }

  /// Abandon the pool of the parent in a forked child, which creates its own on first use.
  static void forget() { current_.store(nullptr); }

  void add(TaskQueue* queue) {
    const Lock lock(mutex_);
    start_threads(queue->max_threads());
    queues_.push_back(queue);  // last, because starting threads may throw
  }

  void remove(TaskQueue* queue) {
    const Lock lock(mutex_);
    std::erase(queues_, queue);
  }

  int threads() {
    const Lock lock(mutex_);
    return threads_;
  }

  Mutex& mutex() { return mutex_; }

  /// Return whether to wake a thread for the queue: it has work, and a thread sleeps. Requires the mutex.
  [[nodiscard]] bool should_wake(const TaskQueue& queue) const { return asleep_ > 0 && may_run(queue); }
  /// Wake one thread. Call without the mutex, which the thread locks first.
  void wake_one() { work_arrived_.notify_one(); }

 private:
  /// Start threads until there are `wanted`, or until the system refuses. Requires the mutex.
  void start_threads(int wanted) {
    try {
      for (; threads_ < wanted; ++threads_) start_thread([this] { work(); });
    } catch (const std::system_error& error) {
      if (threads_ == 0)
        throw NoThread(message("cannot start a thread (wanted ", wanted, ": ", error.what(),
                               "); num_threads=0 works without threads"));
    }
  }

  /// Return whether a task of the queue may run now. Tasks of a canceled queue are never started.
  static bool may_run(const TaskQueue& queue) {
    return !queue.tasks_.empty() && !queue.canceled_ && queue.running_ < queue.max_threads();
  }

  void work() {
    Lock lock(mutex_);
    Clock::time_point spin_until{};
    for (;;) {
      TaskQueue* queue = next_queue();
      if (queue == nullptr && Clock::now() < spin_until) {
        lock.unlock();
        yield();
        spin_then_lock(lock);
        continue;
      }
      if (queue == nullptr) {
        ++asleep_;
        work_arrived_.wait(lock);
        --asleep_;
        continue;
      }
      {
        const Task task = std::move(queue->tasks_.front());
        queue->tasks_.pop_front();
        ++queue->running_;
        const bool wake = should_wake(*queue);  // each thread wakes the next, so that a push wakes only one
        lock.unlock();
        if (wake) wake_one();
        queue->run(task);
      }  // destroys the task outside the lock
      spin_until = Clock::now() + kSpinTime;
      spin_then_lock(lock);
      if (--queue->running_ == 0) queue->idle_.notify_all();
    }
  }

  /// Return a queue with a task that may run now, round-robin; null if there is none.
  TaskQueue* next_queue() {
    for (std::size_t i = 0; i < queues_.size(); ++i) {
      TaskQueue* queue = queues_[++turn_ % queues_.size()];
      if (may_run(*queue)) return queue;
    }
    return nullptr;
  }

  static inline Atomic<ThreadPool*> current_{nullptr};

  Mutex mutex_;
  Condition work_arrived_;
  std::vector<TaskQueue*> queues_;
  std::size_t turn_ = 0;
  int threads_ = 0;
  int asleep_ = 0;
};

TaskQueue::TaskQueue(int max_threads, std::size_t capacity)
    : max_threads_(max_threads), capacity_(capacity), pool_(&ThreadPool::instance()) {
  if (this->max_threads() > 0) pool_->add(this);
}

TaskQueue::~TaskQueue() {
  if (max_threads() == 0) return;
  cancel();
  pool_->remove(this);
}

void TaskQueue::push(Task task) {
  Lock lock = spin_locked(pool_->mutex());
  if (canceled_) return;
  if (max_threads() == 0 || tasks_.size() >= capacity_) {
    lock.unlock();
    run(task);
    return;
  }
  tasks_.push_back(std::move(task));
  const bool wake = pool_->should_wake(*this);
  lock.unlock();
  if (wake) pool_->wake_one();
}

void TaskQueue::run(const Task& task) {
  try {
    task();
  } catch (...) {
    const Lock lock(pool_->mutex());
    if (!first_error_) first_error_ = std::current_exception();
  }
}

void TaskQueue::cancel() {
  Lock lock(pool_->mutex());
  canceled_ = true;
  while (!tasks_.empty()) {
    {
      const Task dropped = std::move(tasks_.front());
      tasks_.pop_front();
      lock.unlock();
    }  // destroys the task outside the lock
    lock.lock();
  }
  while (running_ != 0) idle_.wait(lock);
}

std::exception_ptr TaskQueue::first_error() const {
  const Lock lock(pool_->mutex());
  return first_error_;
}

void call_on_threads(int num_threads, std::int64_t count, const std::function<void(std::int64_t)>& body) {
  const auto helpers = static_cast<int>(std::min<std::int64_t>(num_threads, count) - 1);
  Atomic<std::int64_t> next{0};
  const Task share = [&] {
    try {
      for (std::int64_t i = next++; i < count; i = next++) body(i);
    } catch (...) {
      next = count;
      throw;
    }
  };
  std::optional<TaskQueue> queue;
  try {
    queue.emplace(helpers);
  } catch (const NoThread&) {  // the caller does all the work
    return parallel_for(1, count, body);
  }
  for (int i = 0; i < helpers; ++i) queue->push(share);
  std::exception_ptr error;
  try {
    share();
  } catch (...) {
    error = std::current_exception();
  }
  queue->cancel();  // helpers without a thread are no longer needed
  if (!error) error = queue->first_error();
  if (error) std::rethrow_exception(error);
}

namespace {

Atomic<int> fork_count{0};

[[maybe_unused]] const bool registered = [] {
  if (kHasThreads)
    at_fork_in_child([] {
      ++fork_count;
      ThreadPool::forget();
    });
  return true;
}();

}  // namespace

int forks() { return fork_count; }

int pool_threads() { return kHasThreads ? ThreadPool::instance().threads() : 0; }

}  // namespace l2m
