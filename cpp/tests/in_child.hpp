#pragma once

#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <cstdlib>
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

/// Run `body` in a forked child, where all checks must hold. Does nothing under ThreadSanitizer.
template <class Body>
void in_child(Body&& body) {
  if (!kCanFork) return;
  std::this_thread::sleep_for(kRest);
  const pid_t child = fork();
  CHECK(child >= 0);
  if (child == 0) {
    body();
    std::_Exit(EXIT_SUCCESS);
  }
  int status = -1;
  CHECK(waitpid(child, &status, 0) == child);
  CHECK(WIFEXITED(status) && WEXITSTATUS(status) == EXIT_SUCCESS);
}

}  // namespace l2m::test
