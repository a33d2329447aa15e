"""`record`: writes the requests of a running cache into a file that `simulate` can read."""

from __future__ import annotations

import os
import threading
from typing import BinaryIO, cast

from cachebox._platform.thread import Thread
from cachebox._simulation.tap import Tap
from cachebox.cache import Cache

TYPE_CHECKING = False               # as everywhere in the package
if TYPE_CHECKING:
    from typing import Any

ROOM = 1 << 20                      # requests between two visits of the writing thread
VISITS_APART = 0.02                 # seconds


def record(cache_or_function: Any, path: str | os.PathLike[str], *, sample: float = 1.0) -> Recording:
    """A context manager that writes the requests of a cache into a file: hashes of keys, never keys.

    Args:
        cache_or_function: a `Cache`, or a cached function: all requests of its cache are written, from any caller.
        path: the file, which is overwritten: little-endian 64-bit numbers (`.u64`), gzipped if the name ends in ".gz".
        sample: the share of the keys that is recorded, above 0 and up to 1. Sizes to simulate shrink with it.

    A request is a hit, an overwrite, or a new key (a load or a `set`). The numbers come from hashes of 32 bits, which
    differ between processes. One daemon thread writes during the recording; a hit costs a little more meanwhile, and
    nothing afterwards. Raises RuntimeError if the cache is being recorded already, and OSError if the file cannot be
    written: at the beginning, or at the end for an error in between.

    >>> import tempfile, os
    >>> from cachebox import Cache
    >>> cache = Cache()
    >>> file = os.path.join(tempfile.mkdtemp(), "load.u64")
    >>> with record(cache, file) as recording:
    ...     cache.set("a", 1)
    ...     cache.get("a")
    1
    >>> recording.requests, os.path.getsize(file)
    (2, 16)
    """
    cache = cache_or_function if isinstance(cache_or_function, Cache) else getattr(cache_or_function, "cache", None)
    if not isinstance(cache, Cache):
        kind = type(cache_or_function).__name__
        raise TypeError(f"cache_or_function must be a Cache or a cached function that has one, not {kind}")
    if isinstance(sample, bool) or not isinstance(sample, (int, float)):
        raise TypeError(f"sample must be a number above 0 and up to 1, not {type(sample).__name__}")
    if not 0.0 < sample <= 1.0:
        raise ValueError(f"sample must be above 0 and up to 1, not {sample!r}")
    return Recording(cache, os.path.abspath(os.fspath(path)), float(sample))


class Recording:
    """The result of `record`: it records between its `__enter__` and its `__exit__`.

    Attributes:
        requests: the number of requests written so far.
        lost: the number of requests that came faster than they could be written.
    """

    def __init__(self, cache: Cache[Any, Any], path: str, sample: float) -> None:
        self.cache, self.path, self.sample = cache, path, sample
        self.requests = self.lost = 0
        self.error: Exception | None = None

    def __enter__(self) -> Recording:
        self.tap = Tap(self.cache, ROOM, self.sample)
        try:
            self.file = open_to_write(self.path)
            self.ended = threading.Event()
            self.thread = Thread("cachebox-recorder", self.run)
            self.thread.start()
        except BaseException:
            self.tap.close()
            raise
        return self

    def __exit__(self, *exception: object) -> None:
        self.tap.close()
        self.ended.set()
        self.thread.join()
        self.write()
        try:
            self.file.close()
        except OSError as error:
            self.error = self.error or error
        if self.error is not None:
            raise self.error

    def run(self) -> None:
        while not self.ended.wait(VISITS_APART):
            self.write()

    def write(self) -> None:
        data = self.tap.take()
        self.lost = self.tap.lost
        if data and self.error is None:
            try:
                self.file.write(data)
            except OSError as error:
                self.error = error
            else:
                self.requests += len(data) // 8


def open_to_write(path: str) -> BinaryIO:
    if path.endswith(".gz"):
        import gzip

        return cast(BinaryIO, gzip.open(path, "wb", compresslevel=1))
    return open(path, "wb")
