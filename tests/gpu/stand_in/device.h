/* Lets g++ compile CUDA sources for the processor: the words of the language, where a thread is, barriers, exchanges
 * within a warp, atomics. Numbers of 16 bits are in numbers.h, products of tiles in include/mma.h. device.cpp runs it.
 *
 * A block's threads are fibres of one thread of the system, which runs them in turn, each as far as it gets: what is read
 * without a barrier before another thread has written it is read as it was. Launches are made one at a time, so that
 * what is said here to be `static` is one thing at a time. */
#pragma once
#include <cassert>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <limits>
#include <math.h>
#include <tuple>
#include <type_traits>
#include <utility>

/* Said to sources that must know that they are compiled for this. */
#define CUDA_STAND_IN 1

#ifndef __global__ /* The names of kernels are looked for with another meaning. */
#define __global__
#endif
#define __device__
#define __host__
#define __constant__ static
#define __managed__ static
#define __shared__ static
#define __forceinline__ inline __attribute__((always_inline))
#define __align__(bytes) __attribute__((aligned(bytes)))
#define __launch_bounds__(...)
/* How this project's sources declare shared memory whose size the launch decides. */
#define DYNAMIC_SHARED(name) unsigned char *name = static_cast<unsigned char *>(::stand_in::dynamic_shared())

struct alignas(8) float2 { float x, y; };
struct float3 { float x, y, z; };
struct alignas(16) float4 { float x, y, z, w; };
struct alignas(16) double2 { double x, y; };
struct alignas(8) int2 { int x, y; };
struct int3 { int x, y, z; };
struct alignas(16) int4 { int x, y, z, w; };
struct alignas(8) uint2 { unsigned x, y; };
struct uint3 { unsigned x, y, z; };
struct alignas(16) uint4 { unsigned x, y, z, w; };
struct alignas(4) ushort2 { unsigned short x, y; };
struct alignas(8) ushort4 { unsigned short x, y, z, w; };
struct alignas(4) uchar4 { unsigned char x, y, z, w; };
struct dim3 {
    unsigned x, y, z;
    constexpr dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};

inline float2 make_float2(float x, float y) { return {x, y}; }
inline float3 make_float3(float x, float y, float z) { return {x, y, z}; }
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
inline int2 make_int2(int x, int y) { return {x, y}; }
inline int4 make_int4(int x, int y, int z, int w) { return {x, y, z, w}; }
inline uint2 make_uint2(unsigned x, unsigned y) { return {x, y}; }
inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }

namespace stand_in {
/* Where the running thread is. */
extern uint3 thread, block;
extern dim3 block_size, grid_size;

[[noreturn]] void wrong(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* Waits until all threads of the block are at this line. */
void block_barrier(int line);

/* What the lanes of a warp have brought to an exchange. Valid until the lane brings something to the next one. */
struct Brought {
    const unsigned char (*slots)[16];
    /* Lanes that took part. */
    unsigned lanes;
};

/* Waits until all lanes of `mask` that the block has are at this line with what they bring. */
Brought exchange(int line, unsigned mask, const void *bytes, size_t size);

unsigned lane();

/* Dynamic shared memory of the block. What lies behind it cannot be touched. */
void *dynamic_shared();

template <typename T> T from_lane(Brought brought, unsigned source) {
    static_assert(std::is_trivially_copyable_v<T> && sizeof(T) <= 16);
    T value;
    /* What a lane has that takes no part is undefined; here it is no number. */
    if (source < 32 && brought.lanes >> source & 1) memcpy(&value, brought.slots[source], sizeof value);
    else memset(&value, 0xff, sizeof value);
    return value;
}

inline unsigned width_of(int width) {
    if (width < 1 || width > 32 || width & (width - 1)) wrong("an exchange over %d lanes", width);
    return static_cast<unsigned>(width);
}

template <typename T> T shuffle(int line, unsigned mask, T value, int source, int width = 32) {
    unsigned of = width_of(width), first = lane() & ~(of - 1);
    return from_lane<T>(exchange(line, mask, &value, sizeof value), first + (static_cast<unsigned>(source) & (of - 1)));
}
/* Lanes beyond the segment leave the value as it is. */
template <typename T> T shuffle_xor(int line, unsigned mask, T value, int lanes, int width = 32) {
    unsigned of = width_of(width), last = lane() | (of - 1), source = lane() ^ static_cast<unsigned>(lanes);
    Brought brought = exchange(line, mask, &value, sizeof value);
    return source <= last ? from_lane<T>(brought, source) : value;
}
template <typename T> T shuffle_down(int line, unsigned mask, T value, unsigned delta, int width = 32) {
    unsigned of = width_of(width), last = lane() | (of - 1), source = lane() + delta;
    Brought brought = exchange(line, mask, &value, sizeof value);
    return source <= last ? from_lane<T>(brought, source) : value;
}
template <typename T> T shuffle_up(int line, unsigned mask, T value, unsigned delta, int width = 32) {
    unsigned of = width_of(width), first = lane() & ~(of - 1), own = lane();
    Brought brought = exchange(line, mask, &value, sizeof value);
    return own >= first + delta ? from_lane<T>(brought, own - delta) : value;
}
inline unsigned ballot(int line, unsigned mask, int predicate) {
    Brought brought = exchange(line, mask, &predicate, sizeof predicate);
    unsigned found = 0;
    for (unsigned source = 0; source < 32; source++)
        if (brought.lanes >> source & 1 && from_lane<int>(brought, source)) found |= 1u << source;
    return found;
}
inline int all(int line, unsigned mask, int predicate) { return !ballot(line, mask, !predicate); }
inline void warp_barrier(int line, unsigned mask = ~0u) { exchange(line, mask, nullptr, 0); }

/* What a thread of a launch does: a kernel with its parameters, which are copied when it is launched. */
using Work = std::function<void()>;
template <typename... A, size_t... I> Work bound(void (*kernel)(A...), void **parameters, std::index_sequence<I...>) {
    return [kernel, values = std::tuple<A...>(*static_cast<A *>(parameters[I])...)] { std::apply(kernel, values); };
}

struct Kernel {
    const char *module, *name;
    std::function<Work(void **)> bind;
    Kernel *next;
    /* What it was seen to write of the static shared memory of all kernels, after so many blocks. */
    unsigned char *first = nullptr, *end = nullptr;
    unsigned blocks_seen = 0;
    static Kernel *all;
    template <typename... A> Kernel(const char *module, const char *name, void (*kernel)(A...)) : module(module), name(name), next(all) {
        bind = [kernel](void **parameters) { return bound(kernel, parameters, std::index_sequence_for<A...>{}); };
        all = this;
    }
};

/* Runs every block of a launch, one after the other. */
void launch(Kernel &kernel, dim3 grid, dim3 block, size_t shared_bytes, const Work &work);
} // namespace stand_in

/* Behind the sources of a module: what of it can be launched. Nothing of it lies with the shared memory of kernels. */
#define STAND_IN_KERNEL(module, name) \
    __attribute__((constructor)) static void stand_in_kernel_##name() { new stand_in::Kernel(module, #name, &name); }

#define threadIdx (::stand_in::thread)
#define blockIdx (::stand_in::block)
#define blockDim (::stand_in::block_size)
#define gridDim (::stand_in::grid_size)
constexpr int warpSize = 32;

#define __syncthreads() ::stand_in::block_barrier(__LINE__)
#define __syncwarp(...) ::stand_in::warp_barrier(__LINE__ __VA_OPT__(,) __VA_ARGS__)
#define __shfl_sync(...) ::stand_in::shuffle(__LINE__, __VA_ARGS__)
#define __shfl_xor_sync(...) ::stand_in::shuffle_xor(__LINE__, __VA_ARGS__)
#define __shfl_down_sync(...) ::stand_in::shuffle_down(__LINE__, __VA_ARGS__)
#define __shfl_up_sync(...) ::stand_in::shuffle_up(__LINE__, __VA_ARGS__)
#define __ballot_sync(...) ::stand_in::ballot(__LINE__, __VA_ARGS__)
#define __any_sync(...) (::stand_in::ballot(__LINE__, __VA_ARGS__) != 0)
#define __all_sync(...) ::stand_in::all(__LINE__, __VA_ARGS__)
inline void __threadfence() {}
inline void __threadfence_block() {}
/* All lanes of a warp are where the one that asks is; others may be elsewhere on a GPU. */
inline unsigned __activemask() { return ~0u; }

/* Only one thread runs at a time. */
template <typename T, typename U> T atomicAdd(T *at, U value) { return std::exchange(*at, *at + static_cast<T>(value)); }
template <typename T, typename U> T atomicExch(T *at, U value) { return std::exchange(*at, static_cast<T>(value)); }
template <typename T, typename U> T atomicMax(T *at, U value) {
    return std::exchange(*at, *at < static_cast<T>(value) ? static_cast<T>(value) : *at);
}
template <typename T, typename U> T atomicMin(T *at, U value) {
    return std::exchange(*at, static_cast<T>(value) < *at ? static_cast<T>(value) : *at);
}
template <typename T, typename U, typename V> T atomicCAS(T *at, U expected, V value) {
    return std::exchange(*at, *at == static_cast<T>(expected) ? static_cast<T>(value) : *at);
}

template <typename T> T __ldg(const T *at) { return *at; }
template <typename T> T __ldcs(const T *at) { return *at; }
template <typename T> void __stcs(T *at, T value) { *at = value; }

template <typename A, typename B> std::common_type_t<A, B> min(A a, B b) {
    using T = std::common_type_t<A, B>;
    static_assert(std::is_arithmetic_v<A> && std::is_arithmetic_v<B>);
    if constexpr (std::is_floating_point_v<T>) return std::fmin(T(a), T(b));
    else return T(b) < T(a) ? T(b) : T(a);
}
template <typename A, typename B> std::common_type_t<A, B> max(A a, B b) {
    using T = std::common_type_t<A, B>;
    static_assert(std::is_arithmetic_v<A> && std::is_arithmetic_v<B>);
    if constexpr (std::is_floating_point_v<T>) return std::fmax(T(a), T(b));
    else return T(a) < T(b) ? T(b) : T(a);
}

namespace stand_in {
template <typename To, typename From> To bits(From from) {
    static_assert(sizeof(To) == sizeof(From));
    To to;
    memcpy(&to, &from, sizeof to);
    return to;
}
} // namespace stand_in
inline int __float_as_int(float value) { return stand_in::bits<int>(value); }
inline unsigned __float_as_uint(float value) { return stand_in::bits<unsigned>(value); }
inline float __int_as_float(int value) { return stand_in::bits<float>(value); }
inline float __uint_as_float(unsigned value) { return stand_in::bits<float>(value); }
inline long long __double_as_longlong(double value) { return stand_in::bits<long long>(value); }
inline double __longlong_as_double(long long value) { return stand_in::bits<double>(value); }
inline int __popc(unsigned value) { return __builtin_popcount(value); }
inline int __clz(int value) { return value ? __builtin_clz(static_cast<unsigned>(value)) : 32; }
inline int __ffs(int value) { return __builtin_ffs(value); }

/* The fast ones of a GPU are off by a few units in the last place; these are not. */
inline float rsqrtf(float value) { return static_cast<float>(1 / std::sqrt(static_cast<double>(value))); }
inline double rsqrt(double value) { return 1 / std::sqrt(value); }
inline float __expf(float value) { return expf(value); }
inline float __exp2f(float value) { return exp2f(value); }
inline float __logf(float value) { return logf(value); }
inline float __log2f(float value) { return log2f(value); }
inline float __sinf(float value) { return sinf(value); }
inline float __cosf(float value) { return cosf(value); }
inline float __powf(float base, float exponent) { return powf(base, exponent); }
inline float __fdividef(float a, float b) { return a / b; }
inline float __frcp_rn(float value) { return 1 / value; }
inline float __frsqrt_rn(float value) { return rsqrtf(value); }
inline float __fsqrt_rn(float value) { return sqrtf(value); }
inline float __fdiv_rn(float a, float b) { return a / b; }
inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fmul_rn(float a, float b) { return a * b; }
inline float __fmaf_rn(float a, float b, float c) { return fmaf(a, b, c); }
inline float __saturatef(float value) { return fminf(fmaxf(value, 0), 1); }
inline float fdividef(float a, float b) { return a / b; }
inline double normcdf(double value) { return 0.5 * erfc(-value * M_SQRT1_2); }
inline float normcdff(float value) { return static_cast<float>(normcdf(static_cast<double>(value))); }
