#!/usr/bin/env python3
"""Checks that two wheels have the same contents: same_wheels.py WHEEL WHEEL."""

import sys
import zipfile


def contents(path: str) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as wheel:
        return {name: wheel.read(name) for name in wheel.namelist()}


def main(first: str, second: str) -> int:
    one, other = contents(first), contents(second)
    different = sorted(name for name in one.keys() | other.keys() if one.get(name) != other.get(name))
    for name in different:
        print(f"different: {name}")
    print(f"{len(one)} files, {len(different) or 'none'} different")
    return bool(different)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
