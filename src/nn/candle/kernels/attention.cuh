// Attention within the sequences of a packed batch: what its kernels have in common.
//
// A block has some queries of one head of one sequence and goes over their keys tile by tile. Of the scores there is one
// tile at a time; the largest of each query and the sum of its weights are brought along (Milakov and Gimelshein 2018,
// https://arxiv.org/abs/1805.02867; Dao et al. 2022, https://arxiv.org/abs/2205.14135).
#pragma once

#include "common.cuh"

// All that a launch is told. Strides are from one token to the next, in numbers.
template <typename T> struct Attention {
    const T *query;
    const T *key;
    const T *value;
    T *out;
    size_t query_key_stride;
    size_t value_stride;
    // [tiles, 4]: first token of the sequence, its length, how many of its leading tokens are seen, first query.
    const unsigned *tiles;
    int tile_count;
    // Heads of queries, and how many of them share a key.
    int heads;
    int group;
    int head_size;
    float scale;
    // How far before and after a query its keys are.
    int before;
    int after;
    // [heads, bias_columns]: what is added where the key is `column - bias_columns / 2` tokens after the query; or none.
    const float *bias;
    int bias_columns;
    // Whether every row of a head begins at sixteen bytes and has a multiple of them.
    bool aligned;
};

// What of it concerns one block.
template <typename T> struct Block {
    const T *query;
    const T *key;
    const T *value;
    T *out;
    size_t out_stride;
    int length;
    int first_query;
    // How many queries it has.
    int queries;
    // Keys that some of them see.
    int keys_begin;
    int keys_end;
    int seen;
    // By key minus query; or none.
    const float *bias;

    // Heads are the slow index: what runs at the same time shares keys and values of few heads.
    __device__ __forceinline__ Block(const Attention<T> &all, int rows) {
        const int head = blockIdx.x / all.tile_count;
        const unsigned *tile = all.tiles + 4 * (blockIdx.x % all.tile_count);
        const size_t first_token = tile[0];
        length = tile[1];
        seen = tile[2];
        first_query = tile[3];
        queries = min(rows, length - first_query);
        keys_begin = max(0, first_query - all.before);
        keys_end = min(seen, first_query + queries + all.after);
        const size_t columns = (size_t)head * all.head_size, shared = (size_t)(head / all.group) * all.head_size;
        out_stride = (size_t)all.heads * all.head_size;
        query = all.query + (first_token + first_query) * all.query_key_stride + columns;
        key = all.key + first_token * all.query_key_stride + shared;
        value = all.value + first_token * all.value_stride + shared;
        out = all.out + (first_token + first_query) * out_stride + columns;
        bias = all.bias == nullptr ? nullptr : all.bias + (size_t)head * all.bias_columns + all.bias_columns / 2;
    }

    // Up to where a query sees keys; those beyond the end of the sequence see none.
    __device__ __forceinline__ int row_end(const Attention<T> &all, int position) const {
        return position < length ? min(seen, position + all.after + 1) : 0;
    }

    // Whether every query sees every one of these keys.
    __device__ __forceinline__ bool all_see(const Attention<T> &all, int first, int count) const {
        return first >= first_query + queries - 1 - all.before && first + count <= min(seen, first_query + all.after + 1);
    }
};

// Rows of [tokens, width] to [ROWS, STRIDE] in shared memory; what lies beyond in rows or, up to D, in columns is zero, so
// that nothing of another sequence or head can get into a sum.
template <typename T, int ROWS, int D, int STRIDE, int THREADS>
__device__ __forceinline__ void load_tile(T *tile, const T *from, size_t stride, int rows, int width, bool aligned) {
    constexpr int LANES = LANES_OF<T>;
    static_assert(D % LANES == 0 && STRIDE % LANES == 0, "rows of whole accesses");
    if (aligned) {
        constexpr int ACCESSES = D / LANES;
#pragma unroll 4
        for (int access = threadIdx.x; access < ROWS * ACCESSES; access += THREADS) {
            const int row = access / ACCESSES, column = access % ACCESSES * LANES;
            uint4 numbers = make_uint4(0, 0, 0, 0);
            if (row < rows && column < width) {
                numbers = *reinterpret_cast<const uint4 *>(from + row * stride + column);
            }
            *reinterpret_cast<uint4 *>(tile + row * STRIDE + column) = numbers;
        }
    } else {
        for (int place = threadIdx.x; place < ROWS * D; place += THREADS) {
            const int row = place / D, column = place % D;
            const bool inside = row < rows && column < width;
            tile[row * STRIDE + column] = inside ? from[row * stride + column] : from_f32<T>(0.0f);
        }
    }
}

// What the weights of a query are relative to: its largest score. Where all its scores so far are -infinity their weights
// are zero, and not 0 / 0.
__device__ __forceinline__ float reference(float largest) { return largest == -INFINITY ? 0.0f : largest; }

// Kernels for one size of heads; D is that size rounded up to what there is a kernel for.
#define ATTENTION_KERNEL(NAME, T, ATTEND)                                                                              \
    extern "C" __global__ void __launch_bounds__(128, 3) NAME(                                                         \
        const T *query, const T *key, const T *value, T *out, const unsigned *tiles, const float *bias,                \
        unsigned long long query_key_stride, unsigned long long value_stride, int tile_count, int heads, int group,    \
        int head_size, int before, int after, int bias_columns, int aligned, float scale) {                            \
        const Attention<T> all = {query,     key,   value,  out,   (size_t)query_key_stride, (size_t)value_stride,     \
                                  tiles,     tile_count, heads, group, head_size, scale, before, after, bias,          \
                                  bias_columns, aligned != 0};                                                         \
        ATTEND(all);                                                                                                   \
    }
