#pragma once

#include <cstdint>
#include <string>

namespace l2m {

/// Return the shortest decimal text that reads back as the same number, such as "0.1", "2" or "1e-300". Does not depend
/// on the C library or its locale.
std::string to_text(double number);

/// Return 16 hexadecimal digits.
std::string to_hex(std::uint64_t number);

}  // namespace l2m
