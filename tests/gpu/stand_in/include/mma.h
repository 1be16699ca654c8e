/* nvcuda::wmma for tiles of 16 x 16 x 16 of f16 or bf16, summed in f32. A lane holds half a row of the sum, the row of a
 * and the columns of b that it takes, so that 32 lanes do the work of a warp between them. Which numbers a lane holds is
 * not said by the documentation, so no kernel may depend on it. Lanes wait for each other behind a load and before a
 * store: a tile that other lanes have written needs a __syncwarp() before it is loaded, as on a GPU. */
#pragma once
#include "../numbers.h"

namespace nvcuda::wmma {
struct matrix_a;
struct matrix_b;
struct accumulator;
struct row_major;
struct col_major;
enum layout_t { mem_row_major, mem_col_major };

namespace tile {
constexpr unsigned SIZE = 16, HALF = 8;
inline unsigned row() { return stand_in::lane() / 2; }
inline unsigned first_column() { return stand_in::lane() % 2 * HALF; }
/* As a GPU demands it: 256 bits for tiles, rows that begin at multiples of 16 bytes. */
template <typename T> void check(const T *at, unsigned stride) {
    if (reinterpret_cast<uintptr_t>(at) % 32) stand_in::wrong("a tile that does not begin at a multiple of 32 bytes");
    if (stride * sizeof(T) % 16) stand_in::wrong("rows of a tile are %u numbers apart", stride);
}
} // namespace tile

template <typename Use, int M, int N, int K, typename T, typename Layout = void> struct fragment;

template <typename T, typename Layout> struct fragment<matrix_a, 16, 16, 16, T, Layout> {
    static constexpr int num_elements = 16;
    T x[num_elements];
};
template <typename T, typename Layout> struct fragment<matrix_b, 16, 16, 16, T, Layout> {
    static constexpr int num_elements = 128;
    T x[num_elements];
};
template <> struct fragment<accumulator, 16, 16, 16, float> {
    static constexpr int num_elements = 8;
    float x[num_elements];
};

template <typename Use, typename T, typename Layout, typename V>
void fill_fragment(fragment<Use, 16, 16, 16, T, Layout> &to, V value) {
    for (T &x : to.x) x = value;
}

template <typename T, typename Layout>
void load_matrix_sync(fragment<matrix_a, 16, 16, 16, T, Layout> &to, const T *from, unsigned stride, int line = __builtin_LINE()) {
    tile::check(from, stride);
    for (unsigned k = 0, row = tile::row(); k < tile::SIZE; k++)
        to.x[k] = std::is_same_v<Layout, row_major> ? from[row * stride + k] : from[k * stride + row];
    stand_in::warp_barrier(line);
}
template <typename T, typename Layout>
void load_matrix_sync(fragment<matrix_b, 16, 16, 16, T, Layout> &to, const T *from, unsigned stride, int line = __builtin_LINE()) {
    tile::check(from, stride);
    for (unsigned k = 0; k < tile::SIZE; k++)
        for (unsigned at = 0; at < tile::HALF; at++) {
            unsigned column = tile::first_column() + at;
            to.x[k * tile::HALF + at] = std::is_same_v<Layout, row_major> ? from[k * stride + column] : from[column * stride + k];
        }
    stand_in::warp_barrier(line);
}
inline void load_matrix_sync(fragment<accumulator, 16, 16, 16, float> &to, const float *from, unsigned stride, layout_t layout,
                             int line = __builtin_LINE()) {
    tile::check(from, stride);
    for (unsigned at = 0, row = tile::row(); at < tile::HALF; at++) {
        unsigned column = tile::first_column() + at;
        to.x[at] = layout == mem_row_major ? from[row * stride + column] : from[column * stride + row];
    }
    stand_in::warp_barrier(line);
}
inline void store_matrix_sync(float *to, const fragment<accumulator, 16, 16, 16, float> &from, unsigned stride, layout_t layout,
                              int line = __builtin_LINE()) {
    tile::check(to, stride);
    stand_in::warp_barrier(line);
    for (unsigned at = 0, row = tile::row(); at < tile::HALF; at++) {
        unsigned column = tile::first_column() + at;
        (layout == mem_row_major ? to[row * stride + column] : to[column * stride + row]) = from.x[at];
    }
}

template <typename T, typename A, typename B>
void mma_sync(fragment<accumulator, 16, 16, 16, float> &to, const fragment<matrix_a, 16, 16, 16, T, A> &a,
              const fragment<matrix_b, 16, 16, 16, T, B> &b, const fragment<accumulator, 16, 16, 16, float> &c) {
    float sums[tile::HALF];
    for (unsigned at = 0; at < tile::HALF; at++) sums[at] = c.x[at];
    for (unsigned k = 0; k < tile::SIZE; k++)
        for (unsigned at = 0; at < tile::HALF; at++) sums[at] += float(a.x[k]) * float(b.x[k * tile::HALF + at]);
    for (unsigned at = 0; at < tile::HALF; at++) to.x[at] = sums[at];
}
} // namespace nvcuda::wmma
