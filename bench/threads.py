"""Several threads on one cache: a crew of threads that run the same loop at the same time.

Each thread makes its own key objects, equal to those in the cache, as a server's threads make theirs from requests; and
each has its own bound method. Without the GIL an object that threads share is counted with atomic instructions, and the
benchmark must measure the cache, not those.
"""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable, Sequence
from typing import Any

from bench.measure import Candidate, clock, compile_loop, shuffled
from bench.peers import Container, containers
from bench.workloads import text_keys

BATCH = 200_000                     # operations of one thread in one sample: several of the GIL's switching intervals
PATIENCE = 60                       # seconds after which threads stop waiting for each other
CREWS = {"1 thread": 1, "2 threads": 2, **({"4 threads": 4} if (os.cpu_count() or 1) >= 4 else {})}

Loop = Callable[[Sequence[Any]], float]


class _Shift:
    """The shared state of a crew's threads: the barriers where they meet, and their next loops (None: end)."""

    def __init__(self, count: int) -> None:
        self.ready = threading.Barrier(count + 1, timeout=PATIENCE)
        self.done = threading.Barrier(count + 1, timeout=PATIENCE)
        self.loops: list[Loop] | None = []
        self.spans = [(0.0, 0.0)] * count

    def end(self, threads: list[threading.Thread]) -> None:
        self.loops = None
        self.ready.wait()
        for thread in threads:
            thread.join()


def _work(shift: _Shift, i: int, keys: Sequence[str]) -> None:
    own = ["".join([key[:1], key[1:]]) for key in keys]         # equal, but made here
    batch = shuffled(own, batch=BATCH, seed=i)[0]
    while True:
        shift.ready.wait()
        if shift.loops is None:
            return
        start = clock()
        shift.loops[i](batch)
        shift.spans[i] = (start, clock())
        shift.done.wait()


class Crew:
    """Threads that wait for loops to run together, and end when the crew is no longer needed."""

    def __init__(self, count: int, keys: Sequence[str]) -> None:
        self.count = count
        self._shift = _Shift(count)
        threads = [threading.Thread(target=_work, args=(self._shift, i, keys), daemon=True) for i in range(count)]
        for thread in threads:
            thread.start()
        weakref.finalize(self, self._shift.end, threads)

    def run(self, loops: list[Loop]) -> float:
        """Let each thread run its loop over its batch; returns the seconds per operation, over all threads together."""
        shift = self._shift
        shift.loops = loops
        shift.ready.wait()
        shift.done.wait()
        starts, ends = zip(*shift.spans, strict=True)
        return (max(ends) - min(starts)) / (self.count * BATCH)

    def candidate(self, name: str, make_loop: Callable[[], Loop]) -> Candidate:
        loops = [make_loop() for _ in range(self.count)]        # a code object for each thread
        return Candidate(name, lambda: self.run(loops))


def reads(names: Sequence[str], threads: int) -> list[Candidate]:
    """Get keys that are all present, from one cache."""
    return _on_one_cache(names, threads, lambda store: "get(key)")


def reads_and_writes(names: Sequence[str], threads: int) -> list[Candidate]:
    """Nine gets of a key, and a set of it, on one cache; one operation is all ten."""
    return _on_one_cache(names, threads, lambda store: "\n".join(["get(key)"] * 9 + [store]))


def _on_one_cache(names: Sequence[str], threads: int, statement: Callable[[str], str]) -> list[Candidate]:
    keys = text_keys(1000)
    crew = Crew(threads, keys)
    made = []
    for each in containers(*names):
        cache = each.filled(keys)

        def loop(each: Container = each, cache: Any = cache) -> Loop:
            return compile_loop(statement(each.store), get=cache.get, cache=cache, **each.names)

        made.append(crew.candidate(each.name, loop))
    return made
