/* Stands in for the library of the NVIDIA driver (libnvidia-ml.so.1), so that what the program does with one, two or
 * broken GPUs is tested where there is none. It says what the file beside it says: its own path with `.state` added,
 * read anew with every call, so that a test can change the machine while a program runs.
 *
 *     init CODE                                 what nvmlInit_v2 returns
 *     driver VERSION
 *     cuda NUMBER
 *     gpu UUID CAPABILITY TOTAL USED GROWTH LOST_AFTER MIG NAME
 *     process GPU PID USED NAME
 *
 * Amounts are in MiB; -1 is an amount that the driver does not tell. With every look at its memory, USED grows by
 * GROWTH. After LOST_AFTER looks the GPU is lost; with 0 from the start, with -1 never.
 *
 * Compiled with -DWITHOUT_INIT, -DWITHOUT_MEMORY, -DWITHOUT_PROCESSES or -DWITHOUT_SHUTDOWN it lacks that function.
 * Signatures, structures and codes are those of nvml.h. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>
#include <string.h>

enum { SUCCESS = 0, INVALID_ARGUMENT = 2, NOT_SUPPORTED = 3, NOT_FOUND = 6, INSUFFICIENT_SIZE = 7, DRIVER_NOT_LOADED = 9,
       GPU_IS_LOST = 15 };
enum { MOST_GPUS = 8, MOST_PROCESSES = 16, LONGEST = 256 };

typedef struct { char uuid[96], capability[8], name[96]; long long total, used, growth, lost_after; unsigned mig; } Gpu;
typedef struct { unsigned gpu, pid; long long used; char name[96]; } Process;
typedef struct { unsigned version; unsigned long long total, reserved, free, used; } Memory;
typedef struct { unsigned pid; unsigned long long used; unsigned gpu_instance, compute_instance; } ProcessInfo;

static Gpu gpus[MOST_GPUS];
static Process processes[MOST_PROCESSES];
static unsigned gpu_count, process_count;
static int init_code, cuda;
static char driver[LONGEST];
static long long looks[MOST_GPUS];

static void read_state(void) {
    Dl_info self;
    char path[4096], line[LONGEST];
    gpu_count = process_count = 0;
    init_code = DRIVER_NOT_LOADED;
    if (!dladdr((void *)read_state, &self)) return;
    snprintf(path, sizeof path, "%s.state", self.dli_fname);
    FILE *file = fopen(path, "r");
    if (!file) return;
    init_code = SUCCESS;
    while (fgets(line, sizeof line, file)) {
        line[strcspn(line, "\n")] = 0;
        Gpu *gpu = &gpus[gpu_count];
        Process *process = &processes[process_count];
        if (sscanf(line, "init %d", &init_code) == 1 || sscanf(line, "driver %255s", driver) == 1 ||
            sscanf(line, "cuda %d", &cuda) == 1) continue;
        if (gpu_count < MOST_GPUS && sscanf(line, "gpu %95s %7s %lld %lld %lld %lld %u %95[^\n]", gpu->uuid, gpu->capability,
            &gpu->total, &gpu->used, &gpu->growth, &gpu->lost_after, &gpu->mig, gpu->name) == 8) gpu_count++;
        if (process_count < MOST_PROCESSES && sscanf(line, "process %u %u %lld %95[^\n]", &process->gpu, &process->pid,
            &process->used, process->name) == 4) process_count++;
    }
    fclose(file);
}

/* A handle is the address of the GPU's count of looks. */
static int find(void *handle, Gpu **gpu) {
    long index = (long long *)handle - looks;
    read_state();
    if (index < 0 || index >= (long)gpu_count) return INVALID_ARGUMENT;
    *gpu = &gpus[index];
    return (*gpu)->lost_after >= 0 && looks[index] >= (*gpu)->lost_after ? GPU_IS_LOST : SUCCESS;
}

#ifndef WITHOUT_INIT
int nvmlInit_v2(void) { read_state(); return init_code; }
#endif

#ifndef WITHOUT_SHUTDOWN
int nvmlShutdown(void) { return SUCCESS; }
#endif

int nvmlSystemGetDriverVersion(char *text, unsigned length) {
    read_state();
    snprintf(text, length, "%s", driver);
    return SUCCESS;
}

int nvmlSystemGetCudaDriverVersion_v2(int *version) { read_state(); *version = cuda; return SUCCESS; }

int nvmlSystemGetProcessName(unsigned pid, char *text, unsigned length) {
    read_state();
    for (unsigned index = 0; index < process_count; index++)
        if (processes[index].pid == pid && strcmp(processes[index].name, "-")) {
            snprintf(text, length, "%s", processes[index].name);
            return SUCCESS;
        }
    return NOT_FOUND;
}

int nvmlDeviceGetCount_v2(unsigned *count) { read_state(); *count = gpu_count; return SUCCESS; }

int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **handle) {
    Gpu *gpu;
    if (index >= MOST_GPUS) return INVALID_ARGUMENT;
    *handle = &looks[index];
    return find(*handle, &gpu);
}

int nvmlDeviceGetUUID(void *handle, char *text, unsigned length) {
    Gpu *gpu;
    int code = find(handle, &gpu);
    if (code == SUCCESS) snprintf(text, length, "%s", gpu->uuid);
    return code;
}

int nvmlDeviceGetName(void *handle, char *text, unsigned length) {
    Gpu *gpu;
    int code = find(handle, &gpu);
    if (code == SUCCESS) snprintf(text, length, "%s", gpu->name);
    return code;
}

int nvmlDeviceGetCudaComputeCapability(void *handle, int *major, int *minor) {
    Gpu *gpu;
    int code = find(handle, &gpu);
    if (code == SUCCESS && sscanf(gpu->capability, "%d.%d", major, minor) != 2) code = NOT_SUPPORTED;
    return code;
}

int nvmlDeviceGetMigMode(void *handle, unsigned *current, unsigned *pending) {
    Gpu *gpu;
    int code = find(handle, &gpu);
    if (code == SUCCESS) *current = *pending = gpu->mig;
    return code;
}

#ifndef WITHOUT_MEMORY
int nvmlDeviceGetMemoryInfo_v2(void *handle, Memory *memory) {
    Gpu *gpu;
    int code = find(handle, &gpu);
    if (code != SUCCESS) return code;
    if (gpu->total < 0) return NOT_SUPPORTED;
    if (memory->version != (sizeof *memory | 2u << 24)) return INVALID_ARGUMENT;
    long long used = gpu->used + gpu->growth * (*(long long *)handle)++;
    if (used > gpu->total) used = gpu->total;
    memory->total = (unsigned long long)gpu->total << 20;
    memory->reserved = 0;
    memory->used = (unsigned long long)used << 20;
    memory->free = memory->total - memory->used;
    return SUCCESS;
}
#endif

#ifndef WITHOUT_PROCESSES
int nvmlDeviceGetComputeRunningProcesses_v3(void *handle, unsigned *count, ProcessInfo *infos) {
    Gpu *gpu;
    int code = find(handle, &gpu);
    unsigned room = *count, found = 0;
    if (code != SUCCESS) return code;
    for (unsigned index = 0; index < process_count; index++) {
        if (processes[index].gpu != gpu - gpus) continue;
        if (infos && found < room) {
            infos[found].pid = processes[index].pid;
            infos[found].used = processes[index].used < 0 ? ~0ull : (unsigned long long)processes[index].used << 20;
            infos[found].gpu_instance = infos[found].compute_instance = ~0u;
        }
        found++;
    }
    *count = found;
    return found > room ? INSUFFICIENT_SIZE : SUCCESS;
}
#endif
