"""Counts the instructions of the hottest paths: numbers that repeat even on a busy machine.

    python -m bench.instructions                show them next to the committed ones
    python -m bench.instructions check          the same; fails if a path has grown by more than 5 %
    python -m bench.instructions update         commit what is measured: writes bench/instructions.json

Needs valgrind. A path runs under callgrind twice, 5,000 and 25,000 times. The difference, less that of an empty loop,
is the number of instructions of one operation. PYTHONHASHSEED fixes the hashes of str; the seed of the cache's table
stays random, so numbers differ by a percent from run to run.

The committed numbers are stored by interpreter build and C library. On others they would differ for reasons outside of
this package, so `check` says so and passes.
"""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import subprocess
import sys
import sysconfig
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from bench.paths import EMPTY, PATHS

FILE = Path(__file__).with_suffix(".json")
ROOT = Path(__file__).resolve().parent.parent
FEW, MANY = 5_000, 25_000
ALLOWED = 1.05                      # growth that does not fail


# --- counting ---------------------------------------------------------------------------------------------------------


def measure() -> dict[str, float]:
    """Instructions per operation, by path."""
    if shutil.which("valgrind") is None:
        sys.exit("needs valgrind, which is not here (apt install valgrind)")
    jobs = [(path, count) for path in PATHS for count in (FEW, MANY)]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        counted = dict(zip(jobs, pool.map(lambda job: instructions(*job), jobs), strict=True))
    each = {path: (counted[path, MANY] - counted[path, FEW]) / (MANY - FEW) for path in PATHS}
    return {path: round(each[path] - each[EMPTY], 1) for path in PATHS if path != EMPTY}


def instructions(path: str, count: int) -> int:
    """The instructions of a whole process that runs a path `count` times."""
    tool = ["valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null"]
    command = [*tool, sys.executable, "-m", "bench.paths", path, str(count)]
    environment = {**os.environ, "PYTHONHASHSEED": "0", "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
    found = re.search(r"Collected : (\d+)", done.stderr)
    if done.returncode != 0 or found is None:
        raise RuntimeError(f"{path}: {done.stderr[-2000:]}")
    return int(found[1])


def build() -> str:
    """The interpreter's build and the C library: numbers of other builds cannot be compared."""
    libc = "-".join(platform.libc_ver())
    free = "t" if sysconfig.get_config_var("Py_GIL_DISABLED") else ""
    return f"{platform.python_version()}{free}, {' '.join(platform.python_build())}, {platform.python_compiler()}, " + (
        f"{libc}, {platform.machine()}"
    )


def main() -> int:
    what = " ".join(sys.argv[1:]) or "show"
    if what not in ("show", "check", "update"):
        sys.exit(__doc__)
    committed = json.loads(FILE.read_text()) if FILE.exists() else {}
    before = committed.get(build(), {})
    now = measure()
    grown = 0
    print(f"{'instructions per operation':30} {'committed':>10} {'now':>8}")
    for path, count in now.items():
        old = before.get(path)
        growth = "" if old is None else f"{100 * (count / old - 1):+7.1f} %"
        grown += old is not None and count > old * ALLOWED
        print(f"{path:30} {old if old is not None else '–':>10} {count:8.1f} {growth}")
    if what == "update":
        FILE.write_text(json.dumps(dict(sorted({**committed, build(): now}.items())), indent=1) + "\n")
    elif not before:
        print(f"no numbers are committed for this interpreter ({build()}): nothing to compare with")
    elif grown:
        print(f"{grown} of them by more than {ALLOWED - 1:.0%}", file=sys.stderr)
        return int(what == "check")
    return 0


if __name__ == "__main__":
    sys.exit(main())
