#pragma once

#include <cstdint>
#include <stdexcept>

#include "l2m.h"
#include "l2m/loader.hpp"

namespace l2m {

/// Exception for a callback of the caller that failed.
class CallbackFailed : public std::runtime_error {
  using std::runtime_error::runtime_error;
};

/// Throw if an argument of the C API is NULL.
void check_pointer(const char* name, const void* pointer);

/// Convert options of the C API after checking them.
LoaderOptions options_of(const l2m_options& o, std::uint64_t seed);

}  // namespace l2m
