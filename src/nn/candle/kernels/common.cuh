// What all kernels share: numbers as f32, sixteen bytes at a time, and sums over a block.
//
// The sources keep to what a compiler for processors can be taught as well: no assembly, of a warp's instructions only
// shuffles, memory whose size the launch decides by one macro. So the tests run them where there is no GPU.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

// Products in bf16 are there from compute capability 8.0 on.
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 800
#define HAS_BF16 1
#else
#define HAS_BF16 0
#endif

// Shared memory whose size the launch decides.
#ifndef DYNAMIC_SHARED
#define DYNAMIC_SHARED(name) extern __shared__ __align__(128) unsigned char name[]
#endif

constexpr int WARP = 32;
constexpr unsigned ALL_LANES = 0xffffffffu;

__device__ __forceinline__ float to_f32(float number) { return number; }
__device__ __forceinline__ float to_f32(__half number) { return __half2float(number); }
__device__ __forceinline__ float to_f32(__nv_bfloat16 number) { return __bfloat162float(number); }

template <typename T> __device__ __forceinline__ T from_f32(float number);
template <> __device__ __forceinline__ float from_f32<float>(float number) { return number; }
template <> __device__ __forceinline__ __half from_f32<__half>(float number) { return __float2half(number); }
template <> __device__ __forceinline__ __nv_bfloat16 from_f32<__nv_bfloat16>(float number) {
    return __float2bfloat16(number);
}

// How many numbers are sixteen bytes.
template <typename T> constexpr int LANES_OF = 16 / sizeof(T);

// N numbers that lie side by side: sixteen bytes in one access, or one number.
template <typename T, int N> struct Pack {
    float numbers[N];

    __device__ __forceinline__ static Pack load(const T *from) {
        Pack pack;
        if constexpr (N == 1) {
            pack.numbers[0] = to_f32(*from);
        } else {
            static_assert(N == LANES_OF<T>, "sixteen bytes");
            union {
                uint4 bytes;
                unsigned char places[16];
            } whole;
            whole.bytes = *reinterpret_cast<const uint4 *>(from);
#pragma unroll
            for (int lane = 0; lane < N; lane++) {
                T number;
                memcpy(&number, whole.places + lane * sizeof(T), sizeof(T));
                pack.numbers[lane] = to_f32(number);
            }
        }
        return pack;
    }

    __device__ __forceinline__ void store(T *to) const {
        if constexpr (N == 1) {
            *to = from_f32<T>(numbers[0]);
        } else {
            static_assert(N == LANES_OF<T>, "sixteen bytes");
            union {
                uint4 bytes;
                unsigned char places[16];
            } whole;
#pragma unroll
            for (int lane = 0; lane < N; lane++) {
                T number = from_f32<T>(numbers[lane]);
                memcpy(whole.places + lane * sizeof(T), &number, sizeof(T));
            }
            *reinterpret_cast<uint4 *>(to) = whole.bytes;
        }
    }

    // Adds as many more, where there are any.
    __device__ __forceinline__ void add(const T *from) {
        if (from == nullptr) return;
        Pack more = load(from);
#pragma unroll
        for (int lane = 0; lane < N; lane++) numbers[lane] += more.numbers[lane];
    }
};

// A pointer moved on, unless there is nothing.
template <typename T> __device__ __forceinline__ const T *after(const T *pointer, size_t numbers) {
    return pointer == nullptr ? nullptr : pointer + numbers;
}

// The sum over a warp, in every lane.
__device__ __forceinline__ float warp_sum(float number) {
#pragma unroll
    for (int distance = WARP / 2; distance > 0; distance /= 2) number += __shfl_xor_sync(ALL_LANES, number, distance);
    return number;
}

// The sum over a block of whole warps, in every thread. `partial` has room for a number of each warp, and is free again
// after the next barrier.
__device__ __forceinline__ float block_sum(float number, float *partial) {
    number = warp_sum(number);
    if (threadIdx.x % WARP == 0) partial[threadIdx.x / WARP] = number;
    __syncthreads();
    float sum = 0.0f;
    for (unsigned warp = 0; warp < blockDim.x / WARP; warp++) sum += partial[warp];
    return sum;
}
