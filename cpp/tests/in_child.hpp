#pragma once

#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <latch>
#include <thread>

#include "check.hpp"

#if defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define __SANITIZE_THREAD__ 1
#endif
#if __has_feature(address_sanitizer)
#define __SANITIZE_ADDRESS__ 1
#endif
#endif

namespace l2m::test {

// ThreadSanitizer confuses a thread of a forked child with a thread of the parent that has the same id, and aborts.
#if defined(__SANITIZE_THREAD__)
inline constexpr bool kCanFork = false;
#else
inline constexpr bool kCanFork = true;
#endif

// A forked child inherits the locks of AddressSanitizer's allocator: a lock held by another thread stays locked. So let
// the threads become idle first. Without it, as in the plain run, forks occur at any time.
#if defined(__SANITIZE_ADDRESS__)
inline constexpr std::chrono::milliseconds kRest{20};
#else
inline constexpr std::chrono::milliseconds kRest{0};
#endif

/// Run `body` in a forked child. Return whether it came to its end.
template <class Body>
bool succeeds_in_child(Body&& body) {
  std::this_thread::sleep_for(kRest);
  const pid_t child = fork();
  CHECK(child >= 0);
  if (child == 0) {
    body();
    std::_Exit(EXIT_SUCCESS);
  }
  int status = -1;
  CHECK(waitpid(child, &status, 0) == child);
  return WIFEXITED(status) && WEXITSTATUS(status) == EXIT_SUCCESS;
}

/// Return whether a forked child of a process with threads can start threads. QEMU 7.2 aborts there.
inline bool can_start_threads_in_child() {
  static const bool can = [] {
    std::latch end(1);
    std::thread running([&] { end.wait(); });
    const bool succeeds = succeeds_in_child([] {
      alarm(20);  // ends a child that hangs
      for (int i = 0; i < 3; ++i) std::thread([] {}).join();
    });
    end.count_down();
    running.join();
    if (!succeeds) std::fprintf(stderr, "skipped forked children: none can start a thread on this system\n");
    return succeeds;
  }();
  return can;
}

/// Run `body` in a forked child, where all checks must hold. Does nothing under ThreadSanitizer, and on systems where
/// no child can start a thread.
template <class Body>
void in_child(Body&& body) {
  if (kCanFork && can_start_threads_in_child()) CHECK(succeeds_in_child(body));
}

}  // namespace l2m::test
