#include "l2m/base/soft_double.hpp"

// On ARM processors without instructions for doubles, libgcc adds them by assembler code that rounds some sums wrongly
// where the exponents differ by 33 (seen with gcc 12: test_soft_double.cpp). These functions take its place. All of its functions that belong to the same object are here, so that the linker does not need that object.
#if defined(__arm__) && !defined(__clang__) && (!defined(__thumb__) || defined(__thumb2__)) && \
    !(defined(__ARM_FP) && (__ARM_FP & 8))

// The ABI passes doubles and 64-bit integers in the same registers.
extern "C" {
std::uint64_t __aeabi_dadd(std::uint64_t a, std::uint64_t b) { return l2m::soft::add(a, b); }
std::uint64_t __aeabi_dsub(std::uint64_t a, std::uint64_t b) { return l2m::soft::add(a, b ^ l2m::soft::kSign); }
std::uint64_t __aeabi_drsub(std::uint64_t a, std::uint64_t b) { return l2m::soft::add(b, a ^ l2m::soft::kSign); }
std::uint64_t __aeabi_i2d(std::int32_t x) { return l2m::soft::from_integer(std::int64_t{x}); }
std::uint64_t __aeabi_ui2d(std::uint32_t x) { return l2m::soft::from_integer(std::uint64_t{x}); }
std::uint64_t __aeabi_l2d(std::int64_t x) { return l2m::soft::from_integer(x); }
std::uint64_t __aeabi_ul2d(std::uint64_t x) { return l2m::soft::from_integer(x); }
std::uint64_t __aeabi_f2d(std::uint32_t x) { return l2m::soft::from_float(x); }
}

#endif
