#!/usr/bin/env bash
# In the place of the compiler, for crates of this project alone: with AddressSanitizer. See sanitize.sh.
set -euo pipefail
case " $* " in
*" --crate-name embed_collections "*) RUSTC_BOOTSTRAP=1 exec "$@" -Zsanitizer=address ;;
*) exec "$@" ;;
esac
