/* Stands in for the CUDA driver, cuBLAS and cuRAND (libcuda.so.1, libcublas.so.13, libcurand.so.10), so that the way to a
 * GPU is walked where there is none: devices found by their UUIDs, contexts, threads, streams, memory and its pool,
 * modules, launches. Memory is the host's. Nothing is computed: a kernel leaves its output as it was, which is the same
 * small number everywhere, so that vectors are worth nothing and yet no row fails.
 *
 * It is stricter than a driver: what is done on a stream must be done by a thread whose current context is the stream's,
 * memory is given back once, copies stay inside of it, and a device is released with nothing left on it. Who does
 * otherwise is told of on standard error, and the program ends with a signal.
 *
 *     CUDA_STAND_IN_DEVICES     how many devices there are (1); UUIDs are 32 times their number in hexadecimal
 *     CUDA_STAND_IN_MIB         memory of each (1024)
 *     CUDA_STAND_IN_REPORT      a file for what was done: one line for each device when the process ends
 *
 * Signatures and codes are those of cuda.h, cublas_v2.h and curand.h. */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { SUCCESS = 0, INVALID_VALUE = 1, OUT_OF_MEMORY = 2, INVALID_DEVICE = 101, INVALID_CONTEXT = 201 };
enum { MOST_DEVICES = 8, FILLING = 0x3c };
enum { CAPABILITY_MAJOR = 75, CAPABILITY_MINOR = 76, MEMORY_POOLS = 115 };
enum { THRESHOLD = 4, RESERVED = 5, RESERVED_HIGH = 6, USED = 7, USED_HIGH = 8 };

typedef int Result;
typedef unsigned long long Pointer;
typedef struct Block { struct Block *next; size_t size; char bytes[]; } Block;
typedef struct {
    Block *blocks;
    size_t used, used_high, reserved, reserved_high;
    unsigned long long threshold;
    long launches, products, allocations, waits, refused;
} Device;
typedef struct { Device *device; } Stream;

static Device devices[MOST_DEVICES];
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static __thread Device *current;

static long setting(const char *name, long otherwise) {
    const char *text = getenv(name);
    return text ? atol(text) : otherwise;
}

static int device_count(void) { return (int)setting("CUDA_STAND_IN_DEVICES", 1); }

static void wrong(const char *call, const char *what) {
    fprintf(stderr, "CUDA stand-in: %s: %s\n", call, what);
    abort();
}

/* The device of a stream, on which the calling thread may work. */
static Device *on(Stream *stream, const char *call) {
    if (!stream || (void *)stream == (void *)2) wrong(call, "the default stream orders nothing between threads");
    if (current != stream->device) wrong(call, "the thread has another context, or none");
    return stream->device;
}

static Block *block_of(Device *device, Pointer pointer, size_t size) {
    Block *found = 0;
    pthread_mutex_lock(&lock);
    for (Block *block = device->blocks; block && !found; block = block->next) {
        Pointer first = (Pointer)block->bytes;
        if (pointer >= first && pointer + size <= first + block->size) found = block;
    }
    pthread_mutex_unlock(&lock);
    return found;
}

Result cuInit(unsigned flags) { (void)flags; return SUCCESS; }
Result cuDriverGetVersion(int *version) { *version = 13000; return SUCCESS; }
Result cuDeviceGetCount(int *count) { *count = device_count(); return SUCCESS; }

Result cuDeviceGet(int *device, int number) {
    if (number < 0 || number >= device_count()) return INVALID_DEVICE;
    *device = number;
    return SUCCESS;
}

Result cuDeviceGetUuid_v2(unsigned char *uuid, int device) {
    memset(uuid, device * 17, 16);
    return SUCCESS;
}

Result cuDeviceGetAttribute(int *value, int attribute, int device) {
    (void)device;
    *value = attribute == CAPABILITY_MAJOR ? 8 : attribute == CAPABILITY_MINOR ? 0 : 1;
    return SUCCESS;
}

Result cuDevicePrimaryCtxRetain(void **context, int device) { *context = &devices[device]; return SUCCESS; }
Result cuCtxGetCurrent(void **context) { *context = current; return SUCCESS; }
Result cuCtxSetCurrent(void *context) { current = context; return SUCCESS; }
Result cuCtxSynchronize(void) { return current ? SUCCESS : INVALID_CONTEXT; }

Result cuDevicePrimaryCtxRelease_v2(int device) {
    if (devices[device].blocks) wrong(__func__, "memory is left on the device");
    return SUCCESS;
}

Result cuStreamCreate(Stream **stream, unsigned flags) {
    (void)flags;
    if (!current) return INVALID_CONTEXT;
    *stream = malloc(sizeof **stream);
    (*stream)->device = current;
    return SUCCESS;
}

Result cuStreamDestroy_v2(Stream *stream) { free(stream); return SUCCESS; }
Result cuStreamSynchronize(Stream *stream) { on(stream, __func__)->waits++; return SUCCESS; }
Result cuStreamIsCapturing(Stream *stream, int *capturing) { (void)stream; *capturing = 0; return SUCCESS; }
Result cuEventCreate(void **event, unsigned flags) { (void)event, (void)flags; wrong(__func__, "one stream needs none"); return SUCCESS; }

Result cuMemAllocAsync(Pointer *pointer, size_t size, Stream *stream) {
    Device *device = on(stream, __func__);
    if (size == 0) return INVALID_VALUE;
    pthread_mutex_lock(&lock);
    size_t limit = (size_t)setting("CUDA_STAND_IN_MIB", 1024) << 20;
    Block *block = device->used + size <= limit ? malloc(sizeof *block + size) : 0;
    if (block) {
        *block = (Block){device->blocks, size};
        memset(block->bytes, FILLING, size);
        device->blocks = block;
        device->allocations++;
        device->used += size;
        if (device->used > device->used_high) device->used_high = device->used;
        if (device->used > device->reserved) device->reserved = device->used;
        if (device->reserved > device->reserved_high) device->reserved_high = device->reserved;
        *pointer = (Pointer)block->bytes;
    } else {
        device->refused++;
    }
    pthread_mutex_unlock(&lock);
    return block ? SUCCESS : OUT_OF_MEMORY;
}

Result cuMemFreeAsync(Pointer pointer, Stream *stream) {
    Device *device = stream->device;
    pthread_mutex_lock(&lock);
    Block **place = &device->blocks;
    while (*place && (Pointer)(*place)->bytes != pointer) place = &(*place)->next;
    Block *block = *place;
    if (!block) wrong(__func__, "this is no memory of the device, or no more");
    *place = block->next;
    device->used -= block->size;
    free(block);
    pthread_mutex_unlock(&lock);
    return SUCCESS;
}

Result cuMemcpyHtoDAsync_v2(Pointer to, const void *from, size_t size, Stream *stream) {
    if (!block_of(on(stream, __func__), to, size)) wrong(__func__, "beyond the memory of the device");
    memcpy((void *)to, from, size);
    return SUCCESS;
}

Result cuMemcpyDtoHAsync_v2(void *to, Pointer from, size_t size, Stream *stream) {
    if (!block_of(on(stream, __func__), from, size)) wrong(__func__, "beyond the memory of the device");
    memcpy(to, (void *)from, size);
    return SUCCESS;
}

Result cuMemcpyDtoDAsync_v2(Pointer to, Pointer from, size_t size, Stream *stream) {
    Device *device = on(stream, __func__);
    if (!block_of(device, to, size) || !block_of(device, from, size)) wrong(__func__, "beyond the memory of the device");
    memmove((void *)to, (void *)from, size);
    return SUCCESS;
}

Result cuMemsetD8Async(Pointer to, unsigned char value, size_t size, Stream *stream) {
    if (!block_of(on(stream, __func__), to, size)) wrong(__func__, "beyond the memory of the device");
    memset((void *)to, value, size);
    return SUCCESS;
}

Result cuDeviceGetDefaultMemPool(void **pool, int device) { *pool = &devices[device]; return SUCCESS; }

Result cuMemPoolTrimTo(Device *pool, size_t least) {
    pool->reserved = pool->used > least ? pool->used : least;
    return SUCCESS;
}

Result cuMemPoolGetAttribute(Device *pool, int attribute, unsigned long long *value) {
    switch (attribute) {
    case THRESHOLD: *value = pool->threshold; return SUCCESS;
    case RESERVED: *value = pool->reserved; return SUCCESS;
    case RESERVED_HIGH: *value = pool->reserved_high; return SUCCESS;
    case USED: *value = pool->used; return SUCCESS;
    case USED_HIGH: *value = pool->used_high; return SUCCESS;
    default: return INVALID_VALUE;
    }
}

Result cuMemPoolSetAttribute(Device *pool, int attribute, const unsigned long long *value) {
    if (attribute == THRESHOLD) pool->threshold = *value;
    else if (attribute == USED_HIGH && *value == 0) pool->used_high = pool->used;
    else if (attribute == RESERVED_HIGH && *value == 0) pool->reserved_high = pool->reserved;
    else return INVALID_VALUE;
    return SUCCESS;
}

Result cuModuleLoadData(void **module, const void *image) { (void)image; *module = devices; return current ? SUCCESS : INVALID_CONTEXT; }
Result cuModuleUnload(void *module) { (void)module; return SUCCESS; }
Result cuModuleGetFunction(void **function, void *module, const char *name) { *function = strdup(name); (void)module; return SUCCESS; }

/* Launches without threads are refused by a driver as well. */
Result cuLaunchKernel(void *function, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz,
                      unsigned shared, Stream *stream, void **parameters, void **extra) {
    Device *device = on(stream, __func__);
    (void)function, (void)shared, (void)extra;
    if (!gx || !gy || !gz || !bx || !by || !bz || bx * by * bz > 1024 || !parameters) return INVALID_VALUE;
    device->launches++;
    return SUCCESS;
}

Result cuGetErrorName(int code, const char **text) { (void)code; *text = "CUDA_ERROR_STAND_IN"; return SUCCESS; }
Result cuGetErrorString(int code, const char **text) {
    *text = code == OUT_OF_MEMORY ? "out of memory" : "what the stand-in says";
    return SUCCESS;
}

static Stream *blas_stream[MOST_DEVICES];

Result cublasCreate_v2(Stream ***handle) {
    if (!current) return 1;
    *handle = &blas_stream[current - devices];
    return SUCCESS;
}
Result cublasDestroy_v2(Stream **handle) { (void)handle; return SUCCESS; }
Result cublasSetStream_v2(Stream **handle, Stream *stream) { *handle = stream; return SUCCESS; }

/* What the operands take in memory must lie in it. Types by their code: 0 is f32, 2 f16, 14 bf16. */
static void operand(Device *device, Pointer at, int type, long long rows, long long columns, long long leading, long long stride, int count) {
    long long size = type == 0 ? 4 : type == 2 || type == 14 ? 2 : 0;
    if (!size) wrong("cublasGemmStridedBatchedEx", "a type that is not expected");
    if (leading < rows) wrong("cublasGemmStridedBatchedEx", "columns overlap");
    long long extent = (count - 1) * stride + (columns - 1) * leading + rows;
    if (!block_of(device, at, (size_t)(extent * size))) wrong("cublasGemmStridedBatchedEx", "beyond the memory of the device");
}

Result cublasGemmStridedBatchedEx(Stream **handle, int ta, int tb, int m, int n, int k, const void *alpha, Pointer a, int at,
                                  int lda, long long sa, Pointer b, int bt, int ldb, long long sb, const void *beta,
                                  Pointer c, int ct, int ldc, long long sc, int count, int compute, int algorithm) {
    Device *device = on(*handle, __func__);
    (void)alpha, (void)beta, (void)compute, (void)algorithm;
    if (m < 1 || n < 1 || k < 1 || count < 1) return 7;
    operand(device, a, at, ta ? k : m, ta ? m : k, lda, sa, count);
    operand(device, b, bt, tb ? n : k, tb ? k : n, ldb, sb, count);
    operand(device, c, ct, m, n, ldc, sc, count);
    device->products++;
    return SUCCESS;
}

Result curandCreateGenerator(void **generator, int type) { (void)type; *generator = devices; return SUCCESS; }
Result curandDestroyGenerator(void *generator) { (void)generator; return SUCCESS; }
Result curandSetPseudoRandomGeneratorSeed(void *generator, unsigned long long seed) { (void)generator, (void)seed; return SUCCESS; }
Result curandSetStream(void *generator, Stream *stream) { (void)generator, (void)stream; return SUCCESS; }

__attribute__((destructor)) static void report(void) {
    const char *path = getenv("CUDA_STAND_IN_REPORT");
    FILE *file = path ? fopen(path, "a") : 0;
    for (int number = 0; file && number < device_count(); number++) {
        Device *device = &devices[number];
        fprintf(file, "device %d: %ld kernels, %ld products, %ld allocations, %ld refused, %ld waits, %zu bytes at most, %zu left, threshold %s\n",
                number, device->launches, device->products, device->allocations, device->refused, device->waits,
                device->reserved_high, device->used, device->threshold == ~0ull ? "none" : "set");
    }
    if (file) fclose(file);
}
