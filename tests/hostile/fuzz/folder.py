"""The files of a folder (`file://`), closed: whatever they hold, what is read is what was written under that key, what
was forgotten does not come back, and the cache goes on."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from pathlib import Path

from cachebox import DistributedCache

MOMENT = 30                         # inputs of the short form: each opens and closes a folder
ROOT = Path(tempfile.mkdtemp(prefix="cachebox-fuzz-", dir="/dev/shm" if os.path.isdir("/dev/shm") else None))
atexit.register(shutil.rmtree, ROOT, True)
WRITTEN = {f"k{i}": [i, "x" * (i % 50)] for i in range(120)} | {"tagged": "t", "number": 3}
GONE = {"gone": "deleted", "cleared": "its tag was invalidated"}


def open_cache(root: Path) -> DistributedCache:
    return DistributedCache(url=f"file://{root}/cache", timeout=5.0, on_unavailable="raise")


def template() -> Path:
    root = ROOT / "template"
    with open_cache(root) as cache:
        cache.set_many({key: value for key, value in WRITTEN.items() if key[0] == "k"})
        cache.increment("number", 3)
        cache.set("tagged", WRITTEN["tagged"], tags=["a", "b"])
        cache.set("gone", GONE["gone"])
        cache.delete("gone")
        cache.set("cleared", GONE["cleared"], tags=["c"])
        cache.invalidate_tag("c")
    return root


TEMPLATE = template()
FILES = sorted(path.name for path in (TEMPLATE / "cache" / "cachebox").iterdir())
SEEDS = [bytes([which, how]) + at.to_bytes(3, "big") + b"\1\xff\0" for which in range(len(FILES)) for how in range(4)
         for at in (0, 100)]


def one(data: bytes) -> None:
    """A file; the change to it; its place; the bytes that are put there. This is repeated up to four times."""
    root = ROOT / "tried"
    shutil.rmtree(root, ignore_errors=True)
    shutil.copytree(TEMPLATE, root)
    for change in data.split(b"\r")[:4]:
        if len(change) >= 6:
            damage(root / "cache" / "cachebox" / FILES[change[0] % len(FILES)], change)
    with open_cache(root) as cache:
        found = cache.get_many([*WRITTEN, *GONE])
        assert found.items() <= WRITTEN.items(), {key: found[key] for key in found if found[key] != WRITTEN.get(key)}
        for key in "k1", "tagged", "gone":
            assert cache.get(key, WRITTEN.get(key)) == WRITTEN.get(key)
        cache.set("new", 1, tags=["a"])
        assert cache.get("new") == 1 and cache.increment("n") == 1
        cache.invalidate_tag("a")
        assert cache.get("new") is None
        cache.clear()
        assert cache.get_many([*WRITTEN, "n"]) == {}


def damage(path: Path, change: bytes) -> None:
    at = int.from_bytes(change[2:5], "big")
    size = path.stat().st_size
    with open(path, "r+b") as file:
        match change[1] % 4:
            case 0:
                file.seek(at % (size or 1))
                file.write(change[5:])
            case 1:                             # the numbers there describe all the rest
                file.seek(at % min(size or 1, 256))
                file.write(change[5:])
            case 2:
                file.truncate(at % (size + 1))
            case _:
                file.seek(size + at % 10_000)
                file.write(change[5:])
