"""One of the processes of a demo (`workers`): works through words behind a cache in two tiers.

It prints its counters as a line of JSON a few times a second, and ends when its input does.
"""

from __future__ import annotations

import json
import os
import random
import sys
import threading
import time

REPORTS_APART = 0.1                             # seconds
WORDS = 2000


def main(url: str, seed: int, timeout: float, changes: float = 0.0, log: str = "") -> None:
    """Work until standard input ends.

    Args:
        url: the URL of the cache.
        seed: seed of the random choice of words.
        timeout: seconds for a call.
        changes: the share of calls after which the returned result is invalidated.
        log: a file that gets a line for each computed word, if not empty.
    """
    from cachebox import BackendUnavailable, DistributedCache, cached
    from cachebox.cli.nearest import nearest
    from cachebox.cli.words import find_sources, read_words

    dice = random.Random(seed)
    words = sorted(set(read_words(find_sources()[:80])))[:WORDS]
    weights = [1 / rank for rank in range(1, len(words) + 1)]       # some words are requested far more often
    random.Random(1).shuffle(words)
    changed = refused = 0
    over = threading.Event()
    computed = os.open(log, os.O_WRONLY | os.O_APPEND) if log else None

    def compute(word: str) -> str:
        found = nearest(word)
        if computed is not None:
            os.write(computed, f"{word}\n".encode())                # one step, even if other processes write, too
        return found

    def wait_for_the_end() -> None:
        sys.stdin.read()
        over.set()

    def report() -> None:
        print(json.dumps({**cache.stats.get_all(), "changes": changed, "refused": refused}), flush=True)

    threading.Thread(target=wait_for_the_end, daemon=True).start()
    with DistributedCache(url=url, namespace="cachebox-demo", max_size=500, timeout=timeout) as cache:
        function = cached(cache, ttl=600, name="nearest")(compute)
        told_at = 0.0
        while not over.is_set():
            for word in dice.choices(words, weights, k=20):
                function(word)
                if dice.random() < changes:
                    try:
                        changed += function.invalidate(word)        # its result has changed, for everybody
                    except BackendUnavailable:
                        refused += 1
            if time.monotonic() >= told_at + REPORTS_APART:
                told_at = time.monotonic()
                report()
            time.sleep(0.001)                   # a process that only computed would leave the others no processor
        report()


if __name__ == "__main__":
    main(**json.loads(sys.argv[1]))
