/* Hides AVX-512 from a program: a library for LD_PRELOAD that answers for the instruction CPUID.
 *
 * Libraries choose their kernels by CPUID. Linux lets a process have the instruction trapped (arch_prctl, where the
 * processor can: flag cpuid_fault in /proc/cpuinfo); the handler asks the processor and strikes out what is to be hidden.
 * For programs that leave SIGSEGV alone, such as Python with onnxruntime, numpy or torch.
 *
 *   cc -O1 -shared -fPIC -o without_avx512.so without_avx512.c
 */
#define _GNU_SOURCE
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>

enum { ARCH_SET_CPUID = 0x1012 };

/* Bits of leaf 7, by sub-leaf and register, that belong to AVX-512 and to what builds on it. */
static const uint32_t AVX512_EBX = 1u << 16 | 1u << 17 | 1u << 21 | 1u << 26 | 1u << 27 | 1u << 28 | 1u << 30 | 1u << 31;
static const uint32_t AVX512_ECX = 1u << 1 | 1u << 6 | 1u << 11 | 1u << 12 | 1u << 14;
static const uint32_t AVX512_AND_AMX_EDX = 1u << 2 | 1u << 3 | 1u << 8 | 1u << 22 | 1u << 23 | 1u << 24 | 1u << 25;
static const uint32_t AVX_VNNI_AND_BF16_EAX = 1u << 4 | 1u << 5;

static void let_cpuid_through(int allowed) {
    if (syscall(SYS_arch_prctl, ARCH_SET_CPUID, allowed) != 0) {
        perror("without_avx512: CPUID cannot be trapped here");
        exit(1);
    }
}

static void answer(int signal_number, siginfo_t *info, void *context) {
    (void)info;
    greg_t *registers = ((ucontext_t *)context)->uc_mcontext.gregs;
    const uint8_t *instruction = (const uint8_t *)registers[REG_RIP];
    if (instruction[0] != 0x0f || instruction[1] != 0xa2) {
        signal(signal_number, SIG_DFL); /* Another fault: it comes again, and ends the program. */
        return;
    }
    uint32_t leaf = (uint32_t)registers[REG_RAX], sub_leaf = (uint32_t)registers[REG_RCX], eax, ebx, ecx, edx;
    let_cpuid_through(1);
    __asm__ volatile("cpuid" : "=a"(eax), "=b"(ebx), "=c"(ecx), "=d"(edx) : "a"(leaf), "c"(sub_leaf));
    let_cpuid_through(0);
    if (leaf == 7 && sub_leaf == 0) {
        ebx &= ~AVX512_EBX;
        ecx &= ~AVX512_ECX;
        edx &= ~AVX512_AND_AMX_EDX;
    } else if (leaf == 7 && sub_leaf == 1) {
        eax &= ~AVX_VNNI_AND_BF16_EAX;
    }
    registers[REG_RAX] = eax;
    registers[REG_RBX] = ebx;
    registers[REG_RCX] = ecx;
    registers[REG_RDX] = edx;
    registers[REG_RIP] += 2;
}

__attribute__((constructor)) static void hide(void) {
    struct sigaction action = {.sa_sigaction = answer, .sa_flags = SA_SIGINFO | SA_NODEFER};
    sigaction(SIGSEGV, &action, NULL);
    let_cpuid_through(0);
}
