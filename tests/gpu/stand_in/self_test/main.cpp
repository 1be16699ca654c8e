/* Whether the stand-in does what a GPU does, and ends the program where it must: without an argument everything that must
 * be right, with the name of a case one that must end the program. run.sh does all of it. */
#include "../driver.h"
#include "../numbers.h"

using namespace stand_in;
extern "C" {
Result cuCtxSetCurrent(void *);
Result cuStreamCreate(Stream **, unsigned);
Result cuStreamSynchronize(Stream *);
Result cuMemAllocAsync(Pointer *, size_t, Stream *);
Result cuMemFreeAsync(Pointer, Stream *);
Result cuMemcpyHtoDAsync_v2(Pointer, const void *, size_t, Stream *);
Result cuMemcpyDtoHAsync_v2(void *, Pointer, size_t, Stream *);
Result cuMemHostAlloc(void **, size_t, unsigned);
Result cuModuleLoadData(void **, const char *);
Result cuModuleGetFunction(void **, void *, const char *);
Result cuFuncSetAttribute(void *, int, int);
Result cuLaunchKernel(void *, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, Stream *, void **, void **);
Result cublasCreate_v2(Stream ***);
Result cublasSetStream_v2(Stream **, Stream *);
Result cublasGemmStridedBatchedEx(Stream **, int, int, int, int, int, const float *, Pointer, int, int, long long, Pointer, int, int,
                                  long long, const float *, Pointer, int, int, long long, int, int, int);
}

namespace {
Stream *stream;
int faults;

#define CHECK(holds) \
    do { if (!(holds)) { fprintf(stderr, "line %d: not %s\n", __LINE__, #holds); faults++; } } while (0)

/* Numbers on the device. */
template <typename T> struct Numbers {
    Pointer at = 0;
    size_t count;
    explicit Numbers(size_t count) : count(count) { CHECK(!cuMemAllocAsync(&at, count * sizeof(T), stream)); }
    explicit Numbers(const std::vector<T> &values) : Numbers(values.size()) {
        CHECK(!cuMemcpyHtoDAsync_v2(at, values.data(), count * sizeof(T), stream));
    }
    ~Numbers() { cuMemFreeAsync(at, stream); }
    std::vector<T> get() const {
        std::vector<T> values(count);
        CHECK(!cuMemcpyDtoHAsync_v2(values.data(), at, count * sizeof(T), stream));
        return values;
    }
};

void *function(const char *name) {
    void *module, *function = nullptr;
    cuModuleLoadData(&module, "// stand-in for the kernels of kernels\n");
    if (cuModuleGetFunction(&function, module, name)) wrong("there is no %s", name);
    return function;
}
template <typename... A> Result run(const char *name, unsigned blocks, unsigned threads, unsigned shared, A... arguments) {
    void *parameters[] = {&arguments...};
    return cuLaunchKernel(function(name), blocks, 1, 1, threads, 1, 1, shared, stream, parameters, nullptr);
}

void check_numbers() {
    for (unsigned digits = 0; digits < 65536; digits++) {
        auto half = __half::of(static_cast<unsigned short>(digits));
        auto bf16 = __nv_bfloat16::of(static_cast<unsigned short>(digits));
        if (!__hisnan(half)) CHECK(__half(float(half)).__x == digits && __half(double(float(half))).__x == digits);
        if (!__hisnan(bf16)) CHECK(__nv_bfloat16(float(bf16)).__x == digits && __nv_bfloat16(double(float(bf16))).__x == digits);
    }
    CHECK(float(__half(65519.f)) == 65504 && std::isinf(float(__half(65520.f))));
    /* Half way between two numbers, and a little more: in f32 that little is lost. */
    CHECK(float(__half(1 + 0x1p-11)) == 1 && float(__half(1 + 0x1p-11 + 0x1p-40)) == 1 + 0x1p-10f);
    CHECK(float(__half(1 + 0x1p-10 + 0x1p-11 - 0x1p-40)) == 1 + 0x1p-10f);
    CHECK(float(__nv_bfloat16(1 + 0x1p-8)) == 1 && float(__nv_bfloat16(1 + 0x1p-8 + 0x1p-40)) == 1 + 0x1p-7f);
    CHECK(float(__half(2049.f) + __half(0.f)) == 2048 && float(__hfma(__half(3.f), __half(5.f), __half(7.f))) == 22);
    CHECK(std::isnan(float(__nv_bfloat16(NAN))) && std::isnan(float(__half(NAN))));
    __half product = 3.f;
    product *= 0.1f;
    CHECK(product == __half(3.f) * __half(0.1f) && -product < __half(0.f) && max(3u, 5) == 5 && min(size_t{7}, 4u) == 4);
}

void check_kernels() {
    std::vector<float> values(4 * 1000);
    for (size_t i = 0; i < values.size(); i++) values[i] = static_cast<float>(i % 7);
    Numbers<float> in(values), sums(4);
    CHECK(!run("sum_f32", 4, 1024, 0, in.at, sums.at, 1000) && sums.get()[0] == 2997);
    std::vector<__half> halves(100, __half(3.f));
    Numbers<__half> half_in(halves), half_sum(1);
    CHECK(!run("sum_f16", 1, 64, 0, half_in.at, half_sum.at, 100) && half_sum.get()[0] == __half(300.f));

    Numbers<int> exchanged(11 * 32);
    CHECK(!run("exchanges", 1, 32, 0, exchanged.at, 32));
    auto rows = exchanged.get();
    for (int own = 0; own < 32; own++) {
        auto row = [&](int number) { return rows[static_cast<size_t>(number * 32 + own)]; };
        int first = own & ~7;
        CHECK(row(0) == (own ^ 1));
        /* Beyond the own segment a lane keeps what it has; segments before it can be read. */
        CHECK(row(1) == ((own ^ 9) <= (own | 7) ? own ^ 9 : own));
        CHECK(row(2) == (own + 3 < 32 ? own + 3 : own) && row(3) == (own % 16 + 3 < 16 ? own + 3 : own));
        CHECK(row(4) == (own - 5 >= first ? own - 5 : own) && row(5) == 3 && row(6) == (own & ~3) + 2);
        CHECK(row(7) == 0x49249249 && row(8) == 1 && row(10) == 496);
        if (own < 16) CHECK(row(9) == 15 - own);
    }

    std::vector<int> order(65);
    for (int i = 0; i < 64; i++) order[static_cast<size_t>(i)] = i;
    Numbers<int> rotated(order);
    CHECK(!run("rotate", 1, 64, 64 * sizeof(int), rotated.at) && rotated.get()[3] == 0 && rotated.get()[0] == 61);
    CHECK(rotated.get()[64] == 64);

    std::vector<__half> a(256), b(16 * 24);
    std::vector<__nv_bfloat16> other_a(256), other_b(16 * 24);
    for (size_t i = 0; i < a.size(); i++) a[i] = static_cast<float>(i % 5), other_a[i] = static_cast<float>(i % 5);
    for (size_t i = 0; i < b.size(); i++) b[i] = static_cast<float>(i % 11), other_b[i] = static_cast<float>(i % 11);
    Numbers<__half> left(a), right(b);
    Numbers<__nv_bfloat16> other_left(other_a), other_right(other_b);
    Numbers<float> by_rows(std::vector<float>(256, 1)), by_columns(std::vector<float>(256, 1));
    CHECK(!run("multiply_rows", 1, 32, 0, left.at, right.at, by_rows.at));
    CHECK(!run("multiply_columns", 1, 32, 0, other_left.at, other_right.at, by_columns.at));
    for (size_t row = 0; row < 16; row++)
        for (size_t column = 0; column < 16; column++) {
            float one = 1, other = 1;
            for (size_t k = 0; k < 16; k++) {
                one += float(a[row * 16 + k]) * float(b[k * 24 + column]);
                other += float(a[k * 16 + row]) * float(b[column * 24 + k]);
            }
            CHECK(by_rows.get()[column * 16 + row] == 2 * one && by_columns.get()[column * 16 + row] == 2 * other);
        }

    Numbers<float> unwritten(24);
    CHECK(!run("unwritten", 3, 8, 32, unwritten.at));
    CHECK(unwritten.get()[0] == 2 && std::isnan(unwritten.get()[8]) && std::isnan(unwritten.get()[23]));
    Numbers<int> last(1);
    const char *from_last = getenv("CUDA_STAND_IN_ORDER");
    CHECK(!run("race", 1, 64, 0, last.at) && last.get()[0] == (from_last ? 0 : 63));
}

void check_driver() {
    CHECK(std::isnan(Numbers<float>(7).get()[6]));
    void *module, *found;
    cuModuleLoadData(&module, "// stand-in for the kernels of others\n");
    CHECK(cuModuleGetFunction(&found, module, "sum_f32") == NOT_FOUND);
    CHECK(cuModuleGetFunction(&found, module, "nothing") == NOT_FOUND);
    Numbers<int> values(std::vector<int>(2000, 5));
    CHECK(run("rotate", 1, 1025, 0, values.at) == INVALID_VALUE && run("rotate", 0, 1, 0, values.at) == INVALID_VALUE);
    CHECK(run("rotate", 1, 64, 50000, values.at) == INVALID_VALUE);
    CHECK(!cuFuncSetAttribute(function("rotate"), 8, 50000) && !run("rotate", 1, 64, 50000, values.at));
    /* Nothing is there before somebody waits. */
    void *pinned;
    CHECK(!cuMemHostAlloc(&pinned, 4, 0) && !cuMemcpyDtoHAsync_v2(pinned, values.at, 4, stream));
    CHECK(*static_cast<int *>(pinned) == -1 && !cuStreamSynchronize(stream) && *static_cast<int *>(pinned) == 5);
}

template <typename T> void check_products(int type, float tolerance) {
    constexpr int M = 70, N = 9, K = 13, COUNT = 2, LEADING = 80;
    std::vector<T> a(LEADING * LEADING * COUNT), b(a), c(a);
    for (size_t i = 0; i < a.size(); i++) {
        a[i] = static_cast<float>(static_cast<int>(i * 7 % 23) - 11) / 8;
        b[i] = static_cast<float>(static_cast<int>(i * 5 % 19) - 9) / 8;
        c[i] = static_cast<float>(i % 3);
    }
    Stream **handle;
    CHECK(!cublasCreate_v2(&handle) && !cublasSetStream_v2(handle, stream));
    for (int ta : {0, 1})
        for (int tb : {0, 1})
            for (float beta : {0.f, 0.5f}) {
                Numbers<T> left(a), right(b), out(c);
                float alpha = 2;
                CHECK(!cublasGemmStridedBatchedEx(handle, ta, tb, M, N, K, &alpha, left.at, type, LEADING, LEADING * LEADING, right.at, type,
                                                  LEADING, 0, &beta, out.at, type, LEADING, LEADING * LEADING, COUNT, 68, 99));
                auto found = out.get();
                auto at = [](const std::vector<T> &of, int batch, int row, int column) {
                    return float(of[static_cast<size_t>((batch * LEADING + column) * LEADING + row)]);
                };
                for (int batch = 0; batch < COUNT; batch++)
                    for (int row = 0; row < LEADING; row++)
                        for (int column = 0; column < LEADING; column++) {
                            float expected = at(c, batch, row, column);
                            if (row < M && column < N) {
                                double sum = 0;
                                for (int k = 0; k < K; k++)
                                    sum += double(ta ? at(a, batch, k, row) : at(a, batch, row, k)) * (tb ? at(b, 0, column, k) : at(b, 0, k, column));
                                expected = static_cast<float>(2 * sum + beta * expected);
                            }
                            CHECK(std::fabs(at(found, batch, row, column) - expected) <= tolerance * std::fabs(expected) + 1e-5f);
                        }
            }
}

void must_end(const char *name) {
    Numbers<int> out(16);
    std::string kernel = std::string("wrong_") + name;
    if (kernel == "wrong_barrier" || kernel == "wrong_mask") run(kernel.c_str(), 1, 32, 0, out.at);
    else if (kernel == "wrong_lines") run(kernel.c_str(), 1, 64, 0, out.at);
    else if (kernel == "wrong_index") run(kernel.c_str(), 1, 1, 0, out.at, 8);
    else if (kernel == "wrong_dynamic") run(kernel.c_str(), 1, 1, 256, out.at, 64);
    else if (kernel == "wrong_place") run(kernel.c_str(), 1, 1, 0, out.at, 16);
    else if (kernel == "wrong_tile") run(kernel.c_str(), 1, 32, 0, Numbers<__half>(256).at, out.at);
    else if (kernel == "wrong_beside") {
        Numbers<int> odd(3);
        run("wrong_place", 1, 1, 0, odd.at, 3);
    } else if (kernel == "wrong_freed") {
        Pointer freed = Numbers<int>(16).at;
        cuStreamSynchronize(stream);
        run("wrong_place", 1, 1, 0, freed, 0);
    } else if (kernel == "wrong_copy") cuMemcpyHtoDAsync_v2(out.at, faults ? nullptr : &faults, 65, stream);
    else if (kernel == "wrong_twice") cuMemFreeAsync(out.at, stream), cuMemFreeAsync(out.at, stream);
    else if (kernel == "wrong_context") cuCtxSetCurrent(nullptr), cuStreamSynchronize(stream);
    cuStreamSynchronize(stream);
}
} // namespace

int main(int count, char **arguments) {
    cuCtxSetCurrent(&devices[0]);
    cuStreamCreate(&stream, 0);
    if (count > 1) {
        must_end(arguments[1]);
        return 0;
    }
    check_numbers();
    check_kernels();
    check_driver();
    check_products<float>(0, 1e-6f);
    check_products<__half>(2, 0x1p-11f);
    check_products<__nv_bfloat16>(14, 0x1p-8f);
    CHECK(!cuStreamSynchronize(stream));
    return faults ? 1 : 0;
}
