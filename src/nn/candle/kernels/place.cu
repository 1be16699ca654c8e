// Queries and keys with the norms of their heads and turned by their positions, in f32 between reading and writing.
//
// A warp has one head of one token. Positions count from the beginning of each sequence.
#include "common.cuh"

template <typename T>
__device__ __forceinline__ void place(T *placed, const T *qkv, const unsigned *positions, const float *rotation,
                                      const float *query_norm, const float *key_norm, size_t units, size_t stride,
                                      size_t sines, int heads, int all_heads, int head_size, int pairs, int interleaved,
                                      float epsilon) {
    const size_t unit = (size_t)blockIdx.x * (blockDim.x / WARP) + threadIdx.x / WARP;
    // Of whole warps.
    if (unit >= units) return;
    const int lane = threadIdx.x % WARP;
    const size_t token = unit / all_heads;
    const int head = (int)(unit % all_heads);
    const T *from = qkv + token * stride + (size_t)head * head_size;
    T *to = placed + unit * head_size;
    const float *norm = head < heads ? query_norm : key_norm;
    float inverse = 1.0f;
    if (norm != nullptr) {
        float squares = 0.0f;
        for (int column = lane; column < head_size; column += WARP) {
            const float number = to_f32(from[column]);
            squares += number * number;
        }
        inverse = 1.0f / sqrtf(warp_sum(squares) / head_size + epsilon);
    }
    const auto normed = [&](int column) {
        const float number = to_f32(from[column]);
        return norm == nullptr ? number : number * inverse * norm[column];
    };
    if (pairs > 0) {
        const float *cosine = rotation + (size_t)positions[token] * pairs;
        for (int pair = lane; pair < pairs; pair += WARP) {
            const int one = interleaved ? 2 * pair : pair, other = interleaved ? one + 1 : pair + pairs;
            const float first = normed(one), second = normed(other);
            const float cos = cosine[pair], sin = cosine[sines + pair];
            to[one] = from_f32<T>(first * cos - second * sin);
            to[other] = from_f32<T>(second * cos + first * sin);
        }
    }
    for (int column = 2 * pairs + lane; column < head_size; column += WARP) to[column] = from_f32<T>(normed(column));
}

#define PLACE(NAME, T)                                                                                                 \
    extern "C" __global__ void place_##NAME(                                                                           \
        T *placed, const T *qkv, const unsigned *positions, const float *rotation, const float *query_norm,            \
        const float *key_norm, unsigned long long units, unsigned long long stride, unsigned long long sines,          \
        int heads, int all_heads, int head_size, int pairs, int interleaved, float epsilon) {                          \
        place<T>(placed, qkv, positions, rotation, query_norm, key_norm, units, stride, sines, heads, all_heads,       \
                 head_size, pairs, interleaved, epsilon);                                                              \
    }

PLACE(f32, float)
PLACE(f16, __half)
#if HAS_BF16
PLACE(bf16, __nv_bfloat16)
#endif
