/* Makes calls of the C library fail, hang or do harm, as the environment asks for:
 *
 *   FAULT_CALL   open, read, write, fsync, rename, ftruncate or thread
 *   FAULT_PATH   part of the path of the file that is meant; every file if empty
 *   FAULT_NTH    from which such call on, counted from 1
 *   FAULT_TIMES  how many calls
 *   FAULT_ERRNO  the error; 0 lets the call take place
 *   FAULT_RUN    what to do instead of failing or before it: "hang", or a line for the file to grow by
 *
 *   CLOCK_EVERY  after so many looks at the time of day it jumps
 *   CLOCK_JUMP   by so many seconds
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <time.h>
#include <unistd.h>

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

static atomic_long calls;
static atomic_long looks;

static long number(const char *name, long otherwise) {
    const char *text = getenv(name);
    return text ? atol(text) : otherwise;
}

/* What is wanted of a call on a path: -1 if it is to take place, else the error to fail with. */
static int fault(const char *call, const char *path) {
    const char *wanted = getenv("FAULT_CALL");
    const char *part = getenv("FAULT_PATH");
    if (!wanted || strcmp(wanted, call) || (part && !strstr(path, part))) return -1;
    long nth = atomic_fetch_add(&calls, 1) + 1, first = number("FAULT_NTH", 1);
    if (nth < first || nth - first >= number("FAULT_TIMES", 1000000000)) return -1;
    const char *run = getenv("FAULT_RUN");
    if (run && !strcmp(run, "hang")) {
        for (;;) pause();
    } else if (run) {
        /* Through the system alone, so that nothing here is counted. */
        int target = (int)syscall(SYS_openat, AT_FDCWD, path, O_WRONLY | O_APPEND);
        if (target >= 0) {
            syscall(SYS_write, target, run, strlen(run));
            syscall(SYS_close, target);
        }
    }
    int error = (int)number("FAULT_ERRNO", 5);
    return error ? error : -1;
}

static int fault_at(const char *call, int file) {
    if (!getenv("FAULT_CALL")) return -1;
    char link[64], path[4096];
    snprintf(link, sizeof link, "/proc/self/fd/%d", file);
    ssize_t length = readlink(link, path, sizeof path - 1);
    path[length < 0 ? 0 : length] = 0;
    return fault(call, path);
}

#define FAIL_IF(asked) { int error = (asked); if (error >= 0) { errno = error; return -1; } }

static int opened(int directory, const char *path, int flags, va_list more) {
    FAIL_IF(fault("open", path));
    mode_t mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(more, mode_t) : 0;
    return (int)syscall(SYS_openat, directory, path, flags, mode);
}
int open(const char *path, int flags, ...) {
    va_list more; va_start(more, flags);
    int file = opened(AT_FDCWD, path, flags, more);
    va_end(more);
    return file;
}
int open64(const char *path, int flags, ...) {
    va_list more; va_start(more, flags);
    int file = opened(AT_FDCWD, path, flags | O_LARGEFILE, more);
    va_end(more);
    return file;
}
ssize_t read(int file, void *buffer, size_t bytes) {
    FAIL_IF(fault_at("read", file));
    return REAL(read)(file, buffer, bytes);
}
ssize_t write(int file, const void *buffer, size_t bytes) {
    FAIL_IF(fault_at("write", file));
    return REAL(write)(file, buffer, bytes);
}
int fsync(int file) {
    FAIL_IF(fault_at("fsync", file));
    return REAL(fsync)(file);
}
int ftruncate64(int file, off64_t bytes) {
    FAIL_IF(fault_at("ftruncate", file));
    return REAL(ftruncate64)(file, bytes);
}
int rename(const char *from, const char *to) {
    FAIL_IF(fault("rename", to));
    return REAL(rename)(from, to);
}
int pthread_create(pthread_t *thread, const pthread_attr_t *how, void *(*work)(void *), void *with) {
    int error = fault("thread", "");
    if (error >= 0) return error;
    return REAL(pthread_create)(thread, how, work, with);
}
int clock_gettime(clockid_t clock, struct timespec *time) {
    int outcome = (int)syscall(SYS_clock_gettime, clock, time);
    long every = number("CLOCK_EVERY", 0);
    if (clock == CLOCK_REALTIME && every) {
        long jumps = atomic_fetch_add(&looks, 1) / every;
        time->tv_sec += jumps % 2 ? number("CLOCK_JUMP", 0) : 0;
    }
    return outcome;
}
