#!/usr/bin/env python3
"""Counts the lines of src without its tests: code, documentation and comments, for each room and in all.

    python3 tests/scripts/count_lines.py [DIRECTORY]      src of this repository if it is left out

Blank lines do not count, nor do files named tests.rs or *_tests.rs, folders named tests, and modules under
#[cfg(test)], in braces or in files of their own.
"""

import re
import sys
from collections import Counter
from pathlib import Path

ATTRIBUTES = r"^( *)#\[cfg\((?:all\()?test\b.*\)\]\n(?: *#\[.*\]\n)*"
# rustfmt closes a module at the indentation at which it begins.
IN_BRACES = re.compile(ATTRIBUTES + r" *(?:pub(?:\(.*\))? )?mod \w+ \{\n(?:.*\n)*?\1\}\n", re.MULTILINE)
IN_FILE = re.compile(ATTRIBUTES + r" *(?:pub(?:\(.*\))? )?mod (\w+);", re.MULTILINE)


def modules_of_tests(files):
    """The files and folders that modules under #[cfg(test)] may have."""
    for path, text in files.items():
        folder = path.parent if path.stem in ("mod", "lib", "main") else path.with_suffix("")
        for _, name in IN_FILE.findall(text):
            yield from (folder / name, folder / f"{name}.rs")


def count(src):
    files = {path.relative_to(src): path.read_text() for path in sorted(src.rglob("*.rs"))}
    of_tests = set(modules_of_tests(files))
    counted = Counter()
    for path, text in files.items():
        named = path.stem == "tests" or path.stem.endswith("_tests") or "tests" in path.parts[:-1]
        if not named and of_tests.isdisjoint([path, *path.parents]):
            counted[Path(path.parts[0]).stem] += sum(1 for line in IN_BRACES.sub("", text).splitlines() if line.strip())
    return counted


def main():
    src = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).resolve().parents[2] / "src"
    counted = count(src)
    for room, lines in counted.most_common():
        print(f"{lines:7} {room}")
    print(f"{sum(counted.values()):7} in all")


if __name__ == "__main__":
    main()
