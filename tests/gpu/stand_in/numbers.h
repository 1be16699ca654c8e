/* __half and __nv_bfloat16 as a GPU computes with them: each operation in f32 and rounded to the nearest, ties to even. For
 * sums, products, quotients and roots that is what rounding the exact result gives. */
#pragma once
#include "device.h"
#include <immintrin.h>

namespace stand_in {
/* The nearest f32 on the side of zero with its last digit set if something was lost: rounded again, to fewer digits, it
 * gives what the value itself would. */
inline float to_odd(double value) {
    float nearest = static_cast<float>(value);
    if (static_cast<double>(nearest) == value || std::isnan(value)) return nearest;
    uint32_t digits = bits<uint32_t>(nearest);
    if (std::fabs(static_cast<double>(nearest)) > std::fabs(value)) digits--;
    return bits<float>(digits | 1);
}

struct Half {
    static uint16_t store(float value) { return static_cast<uint16_t>(_cvtss_sh(value, _MM_FROUND_TO_NEAREST_INT)); }
    static float load(uint16_t digits) { return _cvtsh_ss(digits); }
};
struct Bfloat16 {
    static uint16_t store(float value) {
        uint32_t digits = bits<uint32_t>(value);
        if ((digits & 0x7fffffff) > 0x7f800000) return 0x7fff;
        return static_cast<uint16_t>((digits + 0x7fff + (digits >> 16 & 1)) >> 16);
    }
    static float load(uint16_t digits) { return bits<float>(static_cast<uint32_t>(digits) << 16); }
};

template <typename Format> struct Raw { unsigned short x; };

template <typename Format> struct Number {
    unsigned short __x;
    Number() = default;
    Number(Raw<Format> raw) : __x(raw.x) {}
    template <typename T, typename = std::enable_if_t<std::is_arithmetic_v<T>>> Number(T value) {
        if constexpr (std::is_same_v<T, float>) __x = Format::store(value);
        else __x = Format::store(to_odd(static_cast<double>(value)));
    }
    operator float() const { return Format::load(__x); }
    static Number of(unsigned short digits) { return Number(Raw<Format>{digits}); }

    friend Number operator+(Number a, Number b) { return Number(float(a) + float(b)); }
    friend Number operator-(Number a, Number b) { return Number(float(a) - float(b)); }
    friend Number operator*(Number a, Number b) { return Number(float(a) * float(b)); }
    friend Number operator/(Number a, Number b) { return Number(float(a) / float(b)); }
    friend Number operator-(Number a) { return of(a.__x ^ 0x8000); }
    friend Number operator+(Number a) { return a; }
    friend Number &operator+=(Number &a, Number b) { return a = a + b; }
    friend Number &operator-=(Number &a, Number b) { return a = a - b; }
    friend Number &operator*=(Number &a, Number b) { return a = a * b; }
    friend Number &operator/=(Number &a, Number b) { return a = a / b; }
    friend bool operator==(Number a, Number b) { return float(a) == float(b); }
    friend bool operator!=(Number a, Number b) { return float(a) != float(b); }
    friend bool operator<(Number a, Number b) { return float(a) < float(b); }
    friend bool operator>(Number a, Number b) { return float(a) > float(b); }
    friend bool operator<=(Number a, Number b) { return float(a) <= float(b); }
    friend bool operator>=(Number a, Number b) { return float(a) >= float(b); }
};

template <typename Format> struct alignas(4) Pair { Number<Format> x, y; };
} // namespace stand_in

using __half = stand_in::Number<stand_in::Half>;
using half = __half;
using __half_raw = stand_in::Raw<stand_in::Half>;
using __half2 = stand_in::Pair<stand_in::Half>;
using half2 = __half2;
using __nv_bfloat16 = stand_in::Number<stand_in::Bfloat16>;
using nv_bfloat16 = __nv_bfloat16;
using __nv_bfloat162 = stand_in::Pair<stand_in::Bfloat16>;
using nv_bfloat162 = __nv_bfloat162;
static_assert(std::is_trivial_v<__half> && sizeof(__half) == 2 && std::is_trivial_v<__half2> && sizeof(__half2) == 4);

inline __half __float2half(float value) { return value; }
inline __half __float2half_rn(float value) { return value; }
inline __half __double2half(double value) { return value; }
inline float __half2float(__half value) { return value; }
inline __half __ushort_as_half(unsigned short digits) { return __half::of(digits); }
inline unsigned short __half_as_ushort(__half value) { return value.__x; }
inline __half2 __floats2half2_rn(float x, float y) { return {x, y}; }
inline __half2 __float22half2_rn(float2 pair) { return {pair.x, pair.y}; }
inline __half2 __float2half2_rn(float value) { return {value, value}; }
inline float2 __half22float2(__half2 pair) { return {pair.x, pair.y}; }
inline __half2 __halves2half2(__half x, __half y) { return {x, y}; }
inline __half2 make_half2(__half x, __half y) { return {x, y}; }
inline __half2 __half2half2(__half value) { return {value, value}; }
inline __half __low2half(__half2 pair) { return pair.x; }
inline __half __high2half(__half2 pair) { return pair.y; }

inline __nv_bfloat16 __float2bfloat16(float value) { return value; }
inline __nv_bfloat16 __float2bfloat16_rn(float value) { return value; }
inline __nv_bfloat16 __double2bfloat16(double value) { return value; }
inline float __bfloat162float(__nv_bfloat16 value) { return value; }
inline __nv_bfloat16 __ushort_as_bfloat16(unsigned short digits) { return __nv_bfloat16::of(digits); }
inline unsigned short __bfloat16_as_ushort(__nv_bfloat16 value) { return value.__x; }
inline __nv_bfloat162 __floats2bfloat162_rn(float x, float y) { return {x, y}; }
inline __nv_bfloat162 __float22bfloat162_rn(float2 pair) { return {pair.x, pair.y}; }
inline __nv_bfloat162 __float2bfloat162_rn(float value) { return {value, value}; }
inline float2 __bfloat1622float2(__nv_bfloat162 pair) { return {pair.x, pair.y}; }
inline __nv_bfloat162 __halves2bfloat162(__nv_bfloat16 x, __nv_bfloat16 y) { return {x, y}; }
inline __nv_bfloat162 make_bfloat162(__nv_bfloat16 x, __nv_bfloat16 y) { return {x, y}; }
inline __nv_bfloat162 __bfloat162bfloat162(__nv_bfloat16 value) { return {value, value}; }
inline __nv_bfloat16 __low2bfloat16(__nv_bfloat162 pair) { return pair.x; }
inline __nv_bfloat16 __high2bfloat16(__nv_bfloat162 pair) { return pair.y; }

#define NUMBER template <typename F> stand_in::Number<F>
#define PAIR template <typename F> stand_in::Pair<F>
#define ONE const stand_in::Number<F>
#define TWO const stand_in::Pair<F>
NUMBER __hadd(ONE a, ONE b) { return a + b; }
NUMBER __hsub(ONE a, ONE b) { return a - b; }
NUMBER __hmul(ONE a, ONE b) { return a * b; }
NUMBER __hdiv(ONE a, ONE b) { return a / b; }
NUMBER __hneg(ONE a) { return -a; }
NUMBER __habs(ONE a) { return stand_in::Number<F>::of(a.__x & 0x7fff); }
/* The product in f64 is exact, and the sum of it is rounded once. */
NUMBER __hfma(ONE a, ONE b, ONE c) {
    return double(float(a)) * double(float(b)) + double(float(c));
}
template <typename F> bool __hisnan(ONE a) { return std::isnan(float(a)); }
template <typename F> int __hisinf(ONE a) { return std::isinf(float(a)) ? (float(a) < 0 ? -1 : 1) : 0; }
NUMBER __hmax(ONE a, ONE b) { return fmaxf(a, b); }
NUMBER __hmin(ONE a, ONE b) { return fminf(a, b); }
NUMBER __hmax_nan(ONE a, ONE b) { return __hisnan(a) ? a : __hisnan(b) ? b : __hmax(a, b); }
NUMBER __hmin_nan(ONE a, ONE b) { return __hisnan(a) ? a : __hisnan(b) ? b : __hmin(a, b); }
NUMBER hsqrt(ONE a) { return sqrtf(a); }
NUMBER hrsqrt(ONE a) { return rsqrtf(a); }
NUMBER hrcp(ONE a) { return 1 / float(a); }
NUMBER hcos(ONE a) { return cosf(a); }
NUMBER hsin(ONE a) { return sinf(a); }
NUMBER hexp(ONE a) { return expf(a); }
NUMBER hexp2(ONE a) { return exp2f(a); }
NUMBER hlog(ONE a) { return logf(a); }
NUMBER hlog2(ONE a) { return log2f(a); }
NUMBER htanh(ONE a) { return tanhf(a); }
PAIR __hadd2(TWO a, TWO b) { return {a.x + b.x, a.y + b.y}; }
PAIR __hsub2(TWO a, TWO b) { return {a.x - b.x, a.y - b.y}; }
PAIR __hmul2(TWO a, TWO b) { return {a.x * b.x, a.y * b.y}; }
PAIR __h2div(TWO a, TWO b) { return {a.x / b.x, a.y / b.y}; }
PAIR __hfma2(TWO a, TWO b, TWO c) { return {__hfma(a.x, b.x, c.x), __hfma(a.y, b.y, c.y)}; }
#undef NUMBER
#undef PAIR
#undef ONE
#undef TWO
