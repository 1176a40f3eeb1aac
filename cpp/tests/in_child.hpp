#pragma once

#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>

#include "check.hpp"

namespace l2m::test {

// ThreadSanitizer takes a thread of a forked child for one of the parent's with the same id, and gives up.
#if defined(__SANITIZE_THREAD__)
inline constexpr bool kCanFork = false;
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
inline constexpr bool kCanFork = false;
#else
inline constexpr bool kCanFork = true;
#endif
#else
inline constexpr bool kCanFork = true;
#endif

/// Runs `body` in a forked child, all of whose checks must hold; under ThreadSanitizer not at all.
template <class Body>
void in_child(Body&& body) {
  if (!kCanFork) return;
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
