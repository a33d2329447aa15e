#!/usr/bin/env python3
"""Checks that wheels and sdists contain what they should and nothing else: check_dist.py FILE ...

The tree says what that is. A wheel has the Python files, stubs and `py.typed` of `src`, and a compiled module for every
`.pyx` and `.c`, without debug information. An sdist has what git tracks, except files and folders whose names begin
with a dot.
"""

import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SHIPPED_AS_IS = {".py", ".pyi", ".typed"}
SOURCES = {".pyx", ".c"}
COMPILED = {".so", ".pyd"}


def tracked() -> set[str]:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, check=True, capture_output=True, text=True)
    return set(listed.stdout.splitlines())


def check_wheel(path: Path) -> list[str]:
    sources = {Path(name).relative_to("src") for name in tracked() if name.startswith("src/")}
    expected = {source.as_posix() for source in sources if source.suffix in SHIPPED_AS_IS}
    expected |= {source.with_suffix("").as_posix() + " (compiled)" for source in sources if source.suffix in SOURCES}
    found, problems = set(), []
    with zipfile.ZipFile(path) as wheel:
        for name in wheel.namelist():
            if ".dist-info/" in name:
                continue
            if Path(name).suffix in COMPILED:
                found.add(name.partition(".")[0] + " (compiled)")
                if b".debug_info" in wheel.read(name):
                    problems.append(f"debug information in {name}")
            else:
                found.add(name)
        problems += [f"no {kind}" for kind in ("LICENSE", "METADATA") if not any(kind in n for n in wheel.namelist())]
    return problems + differences(expected, found)


def check_sdist(path: Path) -> list[str]:
    expected = {name for name in tracked() if not name.startswith(".")}
    made_by_setuptools = {"PKG-INFO", "setup.cfg"}
    with tarfile.open(path) as sdist:
        names = {name.partition("/")[2] for name in (member.name for member in sdist if member.isfile())}
    found = {name for name in names - made_by_setuptools if ".egg-info/" not in name}
    return differences(expected, found)


def differences(expected: set[str], found: set[str]) -> list[str]:
    return [f"missing: {name}" for name in sorted(expected - found)] + [
        f"not wanted: {name}" for name in sorted(found - expected)
    ]


def main() -> int:
    problems = []
    for path in map(Path, sys.argv[1:]):
        found = check_wheel(path) if path.suffix == ".whl" else check_sdist(path)
        print(f"{path.name}: {len(found) or 'no'} problems, {path.stat().st_size / 1e6:.1f} MB")
        problems += found
    print("\n".join(problems), end="\n" if problems else "")
    return bool(problems)


if __name__ == "__main__":
    sys.exit(main())
