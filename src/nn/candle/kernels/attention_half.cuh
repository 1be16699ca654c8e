// Attention in f16 or bf16: products on tensor cores with sums in f32, scores in f32 until they are weights, which are
// rounded to the numbers of the activations.
//
// Which number of a fragment lies in which lane is the hardware's own affair. Scores therefore go through shared memory;
// to scale sums row by row, a fragment is filled with the numbers of its rows, which then say themselves where they are.
#pragma once

#include <mma.h>

#include "attention.cuh"

// Rows and columns of a fragment.
constexpr int SIDE = 16;

// Shared memory of a block, in bytes from its beginning. Four warps have ROW_WARPS groups of sixteen queries; where that
// is less than four, the warps of a group divide keys and columns among themselves, and values take the place of the keys.
template <typename T, int D, int KEYS, int ROW_WARPS> struct Places {
    static constexpr int THREADS = 128;
    static constexpr int COLUMN_WARPS = 4 / ROW_WARPS;
    static constexpr bool OWN_ROWS = COLUMN_WARPS == 1;
    static constexpr int ROWS = SIDE * ROW_WARPS;
    // With eight numbers more, rows begin in different banks.
    static constexpr int STRIDE = D + 8;
    static constexpr int SCORE_STRIDE = KEYS + 8;
    static constexpr int OUT_STRIDE = D + 4;
    static constexpr int KEY = ROWS * STRIDE * (int)sizeof(T);
    static constexpr int VALUE = OWN_ROWS ? KEY + KEYS * STRIDE * (int)sizeof(T) : KEY;
    static constexpr int SCORES = VALUE + KEYS * STRIDE * (int)sizeof(T);
    static constexpr int FACTORS = SCORES + ROWS * SCORE_STRIDE * (int)sizeof(float);
    static constexpr int END = FACTORS + ROWS * (int)sizeof(float);
    static_assert(D % (SIDE * COLUMN_WARPS) == 0 && KEYS % (SIDE * COLUMN_WARPS) == 0, "whole fragments for each warp");
    static_assert(4 * SIDE * SIDE <= ROWS * SCORE_STRIDE, "room for a fragment of each warp");
    static_assert(ROWS * OUT_STRIDE * (int)sizeof(float) <= FACTORS, "results take the place of what they are made of");
    static_assert(END <= 48 * 1024, "no more than every device gives to a block");
};

template <typename T, int D, int KEYS, int ROW_WARPS> __device__ __forceinline__ void attend_half(const Attention<T> &all) {
    using namespace nvcuda;
    using P = Places<T, D, KEYS, ROW_WARPS>;
    constexpr int KEY_FRAGMENTS = KEYS / SIDE / P::COLUMN_WARPS, OUT_FRAGMENTS = D / SIDE / P::COLUMN_WARPS;
    using Sums = wmma::fragment<wmma::accumulator, SIDE, SIDE, SIDE, float>;
    using Left = wmma::fragment<wmma::matrix_a, SIDE, SIDE, SIDE, T, wmma::row_major>;

    DYNAMIC_SHARED(memory);
    T *query_tile = reinterpret_cast<T *>(memory);
    T *key_tile = reinterpret_cast<T *>(memory + P::KEY);
    T *value_tile = reinterpret_cast<T *>(memory + P::VALUE);
    float *scores = reinterpret_cast<float *>(memory + P::SCORES);
    float *factors = reinterpret_cast<float *>(memory + P::FACTORS);

    const Block<T> block(all, P::ROWS);
    const int warp = threadIdx.x / WARP, lane = threadIdx.x % WARP;
    const int warp_row = warp / P::COLUMN_WARPS * SIDE, warp_column = warp % P::COLUMN_WARPS;

    // The row of each number of a fragment that this lane has, four to a register.
    unsigned rows[(Sums::num_elements + 3) / 4] = {};
    {
        float *own = scores + warp * SIDE * SIDE;
        for (int place = lane; place < SIDE * SIDE; place += WARP) own[place] = (float)(place / SIDE);
        __syncwarp();
        Sums numbered;
        wmma::load_matrix_sync(numbered, own, SIDE, wmma::mem_row_major);
#pragma unroll
        for (int place = 0; place < Sums::num_elements; place++) {
            rows[place / 4] |= (unsigned)(warp_row + (int)numbered.x[place]) << place % 4 * 8;
        }
    }

    Sums out[OUT_FRAGMENTS];
#pragma unroll
    for (int column = 0; column < OUT_FRAGMENTS; column++) wmma::fill_fragment(out[column], 0.0f);

    // Between products, PARTS neighbouring lanes have a row: four columns each, in turns.
    constexpr int PARTS = P::THREADS / P::ROWS, FOURS = KEYS / PARTS / 4;
    const int row = threadIdx.x / PARTS, part = threadIdx.x % PARTS;
    const int position = block.first_query + row;
    const int row_begin = position - all.before, row_end = block.row_end(all, position);
    float *row_scores = scores + row * P::SCORE_STRIDE;
    T *row_weights = reinterpret_cast<T *>(row_scores);
    float largest = -INFINITY, sum = 0.0f;

    load_tile<T, P::ROWS, D, P::STRIDE, P::THREADS>(query_tile, block.query, all.query_key_stride, block.queries,
                                                    all.head_size, all.aligned);
    for (int first = block.keys_begin; first < block.keys_end; first += KEYS) {
        const int count = min(KEYS, block.keys_end - first);
        load_tile<T, KEYS, D, P::STRIDE, P::THREADS>(key_tile, block.key + first * all.query_key_stride,
                                                     all.query_key_stride, count, all.head_size, all.aligned);
        if (P::OWN_ROWS) {
            load_tile<T, KEYS, D, P::STRIDE, P::THREADS>(value_tile, block.value + first * all.value_stride,
                                                         all.value_stride, count, all.head_size, all.aligned);
        }
        __syncthreads();

        {
            Sums products[KEY_FRAGMENTS];
#pragma unroll
            for (int key = 0; key < KEY_FRAGMENTS; key++) wmma::fill_fragment(products[key], 0.0f);
#pragma unroll 1
            for (int column = 0; column < D; column += SIDE) {
                Left left;
                wmma::load_matrix_sync(left, query_tile + warp_row * P::STRIDE + column, P::STRIDE);
#pragma unroll
                for (int key = 0; key < KEY_FRAGMENTS; key++) {
                    wmma::fragment<wmma::matrix_b, SIDE, SIDE, SIDE, T, wmma::col_major> right;
                    const int key_row = (warp_column * KEY_FRAGMENTS + key) * SIDE;
                    wmma::load_matrix_sync(right, key_tile + key_row * P::STRIDE + column, P::STRIDE);
                    wmma::mma_sync(products[key], left, right, products[key]);
                }
            }
#pragma unroll
            for (int key = 0; key < KEY_FRAGMENTS; key++) {
                const int key_column = (warp_column * KEY_FRAGMENTS + key) * SIDE;
                wmma::store_matrix_sync(scores + warp_row * P::SCORE_STRIDE + key_column, products[key], P::SCORE_STRIDE,
                                        wmma::mem_row_major);
            }
        }
        if (P::OWN_ROWS) {
            __syncwarp();
        } else {
            __syncthreads();
            load_tile<T, KEYS, D, P::STRIDE, P::THREADS>(value_tile, block.value + first * all.value_stride,
                                                         all.value_stride, count, all.head_size, all.aligned);
        }

        {
            float weights[4 * FOURS];
#pragma unroll
            for (int four = 0; four < FOURS; four++) {
                const float4 found = *reinterpret_cast<const float4 *>(row_scores + 4 * (four * PARTS + part));
                weights[4 * four] = found.x * all.scale;
                weights[4 * four + 1] = found.y * all.scale;
                weights[4 * four + 2] = found.z * all.scale;
                weights[4 * four + 3] = found.w * all.scale;
            }
            if (block.bias != nullptr || !block.all_see(all, first, KEYS)) {
#pragma unroll
                for (int place = 0; place < 4 * FOURS; place++) {
                    const int key = first + 4 * (place / 4 * PARTS + part) + place % 4;
                    const bool visible = key >= row_begin && key < row_end;
                    if (visible && block.bias != nullptr) weights[place] += block.bias[key - position];
                    if (!visible) weights[place] = -INFINITY;
                }
            }
            float tile_largest = largest;
#pragma unroll
            for (int place = 0; place < 4 * FOURS; place++) tile_largest = fmaxf(tile_largest, weights[place]);
#pragma unroll
            for (int distance = 1; distance < PARTS; distance *= 2) {
                tile_largest = fmaxf(tile_largest, __shfl_xor_sync(ALL_LANES, tile_largest, distance));
            }
            const float base = reference(tile_largest), factor = __expf(largest - base);
            largest = tile_largest;
            // What is summed is what the values are multiplied with, so that weights are 1 together.
            float tile_sum = 0.0f;
            // All lanes of a row have read it, before one writes there.
            __syncwarp();
#pragma unroll
            for (int four = 0; four < FOURS; four++) {
                union {
                    uint2 bytes;
                    unsigned char places[8];
                } rounded;
#pragma unroll
                for (int place = 0; place < 4; place++) {
                    const T weight = from_f32<T>(__expf(weights[4 * four + place] - base));
                    tile_sum += to_f32(weight);
                    memcpy(rounded.places + place * sizeof(T), &weight, sizeof(T));
                }
                *reinterpret_cast<uint2 *>(row_weights + 4 * (four * PARTS + part)) = rounded.bytes;
            }
#pragma unroll
            for (int distance = 1; distance < PARTS; distance *= 2) {
                tile_sum += __shfl_xor_sync(ALL_LANES, tile_sum, distance);
            }
            sum = sum * factor + tile_sum;
            if (part == 0) factors[row] = factor;
        }
        if (P::OWN_ROWS) {
            __syncwarp();
        } else {
            __syncthreads();
        }

#pragma unroll
        for (int place = 0; place < Sums::num_elements; place++) {
            const float factor = factors[rows[place / 4] >> place % 4 * 8 & 255];
#pragma unroll
            for (int column = 0; column < OUT_FRAGMENTS; column++) out[column].x[place] *= factor;
        }
#pragma unroll 1
        for (int key = 0; key < KEYS; key += SIDE) {
            Left left;
            const T *weights = reinterpret_cast<const T *>(scores + warp_row * P::SCORE_STRIDE) + key;
            wmma::load_matrix_sync(left, weights, P::SCORE_STRIDE * (sizeof(float) / sizeof(T)));
#pragma unroll
            for (int column = 0; column < OUT_FRAGMENTS; column++) {
                wmma::fragment<wmma::matrix_b, SIDE, SIDE, SIDE, T, wmma::row_major> right;
                const int out_column = (warp_column * OUT_FRAGMENTS + column) * SIDE;
                wmma::load_matrix_sync(right, value_tile + key * P::STRIDE + out_column, P::STRIDE);
                wmma::mma_sync(out[column], left, right, out[column]);
            }
        }
        __syncthreads();
    }

    // Results lie where queries, keys and values were.
    if (part == 0) factors[row] = 1.0f / sum;
    __syncthreads();
    float *results = reinterpret_cast<float *>(memory);
#pragma unroll
    for (int place = 0; place < Sums::num_elements; place++) {
        const float factor = factors[rows[place / 4] >> place % 4 * 8 & 255];
#pragma unroll
        for (int column = 0; column < OUT_FRAGMENTS; column++) out[column].x[place] *= factor;
    }
#pragma unroll
    for (int column = 0; column < OUT_FRAGMENTS; column++) {
        const int out_column = (warp_column * OUT_FRAGMENTS + column) * SIDE;
        wmma::store_matrix_sync(results + warp_row * P::OUT_STRIDE + out_column, out[column], P::OUT_STRIDE,
                                wmma::mem_row_major);
    }
    __syncthreads();
    if (all.aligned) {
        constexpr int LANES = LANES_OF<T>, ACCESSES = D / LANES;
        for (int access = threadIdx.x; access < block.queries * ACCESSES; access += P::THREADS) {
            const int query = access / ACCESSES, column = access % ACCESSES * LANES;
            if (column >= all.head_size) continue;
            Pack<T, LANES> pack;
#pragma unroll
            for (int place = 0; place < LANES; place++) pack.numbers[place] = results[query * P::OUT_STRIDE + column + place];
            pack.store(block.out + query * block.out_stride + column);
        }
    } else {
        for (int place = threadIdx.x; place < block.queries * D; place += P::THREADS) {
            const int query = place / D, column = place % D;
            if (column < all.head_size) {
                block.out[query * block.out_stride + column] = from_f32<T>(results[query * P::OUT_STRIDE + column]);
            }
        }
    }
}

// The sizes that there are. Sizes of tiles are known to the launch as well: fused/attention.rs.
#define HALF_ATTENTION(NAME, T)                                                                                        \
    ATTENTION_KERNEL(attention_##NAME##_32, T, (attend_half<T, 32, 64, 4>))                                            \
    ATTENTION_KERNEL(attention_##NAME##_64, T, (attend_half<T, 64, 64, 4>))                                            \
    ATTENTION_KERNEL(attention_##NAME##_96, T, (attend_half<T, 96, 32, 4>))                                            \
    ATTENTION_KERNEL(attention_##NAME##_128, T, (attend_half<T, 128, 32, 4>))                                          \
    ATTENTION_KERNEL(attention_##NAME##_256, T, (attend_half<T, 256, 32, 2>))
