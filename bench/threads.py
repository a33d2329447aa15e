"""Several threads on one cache: a crew of threads that run the same loop at the same time.

Each thread makes its own key objects, equal to those in the cache, as the threads of a server make theirs from what
they are asked; and each has its own bound method. Without the GIL an object that threads share is counted with
atomic instructions, and it is the cache that is to be measured, not those.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

from bench.measure import Candidate, clock, compile_loop, shuffled
from bench.peers import Container

BATCH = 200_000                     # operations of one thread in one sample: several of the GIL's switching intervals


class Crew:
    """Threads that wait for something to do together; a context manager that ends them."""

    def __init__(self, count: int, keys: Sequence[str]) -> None:
        self.count = count
        self.keys = keys
        self._ready = threading.Barrier(count + 1)
        self._done = threading.Barrier(count + 1)
        self._loops: list[Callable[[Sequence[Any]], float]] | None = []
        self._spans: list[tuple[float, float]] = [(0.0, 0.0)] * count
        self._threads = [threading.Thread(target=self._work, args=(i,)) for i in range(count)]

    def __enter__(self) -> Crew:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._loops = None
        self._ready.wait()
        for thread in self._threads:
            thread.join()

    def _work(self, i: int) -> None:
        own = ["".join([key[:1], key[1:]]) for key in self.keys]        # equal, but made here
        (batch, *_) = shuffled(own, batch=BATCH, seed=i)
        while True:
            self._ready.wait()
            if self._loops is None:
                return
            start = clock()
            self._loops[i](batch)
            self._spans[i] = (start, clock())
            self._done.wait()

    def together(self, loops: list[Callable[[Sequence[Any]], float]]) -> float:
        """Let each thread run its loop over its batch; the seconds per operation, of all threads together."""
        self._loops = loops
        self._ready.wait()
        self._done.wait()
        starts, ends = zip(*self._spans, strict=True)
        return (max(ends) - min(starts)) / (self.count * BATCH)

    def reads(self, container: Container) -> Candidate:
        """A candidate that gets keys that are all in one cache."""
        cache = container.filled(self.keys)
        loops = [compile_loop("get(key)", get=cache.get) for _ in range(self.count)]
        return Candidate(container.name, lambda: self.together(loops))
