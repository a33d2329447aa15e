#!/usr/bin/env python3
"""Checks that wheels are small, and compiled as `setup.py` says: check_wheel.py WHEEL ...

Each compiled module has no debug information, only the symbols that it exports, only libraries of the system, and
exports only its entry point. A wheel may have 1.5 MiB.
"""

import re
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

LIMIT = 1536 * 1024
LIBRARIES = {"libc.so.6", "libm.so.6", "libpthread.so.0", "librt.so.1", "ld-linux-x86-64.so.2"}


def said(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def check(module: Path) -> list[str]:
    """The problems of a compiled module."""
    name = module.name
    sections = said("readelf", "--wide", "--section-headers", str(module))
    found = [f"{name} has {kind}" for kind in (".debug_info", ".symtab") if f" {kind} " in sections]
    needed = set(re.findall(r"\(NEEDED\).*\[(.*)\]", said("readelf", "--dynamic", str(module))))
    found += [f"{name} needs {library}" for library in sorted(needed - LIBRARIES)]
    exported = [line.split()[-1] for line in said("nm", "--dynamic", "--defined-only", str(module)).splitlines()]
    found += [f"{name} exports {symbol}" for symbol in exported if not symbol.startswith("PyInit_")]
    return found


def main(wheels: list[str]) -> int:
    problems = []
    for wheel in map(Path, wheels):
        size = wheel.stat().st_size
        print(f"{wheel.name}: {size / 1024 ** 2:.2f} MiB")
        if size > LIMIT:
            problems.append(f"{wheel.name} has {size:,} bytes; {LIMIT:,} are allowed")
        with tempfile.TemporaryDirectory() as folder:
            zipfile.ZipFile(wheel).extractall(folder)
            modules = sorted(Path(folder).rglob("*.so"))
            problems += [problem for module in modules for problem in check(module)]
            if not modules:
                problems.append(f"{wheel.name} has no compiled module")
    print("\n".join(problems), end="\n" * bool(problems))
    return bool(problems)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
