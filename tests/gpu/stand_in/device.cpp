/* Runs kernels on the processor, see device.h. A block's threads are fibres: a thread that waits hands the processor to
 * another one of its block, first of its own warp. A thread that never waits needs no fibre of its own: the next one
 * begins where it ended, so that a kernel without barriers is a plain loop. */
#include "device.h"
#include <csignal>
#include <cstdarg>
#include <mutex>
#include <sys/mman.h>
#include <unistd.h>
#include <vector>

#ifndef __x86_64__
#error "the change from one fibre to another is written for x86-64"
#endif

/* Keeps what a called function must keep, and continues another fibre. */
extern "C" void stand_in_change(void **from, void *to);
asm(R"(
.text
.globl stand_in_change
.type stand_in_change,@function
stand_in_change:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp,(%rdi)
    movq %rsi,%rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
.size stand_in_change,.-stand_in_change
)");

/* Static shared memory of all kernels lies between these two: shared_first.cpp, kernels and shared_end.cpp are linked in
 * this order. */
extern unsigned char stand_in_shared_first, stand_in_shared_end;

/* Called by code compiled with -fsanitize=bounds. */
extern "C" void __ubsan_handle_out_of_bounds_abort(void *, void *index) {
    stand_in::wrong("index %ld beyond an array", reinterpret_cast<long>(index));
}

namespace stand_in {
uint3 thread, block;
dim3 block_size, grid_size;
Kernel *Kernel::all;

namespace {
constexpr size_t PAGE = 4096, STACK = 16 * PAGE, MOST_THREADS = 1024, MOST_SHARED = 228 << 10;
constexpr unsigned ENOUGH_BLOCKS = 8;
constexpr unsigned WARPS = MOST_THREADS / 32;

/* What some lanes of a warp bring and wait for. It is free when all of them have looked at it; as many as there are can be
 * under way, for lanes that go on may bring something to the next one before others have looked at this one, and
 * lanes of different masks may be at different ones. */
struct Exchange {
    unsigned char slots[32][16];
    unsigned mask, arrived, unread;
    int line;
    size_t size;
};
struct Warp {
    unsigned lanes;
    Exchange exchanges[8];
};

struct Thread {
    uint3 place;
    void *stack_pointer;
    unsigned char *stack;
};

std::mutex one_at_a_time;
Kernel *running;
const Work *work_of_thread;
void *host;
Thread threads[MOST_THREADS];
Warp warps[WARPS];
std::vector<unsigned char *> free_stacks;
/* Threads that can run: not begun, or not waiting; by warp, and which warps have some. */
unsigned ready[WARPS], begun[WARPS], ready_warps;
unsigned count, current, ended, at_barrier;
int barrier_line, waited_at;
bool last_first;
unsigned char *shared_area, *shared;
size_t shared_size;

void on_fault(int number) {
    /* Nothing is safe here, but the program is at its end. */
    if (running)
        fprintf(stderr, "CUDA stand-in: %s: thread %u %u %u of block %u %u %u: signal %d%s\n", running->name, thread.x,
                thread.y, thread.z, block.x, block.y, block.z, number, number == SIGSEGV ? ", beyond its memory" : "");
    signal(number, SIG_DFL);
    raise(number);
}

/* Memory whose end is guarded. */
unsigned char *guarded(size_t bytes) {
    void *area = mmap(nullptr, bytes + PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (area == MAP_FAILED || mprotect(static_cast<char *>(area) + bytes, PAGE, PROT_NONE)) wrong("no memory of the host");
    return static_cast<unsigned char *>(area);
}

void prepare() {
    if (shared_area) return;
    const char *order = getenv("CUDA_STAND_IN_ORDER");
    last_first = order && !strcmp(order, "last");
    shared_area = guarded(MOST_SHARED);
    memset(&stand_in_shared_first, 0xff, static_cast<size_t>(&stand_in_shared_end - &stand_in_shared_first));
    struct sigaction action = {};
    action.sa_handler = on_fault;
    action.sa_flags = SA_ONSTACK;
    for (int number : {SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGABRT}) sigaction(number, &action, nullptr);
}

void make_ready(unsigned warp, unsigned lanes) {
    ready[warp] |= lanes;
    if (ready[warp]) ready_warps |= 1u << warp;
}
void take_ready(unsigned number) {
    unsigned warp = number / 32;
    ready[warp] &= ~(1u << number % 32);
    if (!ready[warp]) ready_warps &= ~(1u << warp);
}

unsigned pick(unsigned bits) {
    return static_cast<unsigned>(last_first ? 31 - __builtin_clz(bits) : __builtin_ctz(bits));
}

/* Whose turn it is; the program ends if all wait for what cannot come. */
unsigned next() {
    unsigned warp = current / 32;
    if (!ready[warp]) {
        if (!ready_warps)
            wrong("line %d: threads wait for others that do not come; %u of %u have ended", waited_at, ended, count);
        warp = pick(ready_warps);
    }
    return warp * 32 + pick(ready[warp]);
}

void work();

/* A stack on which work() begins. */
void begin(Thread &thread) {
    if (free_stacks.empty()) {
        unsigned char *area = guarded(STACK + PAGE);
        /* A stack grows downwards: what is guarded lies below it. */
        if (mprotect(area, PAGE, PROT_NONE)) wrong("no memory of the host");
        free_stacks.push_back(area + PAGE);
    }
    thread.stack = free_stacks.back();
    free_stacks.pop_back();
    void **top = reinterpret_cast<void **>(thread.stack + STACK);
    *--top = nullptr;
    *--top = reinterpret_cast<void *>(&work);
    thread.stack_pointer = top - 6;
}

void enter(unsigned number) {
    current = number;
    thread = threads[number].place;
    take_ready(number);
    begun[number / 32] |= 1u << number % 32;
}

bool has_begun(unsigned number) { return begun[number / 32] >> number % 32 & 1; }

/* The running thread waits. */
void wait(int line) {
    waited_at = line;
    unsigned from = current, to = next();
    if (!has_begun(to)) begin(threads[to]);
    enter(to);
    stand_in_change(&threads[from].stack_pointer, threads[to].stack_pointer);
}

/* Runs a thread to its end, and then others that have not begun; ends by continuing one that has. */
void work() {
    for (;;) {
        (*work_of_thread)();
        unsigned from = current;
        void *to;
        if (++ended == count) {
            free_stacks.push_back(threads[from].stack);
            to = host;
        } else {
            unsigned number = next();
            if (!has_begun(number)) {
                threads[number].stack = threads[from].stack;
                enter(number);
                continue;
            }
            free_stacks.push_back(threads[from].stack);
            enter(number);
            to = threads[number].stack_pointer;
        }
        stand_in_change(&threads[from].stack_pointer, to);
        __builtin_unreachable();
    }
}

/* Which static shared memory the running kernel uses; all of it is no number unless a kernel writes there. */
void look_at_shared() {
    running->blocks_seen++;
    unsigned char *first = &stand_in_shared_first, *end = &stand_in_shared_end;
    while (first < end && *first == 0xff) first++;
    while (first < end && end[-1] == 0xff) end--;
    if (first == end) return;
    running->first = running->first && running->first < first ? running->first : first;
    running->end = running->end > end ? running->end : end;
}

void run_block() {
    ended = at_barrier = ready_warps = 0;
    memset(begun, 0, sizeof begun);
    for (unsigned warp = 0; warp * 32 < count; warp++) {
        unsigned lanes = count - warp * 32;
        ready[warp] = 0;
        make_ready(warp, lanes >= 32 ? ~0u : (1u << lanes) - 1);
        warps[warp].lanes = ready[warp];
        for (Exchange &exchange : warps[warp].exchanges) exchange.arrived = exchange.unread = 0;
    }
    memset(shared, 0xff, shared_size);
    memset(running->first, 0xff, static_cast<size_t>(running->end - running->first));
    current = last_first ? count - 1 : 0;
    unsigned first = next();
    begin(threads[first]);
    enter(first);
    stand_in_change(&host, threads[first].stack_pointer);
    if (running->blocks_seen < ENOUGH_BLOCKS) look_at_shared();
}
} // namespace

void wrong(const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    fprintf(stderr, "CUDA stand-in: %s%s", running ? running->name : "", running ? ": " : "");
    vfprintf(stderr, format, arguments);
    fputc('\n', stderr);
    va_end(arguments);
    signal(SIGABRT, SIG_DFL);
    abort();
}

unsigned lane() { return current % 32; }

void *dynamic_shared() { return shared; }

void block_barrier(int line) {
    if (at_barrier && line != barrier_line) wrong("threads of one block wait at lines %d and %d", barrier_line, line);
    barrier_line = line;
    if (++at_barrier < count) return wait(line);
    at_barrier = 0;
    for (unsigned warp = 0; warp * 32 < count; warp++) make_ready(warp, warps[warp].lanes);
    take_ready(current);
}

Brought exchange(int line, unsigned mask, const void *bytes, size_t size) {
    unsigned own = current % 32;
    Warp &warp = warps[current / 32];
    if (!(mask >> own & 1)) wrong("line %d: lane %u is not in its own mask %08x", line, own, mask);
    Exchange *found = nullptr, *free = nullptr;
    for (Exchange &exchange : warp.exchanges) {
        if (!exchange.arrived && !exchange.unread) free = &exchange;
        if (!exchange.arrived || exchange.mask != mask) continue;
        if (exchange.line != line || exchange.size != size) wrong("lanes of one warp exchange at lines %d and %d", exchange.line, line);
        found = &exchange;
    }
    unsigned lanes = mask & warp.lanes;
    if (!found) {
        if (!free) wrong("line %d: exchanges of too many masks at the same time", line);
        found = free;
        found->line = line, found->mask = mask, found->size = size, found->unread = lanes;
    }
    if (size) memcpy(found->slots[own], bytes, size);
    found->arrived |= 1u << own;
    if (found->arrived != lanes) {
        wait(line);
    } else {
        found->arrived = 0;
        make_ready(current / 32, lanes & ~(1u << own));
    }
    found->unread &= ~(1u << own);
    return {found->slots, lanes};
}

void launch(Kernel &kernel, dim3 grid, dim3 threads_of_block, size_t shared_bytes, const Work &work_of_all) {
    std::lock_guard<std::mutex> guard(one_at_a_time);
    running = &kernel;
    prepare();
    if (shared_bytes > MOST_SHARED) wrong("%zu bytes of shared memory", shared_bytes);
    work_of_thread = &work_of_all;
    grid_size = grid;
    block_size = threads_of_block;
    count = block_size.x * block_size.y * block_size.z;
    for (unsigned number = 0; number < count; number++) {
        unsigned row = number / block_size.x;
        threads[number].place = {number % block_size.x, row % block_size.y, row / block_size.y};
    }
    /* It ends where it may not be touched any more, and begins as a GPU's does. */
    shared_size = (shared_bytes + 127) / 128 * 128;
    shared = shared_area + MOST_SHARED - shared_size;
    for (block.z = 0; block.z < grid.z; block.z++)
        for (block.y = 0; block.y < grid.y; block.y++)
            for (block.x = 0; block.x < grid.x; block.x++) run_block();
    running = nullptr;
}
} // namespace stand_in
