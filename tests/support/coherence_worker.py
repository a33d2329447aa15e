"""A process of `test_embedded_coherence`: it writes or reads, and checks that no older value comes back.

Each key has one writer, which counts upwards. Shared memory has, for each key, the last count that returned to its
writer, and the last count that each reader saw. A read that begins later must not find less.
"""

from __future__ import annotations

import json
import mmap
import os
import random
import sys
import time

KEYS = 16
MOST = 8                                        # processes
ROOM = 8 * KEYS * (1 + MOST)


def shared(path):
    """The shared memory: the row of the written counts, then one row for each reader."""
    with open(path, "r+b") as file:
        return memoryview(mmap.mmap(file.fileno(), ROOM)).cast("Q")


class Broken:
    """A page that violates the protocol, to prove that the test notices."""

    def __init__(self, page, how):
        self.__dict__.update(page=page, how=how)

    def __getattr__(self, name):
        return getattr(self.page, name)

    def __setattr__(self, name, value):
        setattr(self.page, name, value)

    def open(self, hashes, tags=False):
        if self.how == "before":                # announces everything before the change, nothing after it
            self.page.open(hashes, tags)
            self.page.close(hashes, tags)

    def close(self, hashes, tags=False):
        if self.how == "after":                 # the reverse
            self.page.open(hashes, tags)
            self.page.close(hashes, tags)


def write(cache, number, writers, memory):
    """Count the keys of this writer upwards, in every possible way, without end."""
    mine = [k for k in range(KEYS) if k % writers == number]
    at = {k: cache.get(f"k{k}", 0) for k in mine}
    dice = random.Random(os.getpid())
    while True:
        k = dice.choice(mine)
        how = dice.random()
        at[k] += 1
        if how < 0.7:
            cache.set(f"k{k}", at[k], 1000 if how < 0.2 else None)
        elif how < 0.8:
            for other in mine:
                at[other] = at[k] = max(at.values()) + 1
            cache.set_many({f"k{other}": at[other] for other in mine})
            for other in mine:
                memory[other] = at[other]
        elif how < 0.9:
            at[k] = cache.increment(f"k{k}")
        else:
            cache.set(f"k{k}", at[k], tags=["t"])
        memory[k] = at[k]
        if how < 0.02:
            time.sleep(0.001)


def read(cache, number, memory, reads):
    """Read, and check that nothing is older than what was known before. Prints the numbers of reads, changes and
    faults."""
    rows = range(0, KEYS * (1 + MOST), KEYS)
    mine = KEYS * (1 + number)
    dice = random.Random(number)
    changes = stale = 0
    for i in range(reads):
        k = dice.randrange(KEYS)
        known = max(memory[row + k] for row in rows)
        value = cache.get(f"k{k}", 0) if i % 16 else cache.get_many([f"k{k}"]).get(f"k{k}", 0)
        stale += value < known
        if value > memory[mine + k]:
            changes += 1
            memory[mine + k] = value
    print(reads, changes, stale, cache.stats.local_hits, flush=True)


def main():
    from cachebox import DistributedCache

    at, path, role, number, n, broken = sys.argv[1:7]
    cache = DistributedCache(**json.loads(at))
    if broken:
        opened = cache._core.topology.store.opened(0.0)
        opened.page = Broken(opened.page, broken)
        cache._core.fast_path = None            # the fast path does not ask a Python page
    memory = shared(path)
    print("ready", flush=True)
    if role == "write":
        write(cache, int(number), int(n), memory)
    read(cache, int(number), memory, int(n))


if __name__ == "__main__":
    main()
