// What follows a linear layer, in one pass over its result: bias, activation, gate, residual. A block has a row.
#include "common.cuh"

// As nn::Activation; known to the launch as well: fused/pointwise.rs.
enum Activation { IDENTITY = 0, GELU = 1, GELU_TANH = 2, RELU = 3, SILU = 4 };

__device__ __forceinline__ float activated(float number, int activation) {
    switch (activation) {
    case GELU:
        return 0.5f * number * (1.0f + erff(number * 0.707106781186547524f));
    case GELU_TANH: {
        // (1 + tanh(u)) / 2 = 1 / (1 + exp(-2 u)), which keeps its digits where tanh is close to -1.
        const float argument = 0.797884560802865356f * (number + 0.044715f * number * number * number);
        return number / (1.0f + expf(-2.0f * argument));
    }
    case RELU:
        // What is not a number stays so.
        return number < 0.0f ? 0.0f : number;
    case SILU:
        return number / (1.0f + expf(-number));
    default:
        return number;
    }
}

// input = activation(input + bias) + residual.
template <typename T, int N>
__device__ __forceinline__ void finish(T *input, const T *bias, const T *residual, int width, int activation) {
    const size_t first = (size_t)blockIdx.x * width;
    for (int column = threadIdx.x * N; column < width; column += blockDim.x * N) {
        Pack<T, N> pack = Pack<T, N>::load(input + first + column);
        pack.add(after(bias, column));
#pragma unroll
        for (int place = 0; place < N; place++) pack.numbers[place] = activated(pack.numbers[place], activation);
        pack.add(after(residual, first + column));
        pack.store(input + first + column);
    }
}

// gate = activation(gate + gate_bias) * (up + up_bias).
template <typename T, int N>
__device__ __forceinline__ void gated(T *gate, const T *up, const T *gate_bias, const T *up_bias, int width,
                                      int activation) {
    const size_t first = (size_t)blockIdx.x * width;
    for (int column = threadIdx.x * N; column < width; column += blockDim.x * N) {
        Pack<T, N> pack = Pack<T, N>::load(gate + first + column), other = Pack<T, N>::load(up + first + column);
        pack.add(after(gate_bias, column));
        other.add(after(up_bias, column));
#pragma unroll
        for (int place = 0; place < N; place++) {
            pack.numbers[place] = activated(pack.numbers[place], activation) * other.numbers[place];
        }
        pack.store(gate + first + column);
    }
}

#define POINTWISE(NAME, T)                                                                                             \
    extern "C" __global__ void finish_##NAME(T *input, const T *bias, const T *residual, int width, int activation,    \
                                             int aligned) {                                                            \
        if (aligned) {                                                                                                 \
            finish<T, LANES_OF<T>>(input, bias, residual, width, activation);                                          \
        } else {                                                                                                       \
            finish<T, 1>(input, bias, residual, width, activation);                                                    \
        }                                                                                                              \
    }                                                                                                                  \
    extern "C" __global__ void gated_##NAME(T *gate, const T *up, const T *gate_bias, const T *up_bias, int width,     \
                                            int activation, int aligned) {                                             \
        if (aligned) {                                                                                                 \
            gated<T, LANES_OF<T>>(gate, up, gate_bias, up_bias, width, activation);                                    \
        } else {                                                                                                       \
            gated<T, 1>(gate, up, gate_bias, up_bias, width, activation);                                              \
        }                                                                                                              \
    }

POINTWISE(f32, float)
POINTWISE(f16, __half)
#if HAS_BF16
POINTWISE(bf16, __nv_bfloat16)
#endif
