#pragma once

#include <chrono>
#include <mutex>
#include <thread>

namespace l2m {

/// Time that a thread spins for work before it sleeps: about the cost of a sleep and a wake-up.
constexpr std::chrono::microseconds kSpinTime{20};

/// Lock a mutex that is only ever held for a fraction of a microsecond. Spins first, because sleeping takes longer than
/// the wait.
inline void spin_then_lock(std::unique_lock<std::mutex>& lock) {
  for (int i = 0; i < 100; ++i) {
    if (lock.try_lock()) return;
    if (i % 10 == 9) std::this_thread::yield();
  }
  lock.lock();
}

inline std::unique_lock<std::mutex> spin_locked(std::mutex& mutex) {
  std::unique_lock lock(mutex, std::defer_lock);
  spin_then_lock(lock);
  return lock;
}

}  // namespace l2m
