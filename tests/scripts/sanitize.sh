#!/usr/bin/env bash
# The unsafe parts of the operations on processors under AddressSanitizer, with the instructions of this machine: reads and
# writes outside of what they were given, and after it was given back. The sanitizer comes with the compiler; it is not a
# stable part of it, so that the crate of this project alone is compiled in this way (sanitized.sh). Leaks are not looked
# for: the thread pool lives as long as the process.
set -euo pipefail
cd "$(dirname "$0")/../.."
export RUSTC_WORKSPACE_WRAPPER=$PWD/tests/scripts/sanitized.sh ASAN_OPTIONS=detect_leaks=0 PROPTEST_CASES=${PROPTEST_CASES:-40}
# Without arguments: kernels, backends, what maps and reads weights, and vectors that are there already.
cargo test --lib -- "${@:-nn::}"
