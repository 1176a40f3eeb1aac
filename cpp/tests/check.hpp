#pragma once

#include <cstdlib>
#include <iostream>

/// What a test program needs: the first check that fails prints where and what, and ends the program with status 1.
///
/// Any thread may check, and so may a forked child: the process ends at once, without destructors that could wait.
#define CHECK(...) ((__VA_ARGS__) ? void() : l2m::test::fail(__FILE__, __LINE__, "CHECK(" #__VA_ARGS__ ")"))

/// Checks that the expression throws the type or one derived from it.
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
  std::cerr << file << ":" << line << ": failed: " << what << std::endl;
  std::_Exit(EXIT_FAILURE);
}

}  // namespace l2m::test
