// Layer norm and RMS norm over a sum, in f32, in one pass: a block has a row, which stays in shared memory.
#include "common.cuh"

// sum = input + bias + residual, written where it is asked for; normed = its norm, of the sum before it is rounded. What
// is written may take the place of what is read.
template <typename T, int N>
__device__ __forceinline__ void norm(T *normed, T *sum, const T *input, const T *bias, const T *residual, const T *weight,
                                     const T *shift, int width, int centred, float epsilon) {
    DYNAMIC_SHARED(memory);
    float *partial = reinterpret_cast<float *>(memory), *row = partial + 2 * WARP;
    const size_t first = (size_t)blockIdx.x * width;
    float total = 0.0f;
    for (int column = threadIdx.x * N; column < width; column += blockDim.x * N) {
        Pack<T, N> pack = Pack<T, N>::load(input + first + column);
        pack.add(after(bias, column));
        pack.add(after(residual, first + column));
        if (sum != nullptr) pack.store(sum + first + column);
#pragma unroll
        for (int place = 0; place < N; place++) {
            const float number = pack.numbers[place];
            row[column + place] = number;
            total += centred ? number : number * number;
        }
    }
    total = block_sum(total, partial);
    float mean = 0.0f, squares = total;
    if (centred) {
        mean = total / width;
        float own = 0.0f;
        for (int column = threadIdx.x * N; column < width; column += blockDim.x * N) {
#pragma unroll
            for (int place = 0; place < N; place++) {
                const float distance = row[column + place] - mean;
                own += distance * distance;
            }
        }
        squares = block_sum(own, partial + WARP);
    }
    const float inverse = 1.0f / sqrtf(squares / width + epsilon);
    for (int column = threadIdx.x * N; column < width; column += blockDim.x * N) {
        Pack<T, N> pack, factor = Pack<T, N>::load(weight + column);
#pragma unroll
        for (int place = 0; place < N; place++) {
            pack.numbers[place] = (row[column + place] - mean) * inverse * factor.numbers[place];
        }
        pack.add(after(shift, column));
        pack.store(normed + first + column);
    }
}

#define NORM(NAME, T)                                                                                                  \
    extern "C" __global__ void norm_##NAME(T *normed, T *sum, const T *input, const T *bias, const T *residual,        \
                                           const T *weight, const T *shift, int width, int centred, int aligned,       \
                                           float epsilon) {                                                            \
        if (aligned) {                                                                                                 \
            norm<T, LANES_OF<T>>(normed, sum, input, bias, residual, weight, shift, width, centred, epsilon);          \
        } else {                                                                                                       \
            norm<T, 1>(normed, sum, input, bias, residual, weight, shift, width, centred, epsilon);                    \
        }                                                                                                              \
    }

NORM(f32, float)
NORM(f16, __half)
#if HAS_BF16
NORM(bf16, __nv_bfloat16)
#endif
