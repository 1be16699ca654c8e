/* Memory of the devices: the host's, between pages that nobody may touch. Fresh memory is no number in f32, f16 and bf16
 * and no valid index, so that what is read before it was written shows. What is freed is gone when all work that came
 * before is done. */
#include "driver.h"
#include <sys/mman.h>

namespace stand_in {
namespace {
/* Ends of blocks are at the next page; a tile is loaded from multiples of 32. */
constexpr size_t PAGE = 4096, ALIGNMENT = 32;
constexpr int NOTHING = 0xff;
/* As much is copied from memory that is not pinned before a call is over and the copy is made; of more the copy is made. */
constexpr size_t MOST_KEPT = 1 << 20;
enum Attribute { THRESHOLD = 4, RESERVED = 5, RESERVED_HIGH = 6, USED = 7, USED_HIGH = 8 };

size_t up(size_t size, size_t to) { return (size + to - 1) / to * to; }

/* Host memory from which a copy takes only when it is carried out. */
std::map<uintptr_t, size_t> pinned;

bool is_pinned(const void *at) {
    auto found = pinned.upper_bound(reinterpret_cast<uintptr_t>(at));
    if (found == pinned.begin()) return false;
    --found;
    return reinterpret_cast<uintptr_t>(at) < found->first + found->second;
}

Result allocate(Device &device, Pointer *pointer, size_t size) {
    if (!size) return INVALID_VALUE;
    if (Result failed = counted(device, ALLOCATION)) {
        if (failed == OUT_OF_MEMORY) device.refused++;
        return failed;
    }
    if (device.used + size > static_cast<size_t>(setting("CUDA_STAND_IN_MIB", 1024)) << 20) {
        device.refused++;
        return OUT_OF_MEMORY;
    }
    size_t mapped = up(size, PAGE) + 2 * PAGE;
    void *area = mmap(nullptr, mapped, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (area == MAP_FAILED) wrong("no memory of the host");
    auto bytes = static_cast<unsigned char *>(area) + PAGE;
    if (mprotect(bytes, mapped - 2 * PAGE, PROT_READ | PROT_WRITE)) wrong("no memory of the host");
    memset(bytes, NOTHING, mapped - 2 * PAGE);
    *pointer = reinterpret_cast<Pointer>(bytes + mapped - 2 * PAGE - up(size, ALIGNMENT));
    device.blocks[*pointer] = Block{size, mapped, static_cast<unsigned char *>(area)};
    device.used += size;
    if (device.used > device.used_high) device.used_high = device.used;
    if (device.used > device.reserved) device.reserved = device.used;
    if (device.reserved > device.reserved_high) device.reserved_high = device.reserved;
    return SUCCESS;
}

bool untouched(const unsigned char *from, const unsigned char *to) {
    while (from < to && *from == NOTHING) from++;
    return from == to;
}

void release(Pointer pointer, const Block &block) {
    auto bytes = reinterpret_cast<unsigned char *>(pointer);
    if (!untouched(block.area + PAGE, bytes) || !untouched(bytes + block.size, block.area + block.mapped - PAGE))
        wrong("memory beside a tensor of %zu bytes was written to", block.size);
    munmap(block.area, block.mapped);
}

/* Takes it from the device; it may be used by work that is yet to be done. */
Block take(Device &device, Pointer pointer, const char *call) {
    auto found = device.blocks.find(pointer);
    if (found == device.blocks.end()) wrong("%s: this is no memory of the device, or no more", call);
    Block block = found->second;
    device.blocks.erase(found);
    device.used -= block.size;
    return block;
}
} // namespace

void demand(Device &device, Pointer first, size_t size, const char *call) {
    auto found = device.blocks.upper_bound(first);
    if (found == device.blocks.begin() || (--found, first + size > found->first + found->second.size))
        wrong("%s: beyond the memory of the device", call);
}
} // namespace stand_in

using namespace stand_in;
#define LOCKED std::lock_guard<std::recursive_mutex> locked(lock)

extern "C" {
Result cuMemAllocAsync(Pointer *pointer, size_t size, Stream *stream) { LOCKED; return allocate(on(stream, __func__), pointer, size); }

Result cuMemAlloc_v2(Pointer *pointer, size_t size) { LOCKED; return current ? allocate(*current, pointer, size) : INVALID_CONTEXT; }

Result cuMemFreeAsync(Pointer pointer, Stream *stream) {
    LOCKED;
    Device &device = *stream->device;
    if (Result failed = counted(device, FREE)) return failed;
    Block block = take(device, pointer, __func__);
    device.freed_later += block.size;
    stream->add([&device, pointer, block] {
        device.freed_later -= block.size;
        release(pointer, block);
    });
    return SUCCESS;
}

Result cuMemFree_v2(Pointer pointer) {
    LOCKED;
    if (!current) return INVALID_CONTEXT;
    for (Stream *stream : current->streams) stream->finish();
    if (Result failed = counted(*current, FREE)) return failed;
    release(pointer, take(*current, pointer, __func__));
    return SUCCESS;
}

Result cuMemHostAlloc(void **pointer, size_t size, unsigned) {
    LOCKED;
    *pointer = malloc(size);
    memset(*pointer, NOTHING, size);
    pinned[reinterpret_cast<uintptr_t>(*pointer)] = size;
    return SUCCESS;
}
Result cuMemFreeHost(void *pointer) {
    LOCKED;
    if (!pinned.erase(reinterpret_cast<uintptr_t>(pointer))) wrong("%s: this is no pinned memory, or no more", __func__);
    free(pointer);
    return SUCCESS;
}

Result cuMemcpyHtoDAsync_v2(Pointer to, const void *from, size_t size, Stream *stream) {
    LOCKED;
    Device &device = on(stream, __func__);
    demand(device, to, size, __func__);
    if (Result failed = counted(device, COPY)) return failed;
    if (is_pinned(from)) {
        stream->add([=] { memcpy(reinterpret_cast<void *>(to), from, size); });
    } else if (size > MOST_KEPT) {
        if (Result failed = stream->finish()) return failed;
        memcpy(reinterpret_cast<void *>(to), from, size);
    } else {
        auto bytes = static_cast<const unsigned char *>(from);
        stream->add([to, bytes = std::vector<unsigned char>(bytes, bytes + size)] {
            memcpy(reinterpret_cast<void *>(to), bytes.data(), bytes.size());
        });
    }
    return SUCCESS;
}

Result cuMemcpyDtoHAsync_v2(void *to, Pointer from, size_t size, Stream *stream) {
    LOCKED;
    Device &device = on(stream, __func__);
    demand(device, from, size, __func__);
    if (Result failed = counted(device, COPY)) return failed;
    auto copy = [=] { memcpy(to, reinterpret_cast<const void *>(from), size); };
    stream->add(copy);
    return is_pinned(to) ? SUCCESS : stream->finish();
}

Result cuMemcpyDtoDAsync_v2(Pointer to, Pointer from, size_t size, Stream *stream) {
    LOCKED;
    Device &device = on(stream, __func__);
    demand(device, to, size, __func__);
    demand(device, from, size, __func__);
    if (Result failed = counted(device, COPY)) return failed;
    stream->add([=] { memmove(reinterpret_cast<void *>(to), reinterpret_cast<const void *>(from), size); });
    return SUCCESS;
}

Result cuMemsetD8Async(Pointer to, unsigned char value, size_t size, Stream *stream) {
    LOCKED;
    Device &device = on(stream, __func__);
    demand(device, to, size, __func__);
    if (device.failure) return device.failure;
    stream->add([=] { memset(reinterpret_cast<void *>(to), value, size); });
    return SUCCESS;
}

Result cuDeviceGetDefaultMemPool(Device **pool, int device) { *pool = &devices[device]; return SUCCESS; }

Result cuMemPoolTrimTo(Device *pool, size_t least) {
    LOCKED;
    pool->reserved = pool->used > least ? pool->used : least;
    return SUCCESS;
}

Result cuMemPoolGetAttribute(Device *pool, int attribute, unsigned long long *value) {
    LOCKED;
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
    LOCKED;
    if (attribute == THRESHOLD) pool->threshold = *value;
    else if (attribute == USED_HIGH && *value == 0) pool->used_high = pool->used;
    else if (attribute == RESERVED_HIGH && *value == 0) pool->reserved_high = pool->reserved;
    else return INVALID_VALUE;
    return SUCCESS;
}
}
