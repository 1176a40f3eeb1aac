#pragma once

#include "l2m/base/float_types.hpp"

using __half = l2m::Float16;

inline float __half2float(__half x) { return l2m::widen(x); }
inline __half __float2half_rn(float x) { return l2m::round_to<__half>(x); }
