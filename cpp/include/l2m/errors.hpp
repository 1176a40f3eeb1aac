#pragma once

#include <sstream>
#include <string>

namespace l2m {

/// Message of an error: what was wrong, what was given, what is allowed, put together from its parts.
template <class... Parts>
std::string message(const Parts&... parts) {
  std::ostringstream text;
  (text << ... << parts);
  return text.str();
}

}  // namespace l2m
