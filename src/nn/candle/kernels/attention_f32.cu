// Attention in f32 throughout.
#include "attention.cuh"

// Sixteen groups of eight neighbouring lanes have ROWS queries each: of every query's scores a lane has some columns, and
// of every result as well.
template <int D, int ROWS, int KEYS> struct Places {
    static constexpr int THREADS = 128;
    static constexpr int GROUP = 8;
    static constexpr int QUERIES = THREADS / GROUP * ROWS;
    // With four numbers more, rows begin in different banks.
    static constexpr int STRIDE = D + 4;
    static constexpr int WEIGHT_STRIDE = KEYS + 4;
    static constexpr int KEY = QUERIES * STRIDE;
    static constexpr int VALUE = KEY + KEYS * STRIDE;
    static constexpr int WEIGHTS = VALUE + KEYS * STRIDE;
    static constexpr int END = WEIGHTS + QUERIES * WEIGHT_STRIDE;
    static_assert(D % (4 * GROUP) == 0 && KEYS % GROUP == 0, "as much for each lane");
    static_assert(END * (int)sizeof(float) <= 48 * 1024, "no more than every device gives to a block");
};

template <int D, int ROWS, int KEYS> __device__ __forceinline__ void attend_f32(const Attention<float> &all) {
    using P = Places<D, ROWS, KEYS>;
    constexpr int COLUMNS = KEYS / P::GROUP, FOURS = D / P::GROUP / 4;

    DYNAMIC_SHARED(memory);
    float *query_tile = reinterpret_cast<float *>(memory);
    float *key_tile = query_tile + P::KEY;
    float *value_tile = query_tile + P::VALUE;
    float *weight_tile = query_tile + P::WEIGHTS;

    const Block<float> block(all, P::QUERIES);
    const int first_row = threadIdx.x / P::GROUP * ROWS, lane = threadIdx.x % P::GROUP;
    float out[ROWS][4 * FOURS], largest[ROWS], sum[ROWS];
#pragma unroll
    for (int row = 0; row < ROWS; row++) {
        largest[row] = -INFINITY;
        sum[row] = 0.0f;
#pragma unroll
        for (int column = 0; column < 4 * FOURS; column++) out[row][column] = 0.0f;
    }

    load_tile<float, P::QUERIES, D, P::STRIDE, P::THREADS>(query_tile, block.query, all.query_key_stride, block.queries,
                                                           all.head_size, all.aligned);
    for (int first = block.keys_begin; first < block.keys_end; first += KEYS) {
        const int count = min(KEYS, block.keys_end - first);
        load_tile<float, KEYS, D, P::STRIDE, P::THREADS>(key_tile, block.key + first * all.query_key_stride,
                                                         all.query_key_stride, count, all.head_size, all.aligned);
        load_tile<float, KEYS, D, P::STRIDE, P::THREADS>(value_tile, block.value + first * all.value_stride,
                                                         all.value_stride, count, all.head_size, all.aligned);
        __syncthreads();

        float scores[ROWS][COLUMNS];
#pragma unroll
        for (int row = 0; row < ROWS; row++) {
#pragma unroll
            for (int column = 0; column < COLUMNS; column++) scores[row][column] = 0.0f;
        }
        for (int place = 0; place < D; place += 4) {
            float4 keys[COLUMNS];
#pragma unroll
            for (int column = 0; column < COLUMNS; column++) {
                keys[column] = *reinterpret_cast<const float4 *>(key_tile + (lane + P::GROUP * column) * P::STRIDE + place);
            }
#pragma unroll
            for (int row = 0; row < ROWS; row++) {
                const float4 query = *reinterpret_cast<const float4 *>(query_tile + (first_row + row) * P::STRIDE + place);
#pragma unroll
                for (int column = 0; column < COLUMNS; column++) {
                    float score = scores[row][column];
                    score = fmaf(query.x, keys[column].x, score);
                    score = fmaf(query.y, keys[column].y, score);
                    score = fmaf(query.z, keys[column].z, score);
                    scores[row][column] = fmaf(query.w, keys[column].w, score);
                }
            }
        }

        const bool whole = block.bias == nullptr && block.all_see(all, first, KEYS);
#pragma unroll
        for (int row = 0; row < ROWS; row++) {
            const int position = block.first_query + first_row + row;
            const int row_begin = position - all.before, row_end = block.row_end(all, position);
            float tile_largest = largest[row];
#pragma unroll
            for (int column = 0; column < COLUMNS; column++) {
                float score = scores[row][column] * all.scale;
                if (!whole) {
                    const int key = first + lane + P::GROUP * column;
                    const bool visible = key >= row_begin && key < row_end;
                    if (visible && block.bias != nullptr) score += block.bias[key - position];
                    if (!visible) score = -INFINITY;
                }
                scores[row][column] = score;
                tile_largest = fmaxf(tile_largest, score);
            }
#pragma unroll
            for (int distance = 1; distance < P::GROUP; distance *= 2) {
                tile_largest = fmaxf(tile_largest, __shfl_xor_sync(ALL_LANES, tile_largest, distance));
            }
            const float base = reference(tile_largest), factor = expf(largest[row] - base);
            largest[row] = tile_largest;
            float tile_sum = 0.0f;
#pragma unroll
            for (int column = 0; column < COLUMNS; column++) {
                const float weight = expf(scores[row][column] - base);
                tile_sum += weight;
                weight_tile[(first_row + row) * P::WEIGHT_STRIDE + lane + P::GROUP * column] = weight;
            }
#pragma unroll
            for (int distance = 1; distance < P::GROUP; distance *= 2) {
                tile_sum += __shfl_xor_sync(ALL_LANES, tile_sum, distance);
            }
            sum[row] = sum[row] * factor + tile_sum;
#pragma unroll
            for (int column = 0; column < 4 * FOURS; column++) out[row][column] *= factor;
        }
        // The lanes of a query are in one warp.
        __syncwarp();

#pragma unroll 4
        for (int key = 0; key < KEYS; key++) {
            float weights[ROWS];
#pragma unroll
            for (int row = 0; row < ROWS; row++) weights[row] = weight_tile[(first_row + row) * P::WEIGHT_STRIDE + key];
#pragma unroll
            for (int four = 0; four < FOURS; four++) {
                const float4 value =
                    *reinterpret_cast<const float4 *>(value_tile + key * P::STRIDE + 4 * (lane + P::GROUP * four));
#pragma unroll
                for (int row = 0; row < ROWS; row++) {
                    out[row][4 * four] = fmaf(weights[row], value.x, out[row][4 * four]);
                    out[row][4 * four + 1] = fmaf(weights[row], value.y, out[row][4 * four + 1]);
                    out[row][4 * four + 2] = fmaf(weights[row], value.z, out[row][4 * four + 2]);
                    out[row][4 * four + 3] = fmaf(weights[row], value.w, out[row][4 * four + 3]);
                }
            }
        }
        __syncthreads();
    }

#pragma unroll
    for (int row = 0; row < ROWS; row++) {
        const float factor = 1.0f / sum[row];
        float *results = block.out + (first_row + row) * block.out_stride;
#pragma unroll
        for (int column = 0; column < 4 * FOURS; column++) {
            const int place = 4 * (lane + P::GROUP * (column / 4)) + column % 4;
            if (first_row + row < block.queries && place < all.head_size) results[place] = out[row][column] * factor;
        }
    }
}

// The sizes that there are. Sizes of tiles are known to the launch as well: fused/attention.rs.
ATTENTION_KERNEL(attention_f32_32, float, (attend_f32<32, 4, 32>))
ATTENTION_KERNEL(attention_f32_64, float, (attend_f32<64, 4, 32>))
ATTENTION_KERNEL(attention_f32_128, float, (attend_f32<128, 2, 16>))
ATTENTION_KERNEL(attention_f32_256, float, (attend_f32<256, 1, 8>))
