#pragma once

#include <cstdio>
#include <cstdlib>

/// Checks for test programs. The first one that fails prints its place and expression and exits with status 1.
///
/// Any thread or forked child may check. The process exits at once, without destructors that could block.
#define CHECK(...) ((__VA_ARGS__) ? void() : l2m::test::fail(__FILE__, __LINE__, "CHECK(" #__VA_ARGS__ ")"))

/// Check that an expression throws the given type or a type derived from it.
#define CHECK_THROWS(Type, ...)                                                                        \
  do {                                                                                                 \
    bool l2m_thrown = false;                                                                           \
    try {                                                                                              \
      static_cast<void>(__VA_ARGS__);                                                                  \
    } catch (const Type&) {                                                                            \
      l2m_thrown = true;                                                                               \
    }                                                                                                  \
    if (!l2m_thrown) l2m::test::fail(__FILE__, __LINE__, "CHECK_THROWS(" #Type ", " #__VA_ARGS__ ")"); \
  } while (false)

namespace l2m::test {

[[noreturn]] inline void fail(const char* file, int line, const char* what) {
  std::fprintf(stderr, "%s:%d: failed: %s\n", file, line, what);
  std::_Exit(EXIT_FAILURE);
}

}  // namespace l2m::test
