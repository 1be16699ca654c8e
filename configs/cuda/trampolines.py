#!/usr/bin/env python3
"""Static archives that stand for CUDA's libraries and open the real ones at the first call.

A program linked with libcuda.so does not start where there is no driver. Linked with these archives it starts anywhere:
each function jumps through a slot that leads, the first time, to code which opens the library, looks the function up
and puts its address into the slot. Where library or function are missing the call returns an error code, as a driver
without devices would.

The functions are those that the crate cudarc declares, read from its sources, so that no list can be out of date.

usage: trampolines.py CUDARC_SOURCES OUTPUT_FOLDER        (x86-64 Linux; needs cc and ar)
"""

import pathlib
import re
import subprocess
import sys
import tempfile

# Library, its folder in cudarc, the names by which it is opened (the newest first: an older one has most functions as
# well), and two codes: that it is not there (no device, not initialised, internal error), and that it is, without the
# function (not found, not supported).
LIBRARIES = [
    ("cuda", "driver", ["libcuda.so.1"], (100, 500)),
    ("cublas", "cublas", ["libcublas.so.13", "libcublas.so.12"], (1, 15)),
    ("cublasLt", "cublaslt", ["libcublasLt.so.13", "libcublasLt.so.12"], (1, 15)),
    ("curand", "curand", ["libcurand.so.10"], (101, 999)),
    ("nvrtc", "nvrtc", ["libnvrtc.so.13", "libnvrtc.so.12"], (11, 11)),
]

DECLARATION = re.compile(r"^ +fn (\w+)\((?:[^()]|\([^()]*\))*\)(?: -> ([^;]+))?;", re.MULTILINE)

INTEGERS = ["rdi", "rsi", "rdx", "rcx", "r8", "r9", "rax"]
VECTORS = range(8)

RESOLVER = """
#include <dlfcn.h>
#include <pthread.h>

extern void *{library}_slots[] __attribute__((visibility("hidden")));
static const char *const names[] = {{ {names} }};
static const char is_text[] = {{ {is_text} }};
static const char *const files[] = {{ {files} }};
static void *library;
static pthread_once_t once = PTHREAD_ONCE_INIT;

static int no_library(void) {{ return {absent}; }}
static int no_function(void) {{ return {lacking}; }}
static const char *no_text(void) {{ return "{file} cannot be opened"; }}
static void open_library(void) {{
    for (unsigned file = 0; file < sizeof files / sizeof *files && !library; file++)
        library = dlopen(files[file], RTLD_NOW | RTLD_LOCAL);
}}

__attribute__((visibility("hidden"))) void *{library}_resolve(long function) {{
    pthread_once(&once, open_library);
    void *found = library ? dlsym(library, names[function]) : 0;
    if (!found)
        found = is_text[function] ? (void *)no_text : library ? (void *)no_function : (void *)no_library;
    __atomic_store_n(&{library}_slots[function], found, __ATOMIC_RELEASE);
    return found;
}}
"""


def assembly(library, names):
    """Functions, slots and the way to the resolver, which keeps the arguments of the call (System V ABI)."""
    code = [".text"]
    for number, name in enumerate(names):
        code += [f".globl {name}", f".type {name},@function", f"{name}: jmp *{library}_slots+{8 * number}(%rip)"]
        code += [f".L{number}: pushq ${number}", "jmp .Lresolve", f".size {name},.-{name}"]
    # With the number and seven registers pushed, the stack is 8 short of a multiple of 16.
    code += [".Lresolve:"] + [f"pushq %{register}" for register in INTEGERS] + ["subq $136,%rsp"]
    code += [f"movups %xmm{place},{16 * place}(%rsp)" for place in VECTORS]
    code += [f"movq {136 + 8 * len(INTEGERS)}(%rsp),%rdi", f"call {library}_resolve", "movq %rax,%r11"]
    code += [f"movups {16 * place}(%rsp),%xmm{place}" for place in VECTORS]
    code += ["addq $136,%rsp"] + [f"popq %{register}" for register in reversed(INTEGERS)]
    code += ["addq $8,%rsp", "jmp *%r11", ".data", ".balign 8"]
    code += [f".globl {library}_slots", f".hidden {library}_slots", f"{library}_slots:"]
    code += [f".quad .L{number}" for number in range(len(names))]
    return "\n".join(code + ['.section .note.GNU-stack,"",@progbits', ""])


def declared(source):
    """Names of all functions, and whether they return text."""
    return {match[1]: "c_char" in (match[2] or "") for match in DECLARATION.finditer(source)}


def build(library, functions, files, codes, folder):
    names = sorted(functions)
    quoted = lambda texts: ", ".join(f'"{text}"' for text in texts)
    is_text = ", ".join(str(int(functions[name])) for name in names)
    resolver = RESOLVER.format(
        library=library, names=quoted(names), is_text=is_text, files=quoted(files), file=files[0],
        absent=codes[0], lacking=codes[1],
    )
    archive = folder / f"lib{library}.a"
    archive.unlink(missing_ok=True)
    with tempfile.TemporaryDirectory() as work:
        objects = []
        for name, text in ((f"{library}_calls.s", assembly(library, names)), (f"{library}_resolver.c", resolver)):
            source = pathlib.Path(work, name)
            source.write_text(text)
            objects.append(source.with_suffix(".o"))
            subprocess.run(["cc", "-c", "-O2", "-fPIC", "-o", objects[-1], source], check=True)
        subprocess.run(["ar", "crs", archive, *objects], check=True)


def main():
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    sources, folder = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2])
    folder.mkdir(parents=True, exist_ok=True)
    for library, part, files, codes in LIBRARIES:
        path = sources / "src" / part / "sys" / "mod.rs"
        functions = declared(path.read_text())
        if not functions:
            sys.exit(f"{path} declares no function that could be read: its layout has changed")
        build(library, functions, files, codes, folder)
        print(f"lib{library}.a: {len(functions)} functions of {files[0]}")


if __name__ == "__main__":
    main()
