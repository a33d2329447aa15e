"""Coverage-guided fuzzing of all code that reads foreign bytes: ``python tests/hostile/fuzz TARGET [SECONDS]``.

A target is a module next to this one. It has `SEEDS`, good inputs to begin with, and ``one(data)``, which returns
whatever the bytes are: its exceptions are findings. libFuzzer (the package atheris) makes the inputs. It sees Python
code; with the compiled part as `tests/hostile/fuzz.sh` builds it, it sees that, too. `tests/hostile/test_fuzz.py` runs
all targets for a moment, without any of this.
"""

from __future__ import annotations

import importlib
import sys
import tempfile
from pathlib import Path

NAMES = sorted(path.stem for path in Path(__file__).parent.glob("*.py") if path.stem != "__main__")


def main() -> None:
    if len(sys.argv) < 2 or sys.argv[1] not in NAMES:
        names = ", ".join(NAMES)
        raise SystemExit(f"usage: python tests/hostile/fuzz TARGET [SECONDS], where TARGET is one of {names}")
    try:
        import atheris
    except ImportError:
        raise SystemExit("fuzzing needs atheris: pip install atheris") from None
    with atheris.instrument_imports(include=["cachebox"]):
        target = importlib.import_module(sys.argv[1])
    seconds = sys.argv[2] if len(sys.argv) > 2 else "60"
    with tempfile.TemporaryDirectory(prefix="cachebox-fuzz-") as folder:
        for i, seed in enumerate(target.SEEDS):
            Path(folder, str(i)).write_bytes(seed)
        options = [
            f"-max_total_time={seconds}",
            "-max_len=4096",
            "-timeout=30",
            "-rss_limit_mb=2048",
            "-print_final_stats=1",
        ]
        atheris.Setup([sys.argv[0], *options, f"-artifact_prefix=fuzz-{sys.argv[1]}-", folder], target.one)
        atheris.Fuzz()


main()
