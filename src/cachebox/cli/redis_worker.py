"""One of the processes of ``demo --redis``: works through words behind a distributed cache, and tells how it goes.

It prints its counters as a line of JSON a few times a second, and ends when its input does.
"""

import json
import random
import sys
import threading
import time

REPORTS_APART = 0.1                             # seconds
CHANGES = 0.01                                  # of the calls, one in a hundred, are followed by a change
WORDS = 2000


def main(port: int, seed: int) -> None:
    from cachebox import BackendUnavailable, DistributedCache, cached
    from cachebox.cli.nearest import nearest
    from cachebox.cli.words import find_sources, read_words

    dice = random.Random(seed)
    words = sorted(set(read_words(find_sources()[:80])))[:WORDS]
    weights = [1 / rank for rank in range(1, len(words) + 1)]       # some words are asked for far more often
    random.Random(1).shuffle(words)
    changes = refused = 0
    over = threading.Event()

    def wait_for_the_end() -> None:
        sys.stdin.read()
        over.set()

    threading.Thread(target=wait_for_the_end, daemon=True).start()
    with DistributedCache(redis_port=port, namespace="cachebox-demo", max_size=500, timeout=0.2) as cache:
        function = cached(cache, ttl=60)(nearest)
        told_at = 0.0
        while not over.is_set():
            for word in dice.choices(words, weights, k=20):
                function(word)
                if dice.random() < CHANGES:
                    try:
                        changes += function.invalidate(word)        # its result has changed, for everybody
                    except BackendUnavailable:
                        refused += 1
            if time.monotonic() >= told_at + REPORTS_APART:
                told_at = time.monotonic()
                print(json.dumps({**cache.stats.get_all(), "changes": changes, "refused": refused}), flush=True)
            time.sleep(0.001)                   # a process that only computed would leave the others no processor


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
