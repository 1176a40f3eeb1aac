#pragma once

/// Threads, locks and atomics, or what takes their place in a build without threads: L2M_THREADS is 1 or 0. No other
/// file depends on it.

#include <atomic>
#include <chrono>
#include <utility>

#ifndef L2M_THREADS
#define L2M_THREADS 1
#endif

#if L2M_THREADS
#include <condition_variable>
#include <mutex>
#include <thread>
#endif

namespace l2m {

#if L2M_THREADS

inline constexpr bool kHasThreads = true;

/// Time that a thread spins for work before it sleeps: about the cost of a sleep and a wake-up.
inline constexpr std::chrono::microseconds kSpinTime{20};

using Clock = std::chrono::steady_clock;
using Mutex = std::mutex;
using Lock = std::unique_lock<Mutex>;
template <class T>
using Atomic = std::atomic<T>;

class Condition {
 public:
  void notify_one() { condition_.notify_one(); }
  void notify_all() { condition_.notify_all(); }
  void wait(Lock& lock) { condition_.wait(lock); }
  /// Return whether the condition was notified before the deadline.
  bool wait_until(Lock& lock, Clock::time_point deadline) {
    return condition_.wait_until(lock, deadline) == std::cv_status::no_timeout;
  }

 private:
  std::condition_variable condition_;
};

template <class Body>
void start_thread(Body body) {
  std::thread(std::move(body)).detach();
}
inline void yield() { std::this_thread::yield(); }
inline void sleep_for(std::chrono::milliseconds time) { std::this_thread::sleep_for(time); }
inline int hardware_threads() { return static_cast<int>(std::thread::hardware_concurrency()); }

/// Lock a mutex that is only ever held for a fraction of a microsecond. Spins first, because sleeping takes longer than
/// the wait.
inline void spin_then_lock(Lock& lock) {
  for (int i = 0; i < 100; ++i) {
    if (lock.try_lock()) return;
    if (i % 10 == 9) yield();
  }
  lock.lock();
}
inline Lock spin_locked(Mutex& mutex) {
  Lock lock(mutex, std::defer_lock);
  spin_then_lock(lock);
  return lock;
}

#else

inline constexpr bool kHasThreads = false;

inline constexpr std::chrono::microseconds kSpinTime{0};

/// Clock that stands still, because nobody waits.
struct Clock {
  using duration = std::chrono::nanoseconds;
  using rep = duration::rep;
  using period = duration::period;
  using time_point = std::chrono::time_point<Clock>;
  static time_point now() { return {}; }
};

struct Mutex {
  void lock() {}
  void unlock() {}
  bool try_lock() { return true; }
};

class [[maybe_unused]] Lock {
 public:
  explicit Lock(Mutex& /*mutex*/) {}
  void lock() { owns_lock_ = true; }
  void unlock() { owns_lock_ = false; }
  [[nodiscard]] bool owns_lock() const { return owns_lock_; }

 private:
  bool owns_lock_ = true;
};

template <class T>
class Atomic {
 public:
  Atomic(T value = {}) : value_(value) {}
  operator T() const { return value_; }
  T operator=(T value) { return value_ = value; }
  T operator++() { return ++value_; }
  T operator++(int) { return value_++; }
  T operator--() { return --value_; }
  T operator+=(T value) { return value_ += value; }
  [[nodiscard]] T load(std::memory_order /*order*/ = {}) const { return value_; }
  void store(T value) { value_ = value; }
  T exchange(T value) { return std::exchange(value_, value); }
  bool compare_exchange_strong(T& expected, T value) {
    const bool equal = value_ == expected;
    (equal ? value_ : expected) = equal ? value : value_;
    return equal;
  }

 private:
  T value_;
};

/// Condition that holds whenever it is waited for.
struct Condition {
  void notify_one() {}
  void notify_all() {}
  void wait(Lock& /*lock*/) {}
  bool wait_until(Lock& /*lock*/, Clock::time_point /*deadline*/) { return false; }
};

template <class Body>
void start_thread(Body /*body*/) {}
inline void yield() {}
inline void sleep_for(std::chrono::milliseconds /*time*/) {}
inline int hardware_threads() { return 1; }
inline void spin_then_lock(Lock& lock) { lock.lock(); }
inline Lock spin_locked(Mutex& mutex) { return Lock(mutex); }

#endif

/// Return the number of threads to use where `wanted` are allowed: 0 without threads, so that the caller does all work.
constexpr int usable_threads(int wanted) { return kHasThreads ? wanted : 0; }

}  // namespace l2m
