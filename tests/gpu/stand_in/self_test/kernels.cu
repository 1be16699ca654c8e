// Kernels that the stand-in must run as a GPU does, and such that it must refuse to run.
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <mma.h>
using namespace nvcuda;

template <typename T> __device__ void sum(const T *in, T *out, int n) {
    __shared__ T sums[1024];
    T own = 0;
    for (int i = threadIdx.x; i < n; i += blockDim.x) own += in[blockIdx.x * n + i];
    sums[threadIdx.x] = own;
    for (int half = blockDim.x / 2; half > 0; half >>= 1) {
        __syncthreads();
        if (threadIdx.x < half) sums[threadIdx.x] += sums[threadIdx.x + half];
    }
    if (threadIdx.x == 0) out[blockIdx.x] = sums[0];
}
extern "C" __global__ void sum_f32(const float *in, float *out, int n) { sum(in, out, n); }
extern "C" __global__ void sum_f16(const __half *in, __half *out, int n) { sum(in, out, n); }

// What each lane gets, one exchange a row.
extern "C" __global__ void exchanges(int *out, int lanes) {
    const int own = threadIdx.x;
    int *row = out + own;
    row[0 * lanes] = __shfl_xor_sync(0xffffffff, own, 1);
    row[1 * lanes] = __shfl_xor_sync(0xffffffff, own, 9, 8);
    row[2 * lanes] = __shfl_down_sync(0xffffffff, own, 3);
    row[3 * lanes] = __shfl_down_sync(0xffffffff, own, 3, 16);
    row[4 * lanes] = __shfl_up_sync(0xffffffff, own, 5, 8);
    row[5 * lanes] = __shfl_sync(0xffffffff, own, 35);
    row[6 * lanes] = __shfl_sync(0xffffffff, own, 2, 4);
    row[7 * lanes] = (int)__ballot_sync(0xffffffff, own % 3 == 0);
    row[8 * lanes] = __all_sync(0xffffffff, own < 31) * 2 + __any_sync(0xffffffff, own == 7);
    if (own < 16) row[9 * lanes] = __shfl_xor_sync(0xffff, own, 15);
    double wide = own;
    for (int mask = 16; mask > 0; mask >>= 1) wide += __shfl_xor_sync(0xffffffff, wide, mask);
    row[10 * lanes] = (int)wide;
}

// The threads of two warps pass a number on, in dynamic shared memory.
extern "C" __global__ void rotate(int *values) {
    DYNAMIC_SHARED(memory);
    int *places = reinterpret_cast<int *>(memory);
    for (int round = 0; round < 3; round++) {
        places[(threadIdx.x + 1) % blockDim.x] = values[threadIdx.x];
        __syncthreads();
        values[threadIdx.x] = places[threadIdx.x];
        __syncthreads();
    }
    atomicAdd(values + blockDim.x, 1);
}

template <typename T, typename A, typename B> __device__ void multiply(const T *a, const T *b, float *c) {
    wmma::fragment<wmma::matrix_a, 16, 16, 16, T, A> left;
    wmma::fragment<wmma::matrix_b, 16, 16, 16, T, B> right;
    wmma::fragment<wmma::accumulator, 16, 16, 16, float> sums;
    wmma::load_matrix_sync(sums, c, 16, wmma::mem_row_major);
    wmma::load_matrix_sync(left, a, 16);
    wmma::load_matrix_sync(right, b, 24);
    wmma::mma_sync(sums, left, right, sums);
    for (int i = 0; i < sums.num_elements; i++) sums.x[i] *= 2;
    wmma::store_matrix_sync(c, sums, 16, wmma::mem_col_major);
}
extern "C" __global__ void multiply_rows(const __half *a, const __half *b, float *c) { multiply<__half, wmma::row_major, wmma::row_major>(a, b, c); }
extern "C" __global__ void multiply_columns(const __nv_bfloat16 *a, const __nv_bfloat16 *b, float *c) { multiply<__nv_bfloat16, wmma::col_major, wmma::col_major>(a, b, c); }

// The first block writes what the others only read.
extern "C" __global__ void unwritten(float *out) {
    __shared__ float values[8];
    DYNAMIC_SHARED(memory);
    float *more = reinterpret_cast<float *>(memory);
    if (blockIdx.x == 0) values[threadIdx.x] = more[threadIdx.x] = 1;
    out[blockIdx.x * 8 + threadIdx.x] = values[threadIdx.x] + more[threadIdx.x];
}

// What depends on which thread goes first.
extern "C" __global__ void race(int *out) {
    __shared__ int last;
    last = threadIdx.x;
    __syncthreads();
    if (threadIdx.x == 0) *out = last;
}

extern "C" __global__ void wrong_barrier(int *out) {
    if (threadIdx.x < 3) return;
    __syncthreads();
    *out = 1;
}
extern "C" __global__ void wrong_lines(int *out) {
    if (threadIdx.x < 32) __syncthreads();
    else __syncthreads(), *out = 1;
    if (threadIdx.x < 32)
        __syncthreads();
    else
        __syncthreads();
}
extern "C" __global__ void wrong_mask(int *out) { *out = __shfl_xor_sync(0xfffffffe, 1, 1); }
extern "C" __global__ void wrong_index(int *out, int at) {
    __shared__ int values[8];
    values[at] = 1;
    *out = values[at];
}
extern "C" __global__ void wrong_dynamic(int *out, int at) {
    DYNAMIC_SHARED(memory);
    *out = reinterpret_cast<int *>(memory)[at];
}
extern "C" __global__ void wrong_place(int *out, int at) { out[at] = 1; }
extern "C" __global__ void wrong_tile(const __half *a, float *c) {
    wmma::fragment<wmma::matrix_a, 16, 16, 16, __half, wmma::row_major> left;
    wmma::load_matrix_sync(left, a + 8, 16);
    *c = left.x[0];
}
