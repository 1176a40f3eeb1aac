#pragma once

#include "l2m/base/float_types.hpp"

using __nv_bfloat16 = l2m::BFloat16;

inline float __bfloat162float(__nv_bfloat16 x) { return l2m::widen(x); }
inline __nv_bfloat16 __float2bfloat16_rn(float x) { return l2m::round_to<__nv_bfloat16>(x); }
