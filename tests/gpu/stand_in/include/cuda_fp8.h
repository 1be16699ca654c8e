/* Numbers of 8 bits are not computed with: what has to do with them compiles, and ends the program if it is launched. */
#pragma once
#include "../numbers.h"

enum __nv_fp8_interpretation_t { __NV_E4M3, __NV_E5M2 };
struct __nv_fp8_e4m3 {
    unsigned char __x;
    __nv_fp8_e4m3() = default;
    explicit __nv_fp8_e4m3(float) { stand_in::wrong("numbers of 8 bits"); }
};
inline __half_raw __nv_cvt_fp8_to_halfraw(unsigned char, __nv_fp8_interpretation_t) { stand_in::wrong("numbers of 8 bits"); }
