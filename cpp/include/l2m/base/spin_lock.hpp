#pragma once

#include <chrono>
#include <mutex>
#include <thread>

namespace l2m {

/// How long a thread looks out for work before it sleeps: about what a sleep and a wake-up would take.
constexpr std::chrono::microseconds kPatience{20};

/// Locks a mutex that is only ever held for a fraction of a microsecond: tries for a while before it sleeps, which
/// would take longer than the wait.
inline void lock_soon(std::unique_lock<std::mutex>& lock) {
  for (int i = 0; i < 100; ++i) {
    if (lock.try_lock()) return;
    if (i % 10 == 9) std::this_thread::yield();
  }
  lock.lock();
}

inline std::unique_lock<std::mutex> locked_soon(std::mutex& mutex) {
  std::unique_lock lock(mutex, std::defer_lock);
  lock_soon(lock);
  return lock;
}

}  // namespace l2m
