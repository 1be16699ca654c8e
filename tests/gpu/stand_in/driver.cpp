/* Stands in for the CUDA driver, cuBLAS and cuRAND (libcuda.so.1, libcublas.so.13, libcurand.so.10), so that everything that
 * is done on a GPU is done where there is none: devices found by their UUIDs, contexts, streams, memory and its pool
 * (memory.cpp), modules and launches (device.cpp runs the kernels that are linked to it), matrix products (products.cpp).
 *
 * It is stricter than a driver: what is done on a stream must be done by a thread whose current context is the stream's,
 * memory is given back once, nothing reaches beyond it, and a device is released with nothing left on it. Who does
 * otherwise is told of on standard error, and the program ends with a signal.
 *
 *     CUDA_STAND_IN_DEVICES     how many devices there are (1); UUIDs are 32 times their number in hexadecimal
 *     CUDA_STAND_IN_CAPABILITY  what they compute (80)
 *     CUDA_STAND_IN_MIB         memory of each (1024)
 *     CUDA_STAND_IN_FAIL        calls that fail, as PLACE:NUMBER:CODE,…: a place of launch, allocation, free, wait, copy,
 *                               product, on one device where its number follows as in launch@1; which call on a device
 *                               it is, 7, 7-9 or 7- for all that follow; the code of the driver or of cuBLAS. From 700 on
 *                               a code is that of a kernel: the call itself succeeds, and whoever waits is told, as is
 *                               everybody after that
 *     CUDA_STAND_IN_ORDER       last: threads of a block take their turns from the last one to the first
 *     CUDA_STAND_IN_REPORT      a file for what was done: one line for each device when the process ends
 *
 * Signatures and codes are those of cuda.h, cublas_v2.h and curand.h. */
#include "driver.h"
#include <climits>
#include <string>

namespace stand_in {
std::recursive_mutex lock;
Device *const devices = [] {
    auto all = new Device[MOST_DEVICES]{};
    for (int number = 0; number < MOST_DEVICES; number++) all[number].number = number;
    return all;
}();
thread_local Device *current;

namespace {
constexpr int MOST_SHARED_UNASKED = 48 << 10, MOST_SHARED_ASKED = 163 << 10, MULTIPROCESSORS = 108;
enum Attribute { SHARED_OF_BLOCK = 8, WARP = 10, PROCESSORS = 16, MAJOR = 75, MINOR = 76, SHARED_OPT_IN = 97, MEMORY_POOLS = 115 };
enum FunctionAttribute { MOST_THREADS = 0, STATIC_SHARED = 1, DYNAMIC_SHARED = 8, CARVEOUT = 9 };
/* More than this is not left undone. */
constexpr size_t MOST_WORK = 4096, MOST_FREED_LATER = 256 << 20;

struct Module { std::string name; };
struct Function {
    Kernel *kernel;
    unsigned dynamic_shared = MOST_SHARED_UNASKED;
};

struct Failure {
    Place place;
    /* All of them if it is less than 0. */
    int device;
    long first, last;
    Result code;
};

const std::vector<Failure> &failures() {
    static const std::vector<Failure> all = [] {
        const char *names[PLACES] = {"launch", "allocation", "free", "wait", "copy", "product"};
        std::vector<Failure> all;
        const char *text = getenv("CUDA_STAND_IN_FAIL");
        std::string rest = text ? text : "";
        while (!rest.empty()) {
            std::string one = rest.substr(0, rest.find(','));
            rest = one.size() == rest.size() ? "" : rest.substr(one.size() + 1);
            Failure failure = {};
            size_t place = 0, name_end = one.find(':'), code = one.rfind(':');
            std::string name = one.substr(0, name_end);
            size_t at = name.find('@');
            failure.device = at == std::string::npos ? -1 : atoi(name.c_str() + at + 1);
            while (place < PLACES && name.substr(0, at) != names[place]) place++;
            if (place == PLACES || code == name_end) wrong("CUDA_STAND_IN_FAIL has %s", one.c_str());
            std::string which = one.substr(name_end + 1, code - name_end - 1);
            size_t dash = which.find('-');
            failure.place = static_cast<Place>(place);
            failure.first = failure.last = atol(which.c_str());
            if (dash != std::string::npos) failure.last = dash + 1 < which.size() ? atol(which.c_str() + dash + 1) : LONG_MAX;
            failure.code = atoi(one.c_str() + code + 1);
            if (failure.first < 1 || !failure.code) wrong("CUDA_STAND_IN_FAIL has %s", one.c_str());
            all.push_back(failure);
        }
        return all;
    }();
    return all;
}
} // namespace

long setting(const char *name, long otherwise) {
    const char *text = getenv(name);
    return text ? atol(text) : otherwise;
}

int device_count() { return static_cast<int>(setting("CUDA_STAND_IN_DEVICES", 1)); }

Device &on(Stream *stream, const char *call) {
    if (!stream || reinterpret_cast<uintptr_t>(stream) <= 2) wrong("%s: the default stream orders nothing between threads", call);
    if (current != stream->device) wrong("%s: the thread has another context, or none", call);
    return *stream->device;
}

Result counted(Device &device, Place place) {
    long number = ++device.calls[place];
    if (device.failure) return device.failure;
    for (const Failure &failure : failures())
        if (failure.place == place && (failure.device < 0 || failure.device == device.number) && number >= failure.first && number <= failure.last) return failure.code;
    return SUCCESS;
}

bool fails_later(Stream &stream, Result failed) {
    Device *device = stream.device;
    if (failed < ILLEGAL_ADDRESS || device->failure) return false;
    stream.add([device, failed] { device->failure = failed; });
    return true;
}

void Stream::add(std::function<void()> part) {
    work.push_back(std::move(part));
    added++;
    if (work.size() > MOST_WORK || device->freed_later > MOST_FREED_LATER) finish();
}

Result Stream::finish(size_t parts) {
    while (!work.empty() && done < parts) {
        auto part = std::move(work.front());
        work.pop_front();
        done++;
        if (!device->failure) part();
    }
    return device->failure;
}
} // namespace stand_in

using namespace stand_in;
#define LOCKED std::lock_guard<std::recursive_mutex> locked(lock)

extern "C" {
Result cuInit(unsigned) { return SUCCESS; }
Result cuDriverGetVersion(int *version) { *version = 13000; return SUCCESS; }
Result cuDeviceGetCount(int *count) { *count = device_count(); return SUCCESS; }

Result cuDeviceGet(int *device, int number) {
    if (number < 0 || number >= device_count()) return INVALID_DEVICE;
    *device = number;
    return SUCCESS;
}

Result cuDeviceGetUuid_v2(unsigned char *uuid, int device) { memset(uuid, device * 17, 16); return SUCCESS; }

Result cuDeviceGetName(char *name, int length, int) { snprintf(name, static_cast<size_t>(length), "Stand-in"); return SUCCESS; }

Result cuDeviceGetAttribute(int *value, int attribute, int) {
    int capability = static_cast<int>(setting("CUDA_STAND_IN_CAPABILITY", 80));
    switch (attribute) {
    case MAJOR: *value = capability / 10; break;
    case MINOR: *value = capability % 10; break;
    case SHARED_OF_BLOCK: *value = MOST_SHARED_UNASKED; break;
    case SHARED_OPT_IN: *value = MOST_SHARED_ASKED; break;
    case PROCESSORS: *value = MULTIPROCESSORS; break;
    case WARP: *value = warpSize; break;
    case MEMORY_POOLS: *value = 1; break;
    default: wrong("%s: attribute %d", __func__, attribute);
    }
    return SUCCESS;
}

Result cuDevicePrimaryCtxRetain(void **context, int device) { *context = &devices[device]; return SUCCESS; }
Result cuCtxGetCurrent(void **context) { *context = current; return SUCCESS; }
Result cuCtxSetCurrent(void *context) { current = static_cast<Device *>(context); return SUCCESS; }

Result cuCtxSynchronize() {
    LOCKED;
    if (!current) return INVALID_CONTEXT;
    Result failed = counted(*current, WAIT);
    for (Stream *stream : current->streams) stream->finish();
    return failed ? failed : current->failure;
}

Result cuDevicePrimaryCtxRelease_v2(int device) {
    LOCKED;
    if (!devices[device].blocks.empty() && !devices[device].failure) wrong("%s: memory is left on the device", __func__);
    return SUCCESS;
}

Result cuStreamCreate(Stream **stream, unsigned) {
    LOCKED;
    if (!current) return INVALID_CONTEXT;
    *stream = new Stream{current, {}, 0, 0};
    current->streams.push_back(*stream);
    return SUCCESS;
}

/* It stays, for events may know it. */
Result cuStreamDestroy_v2(Stream *stream) { LOCKED; stream->finish(); return SUCCESS; }

Result cuStreamSynchronize(Stream *stream) {
    LOCKED;
    Device &device = on(stream, __func__);
    Result failed = counted(device, WAIT);
    stream->finish();
    return failed ? failed : device.failure;
}

Result cuStreamIsCapturing(Stream *, int *capturing) { *capturing = 0; return SUCCESS; }

/* Nobody can wait for what another thread begins later: what is asked about is done. */
Result cuEventCreate(Event **event, unsigned) { *event = new Event{}; return SUCCESS; }
Result cuEventDestroy_v2(Event *event) { delete event; return SUCCESS; }
Result cuEventRecord(Event *event, Stream *stream) {
    LOCKED;
    Device &device = on(stream, __func__);
    *event = Event{stream, stream->added};
    return device.failure;
}
Result cuEventSynchronize(Event *event) {
    LOCKED;
    if (!event->stream) return SUCCESS;
    Device &device = *event->stream->device;
    Result failed = counted(device, WAIT);
    event->stream->finish(event->parts);
    return failed ? failed : device.failure;
}
Result cuEventQuery(Event *event) { LOCKED; return event->stream ? event->stream->finish(event->parts) : SUCCESS; }
Result cuStreamWaitEvent(Stream *stream, Event *event, unsigned) {
    LOCKED;
    on(stream, __func__);
    if (event->stream && event->stream != stream) stream->add([event = *event] { event.stream->finish(event.parts); });
    return SUCCESS;
}

/* An image that the stand-in for the compiler made says whose kernels it has; in any other all are looked for. */
Result cuModuleLoadData(Module **module, const char *image) {
    if (!current) return INVALID_CONTEXT;
    static const std::string marked = "stand-in for the kernels of ";
    const char *found = strstr(image, marked.c_str());
    std::string name = found ? found + marked.size() : "";
    *module = new Module{name.substr(0, name.find('\n'))};
    return SUCCESS;
}
Result cuModuleUnload(Module *module) { delete module; return SUCCESS; }

Result cuModuleGetFunction(Function **function, Module *module, const char *name) {
    LOCKED;
    static std::map<Kernel *, Function> functions;
    for (Kernel *kernel = Kernel::all; kernel; kernel = kernel->next)
        if (!strcmp(kernel->name, name) && (module->name.empty() || module->name == kernel->module)) {
            *function = &functions.try_emplace(kernel, Function{kernel}).first->second;
            return SUCCESS;
        }
    return NOT_FOUND;
}

Result cuFuncSetAttribute(Function *function, int attribute, int value) {
    if (attribute == CARVEOUT) return SUCCESS;
    if (attribute != DYNAMIC_SHARED || value < 0 || value > MOST_SHARED_ASKED) return INVALID_VALUE;
    function->dynamic_shared = static_cast<unsigned>(value);
    return SUCCESS;
}

Result cuFuncGetAttribute(int *value, int attribute, Function *function) {
    switch (attribute) {
    case MOST_THREADS: *value = 1024; return SUCCESS;
    case STATIC_SHARED: *value = 0; return SUCCESS;
    case DYNAMIC_SHARED: *value = static_cast<int>(function->dynamic_shared); return SUCCESS;
    default: wrong("%s: attribute %d", __func__, attribute);
    }
}

/* What a driver refuses is refused. */
Result cuLaunchKernel(Function *function, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz,
                      unsigned shared, Stream *stream, void **parameters, void **) {
    LOCKED;
    Device &device = on(stream, __func__);
    uint64_t threads = uint64_t{bx} * by * bz;
    if (!gx || !gy || !gz || !threads || gx > INT32_MAX || gy > UINT16_MAX || gz > UINT16_MAX || threads > 1024 || bz > 64 ||
        !parameters || shared > function->dynamic_shared)
        return INVALID_VALUE;
    Result failed = counted(device, LAUNCH);
    if (fails_later(*stream, failed)) return SUCCESS;
    if (failed) return failed;
    stream->add([kernel = function->kernel, work = function->kernel->bind(parameters), grid = dim3(gx, gy, gz),
                 block = dim3(bx, by, bz), shared] { launch(*kernel, grid, block, shared, work); });
    return SUCCESS;
}

Result cuGetErrorName(int code, const char **text) {
    switch (code) {
    case INVALID_VALUE: *text = "CUDA_ERROR_INVALID_VALUE"; break;
    case OUT_OF_MEMORY: *text = "CUDA_ERROR_OUT_OF_MEMORY"; break;
    case NOT_FOUND: *text = "CUDA_ERROR_NOT_FOUND"; break;
    case ILLEGAL_ADDRESS: *text = "CUDA_ERROR_ILLEGAL_ADDRESS"; break;
    default: *text = "CUDA_ERROR_STAND_IN";
    }
    return SUCCESS;
}
Result cuGetErrorString(int code, const char **text) {
    switch (code) {
    case OUT_OF_MEMORY: *text = "out of memory"; break;
    case NOT_FOUND: *text = "named symbol not found"; break;
    case ILLEGAL_ADDRESS: *text = "an illegal memory access was encountered"; break;
    default: *text = "what the stand-in says";
    }
    return SUCCESS;
}

Result curandCreateGenerator(void **generator, int) { *generator = devices; return SUCCESS; }
Result curandDestroyGenerator(void *) { return SUCCESS; }
Result curandSetPseudoRandomGeneratorSeed(void *, unsigned long long) { return SUCCESS; }
Result curandSetStream(void *, Stream *) { return SUCCESS; }
}

__attribute__((destructor)) static void report() {
    const char *path = getenv("CUDA_STAND_IN_REPORT");
    FILE *file = path ? fopen(path, "a") : nullptr;
    for (int number = 0; file && number < device_count(); number++) {
        Device &device = devices[number];
        fprintf(file, "device %d: %ld kernels, %ld products, %ld allocations, %ld copies, %ld refused, %ld waits, %zu bytes at most, %zu left, threshold %s\n",
                number, device.calls[LAUNCH], device.calls[PRODUCT], device.calls[ALLOCATION], device.calls[COPY], device.refused,
                device.calls[WAIT], device.reserved_high, device.used, device.threshold == ~0ull ? "none" : "set");
    }
    if (file) fclose(file);
}
