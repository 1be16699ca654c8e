/* Stands in for cuBLAS: products of matrices in column-major order, summed in f32 one number of the inner dimension after
 * the other. */
#include "driver.h"
#include "numbers.h"

using namespace stand_in;

namespace {
enum Type { F32 = 0, F16 = 2, BF16 = 14 };
enum { NOT_INITIALIZED = 1, INVALID_ARGUMENT = 7, EXECUTION_FAILED = 13, COMPUTE_F32 = 68 };
constexpr int ROWS = 64, COLUMNS = 4;

struct Operand {
    Pointer first;
    Type type;
    bool transposed;
    long long leading, stride;
};

float load(const void *from, Type type, long long place) {
    switch (type) {
    case F32: return static_cast<const float *>(from)[place];
    case F16: return static_cast<const __half *>(from)[place];
    default: return static_cast<const __nv_bfloat16 *>(from)[place];
    }
}
void store(void *to, Type type, long long place, float value) {
    switch (type) {
    case F32: static_cast<float *>(to)[place] = value; break;
    case F16: static_cast<__half *>(to)[place] = value; break;
    default: static_cast<__nv_bfloat16 *>(to)[place] = value;
    }
}
long long size_of(Type type) { return type == F32 ? 4 : 2; }

/* One matrix in f32; what it is multiplied over lies in rows of `across` numbers. */
void pack(std::vector<float> &to, const Operand &of, int batch, int across, int inner, bool inner_first) {
    auto from = reinterpret_cast<const char *>(of.first) + batch * of.stride * size_of(of.type);
    for (int k = 0; k < inner; k++)
        for (int place = 0; place < across; place++)
            to[static_cast<size_t>(k) * across + place] =
                load(from, of.type, inner_first ? place * of.leading + k : k * of.leading + place);
}

__attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
void multiply_tile(float *__restrict sums, const float *__restrict a, const float *__restrict b, int rows, int columns, int m, int n, int k) {
    if (rows == ROWS && columns == COLUMNS) {
        float tile[COLUMNS][ROWS] = {};
        for (int inner = 0; inner < k; inner++)
            for (int column = 0; column < COLUMNS; column++) {
                float factor = b[static_cast<size_t>(inner) * n + column];
                for (int row = 0; row < ROWS; row++) tile[column][row] += a[static_cast<size_t>(inner) * m + row] * factor;
            }
        memcpy(sums, tile, sizeof tile);
        return;
    }
    memset(sums, 0, sizeof(float) * ROWS * COLUMNS);
    for (int inner = 0; inner < k; inner++)
        for (int column = 0; column < columns; column++) {
            float factor = b[static_cast<size_t>(inner) * n + column];
            for (int row = 0; row < rows; row++) sums[column * ROWS + row] += a[static_cast<size_t>(inner) * m + row] * factor;
        }
}

struct Product {
    int m, n, k, count;
    float alpha, beta;
    Operand a, b, c;

    void compute() const {
        std::vector<float> left(static_cast<size_t>(m) * k), right(static_cast<size_t>(n) * k);
        float sums[ROWS * COLUMNS];
        for (int batch = 0; batch < count; batch++) {
            /* Without a stride it is the same matrix for all. */
            if (!batch || a.stride) pack(left, a, batch, m, k, a.transposed);
            if (!batch || b.stride) pack(right, b, batch, n, k, !b.transposed);
            auto to = reinterpret_cast<char *>(c.first) + batch * c.stride * size_of(c.type);
            for (int column = 0; column < n; column += COLUMNS)
                for (int row = 0; row < m; row += ROWS) {
                    int rows = std::min(ROWS, m - row), columns = std::min(COLUMNS, n - column);
                    multiply_tile(sums, &left[row], &right[column], rows, columns, m, n, k);
                    for (int j = 0; j < columns; j++)
                        for (int i = 0; i < rows; i++) {
                            long long place = (column + j) * c.leading + row + i;
                            float before = beta == 0 ? 0 : beta * load(to, c.type, place);
                            store(to, c.type, place, alpha * sums[j * ROWS + i] + before);
                        }
                }
        }
    }
};

Stream *stream_of[MOST_DEVICES];

/* What the operands take must lie in memory of the device. */
bool consistent(Device &device, const Operand &of, int rows, int columns, int count) {
    if (of.leading < rows) return false;
    if (of.type != F32 && of.type != F16 && of.type != BF16) wrong("a product of type %d", of.type);
    long long extent = (count - 1) * of.stride + (columns - 1) * of.leading + rows;
    demand(device, of.first, static_cast<size_t>(extent * size_of(of.type)), "cublasGemmStridedBatchedEx");
    return true;
}
} // namespace

extern "C" {
Result cublasCreate_v2(Stream ***handle) {
    if (!current) return NOT_INITIALIZED;
    *handle = &stream_of[current->number];
    return SUCCESS;
}
Result cublasDestroy_v2(Stream **) { return SUCCESS; }
Result cublasSetStream_v2(Stream **handle, Stream *stream) { *handle = stream; return SUCCESS; }

Result cublasGemmStridedBatchedEx(Stream **handle, int ta, int tb, int m, int n, int k, const float *alpha, Pointer a, int at,
                                  int lda, long long sa, Pointer b, int bt, int ldb, long long sb, const float *beta,
                                  Pointer c, int ct, int ldc, long long sc, int count, int compute, int) {
    std::lock_guard<std::recursive_mutex> locked(lock);
    Device &device = on(*handle, __func__);
    if (compute != COMPUTE_F32) wrong("%s: sums of type %d", __func__, compute);
    if (m < 1 || n < 1 || k < 1 || count < 1) return INVALID_ARGUMENT;
    Result failed = counted(device, PRODUCT);
    if (fails_later(**handle, failed)) return SUCCESS;
    if (failed) return device.failure ? EXECUTION_FAILED : failed;
    Product product = {m, n, k, count, *alpha, *beta, {a, Type(at), ta != 0, lda, sa}, {b, Type(bt), tb != 0, ldb, sb}, {c, Type(ct), false, ldc, sc}};
    if (!consistent(device, product.a, ta ? k : m, ta ? m : k, count) ||
        !consistent(device, product.b, tb ? n : k, tb ? k : n, count) || !consistent(device, product.c, m, n, count))
        return INVALID_ARGUMENT;
    (*handle)->add([product] { product.compute(); });
    return SUCCESS;
}
}
