/* What the parts of the stand-in for the driver share, see driver.cpp. */
#pragma once
#include "device.h"
#include <deque>
#include <functional>
#include <map>
#include <mutex>
#include <vector>

namespace stand_in {
using Result = int;
using Pointer = unsigned long long;
enum : Result {
    SUCCESS = 0, INVALID_VALUE = 1, OUT_OF_MEMORY = 2, INVALID_DEVICE = 101, INVALID_CONTEXT = 201, NOT_FOUND = 500,
    ILLEGAL_ADDRESS = 700,
};
constexpr int MOST_DEVICES = 8;

/* Memory of a device, between two pages that nobody may touch. */
struct Block {
    size_t size, mapped;
    unsigned char *area;
};

/* Where something can be made to fail. */
enum Place { LAUNCH, ALLOCATION, FREE, WAIT, COPY, PRODUCT, PLACES };

struct Stream;
struct Device {
    int number;
    std::map<Pointer, Block> blocks;
    std::vector<Stream *> streams;
    /* Freed by a call that is not yet carried out, in bytes. */
    size_t freed_later;
    size_t used, used_high, reserved, reserved_high;
    unsigned long long threshold;
    long calls[PLACES], refused;
    /* What every call says once the device has failed. */
    Result failure;
};

/* Work is carried out when somebody waits for it, as late as a GPU could: what reads results before that reads none. */
struct Stream {
    Device *device;
    std::deque<std::function<void()>> work;
    /* How many parts there have been, and how many of them are done. */
    size_t added, done;
    void add(std::function<void()> part);
    /* Carries out the first parts that there have been, or all. */
    Result finish(size_t parts = SIZE_MAX);
};

/* Where a stream was when it was recorded. */
struct Event {
    Stream *stream;
    size_t parts;
};

extern std::recursive_mutex lock;
extern Device *const devices;
extern thread_local Device *current;

long setting(const char *name, long otherwise);
int device_count();
/* The device of a stream, on which the calling thread must be. */
Device &on(Stream *stream, const char *call);
/* Counts a call, and gives the code with which it is to fail, if it is. */
Result counted(Device &device, Place place);
/* Whether work fails when it is carried out, and not the call: that is left to the stream. */
bool fails_later(Stream &stream, Result failed);
/* Ends the program unless memory of the device has all of this. */
void demand(Device &device, Pointer first, size_t size, const char *call);
} // namespace stand_in
