"""The bound of a folder: bytes on the disk, the entries that leave, and values that are too large."""

from __future__ import annotations

import math
import os
import random
import shutil
import sys
import tempfile
import time
from pathlib import Path

import pytest

from both_kinds import KINDS, make
from cachebox import BackendRefused, DistributedCache
from cachebox.distributed._embedded.room import LEAST, Room
from in_threads import wait_until

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="there are no folders on Windows yet")
MEMORY = "/dev/shm" if os.path.isdir("/dev/shm") else None


@pytest.fixture
def root():
    path = tempfile.mkdtemp(prefix="cachebox-test-", dir=MEMORY)
    yield Path(path)
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture
def at(root):
    return {"url": f"file://{root}/cache", "timeout": 5.0, "on_unavailable": "raise", "size_limit": "32MiB"}


def taken(root) -> int:
    """Bytes on the disk."""
    return sum(path.stat().st_blocks * 512 for path in root.rglob("*") if path.is_file())


def fill(cache, n, size=60_000, start=0):
    for i in range(start, start + n):
        cache.set(f"filler{i}", "x" * size)


def test_the_bound_holds_and_the_newest_are_there(root, at):
    most = 0
    with DistributedCache(**at, max_size=1) as cache:
        for part in range(16):
            fill(cache, 50, start=part * 50)        # 48 MB in all
            most = max(most, taken(root))
        assert most <= LEAST
        assert cache.stats.evictions > 300
        kept = cache.get_many(f"filler{i}" for i in range(800))
        assert "filler799" in kept
        assert sum(map(len, kept.values())) > 0.6 * LEAST
    assert taken(root) <= LEAST


def test_small_entries_too(root, at):
    with DistributedCache(**at, max_size=1) as cache:
        most = 0
        for part in range(10):
            for at_once in range(0, 1600, 400):
                cache.set_many({f"k{part}:{i}": "x" * 1900 for i in range(at_once, at_once + 400)})
            for i in range(200):
                cache.set(f"k{part}:{i + 8000}", "x" * 1900)
            most = max(most, taken(root))
        assert most <= LEAST and cache.stats.evictions > 1000


def test_what_is_used_stays_also_what_first_tiers_serve(root, at):
    with DistributedCache(**at, max_size=100) as cache, DistributedCache(**at, max_size=1) as other:
        for i in range(20):
            cache.set(f"hot{i}", i)
            cache.get(f"hot{i}")
            cache.set(f"cold{i}", i)
        for part in range(12):
            for i in range(20):
                assert cache.get(f"hot{i}") == i        # from memory
            fill(other, 60, start=part * 60)
        assert cache.stats.remote_hits < 60             # others may share a counter
        other.get("nothing")
        assert len(other.get_many(f"hot{i}" for i in range(20))) == 20
        assert len(other.get_many(f"cold{i}" for i in range(20))) < 20


@pytest.mark.parametrize("kind", KINDS)
def test_a_value_too_large_for_the_bound_is_refused_and_empties_nothing(at, kind):
    with make(kind, **at) as cache:
        cache.set("a", 1)
        large = "x" * 8_000_000
        with pytest.raises(BackendRefused, match="more than one write may have where size_limit is 33,554,432"):
            cache.set("b", large)
        with pytest.raises(BackendRefused):
            cache.set_many({f"k{i}": "x" * 100_000 for i in range(100)})
        assert cache.get_many(["a", "b", "k0"]) == {"a": 1}
        cache.set("a", 2)
        assert cache.stats.evictions == 0
    with make(kind, **{**at, "on_unavailable": "local"}) as cache:
        assert cache.get_or_set("c", lambda: large) == large
        assert cache.get("c") is None and cache.get("a") == 2


def test_tags_that_no_entry_has_any_more_make_room(root, at):
    """Each entry has a tag of its own. A tag that is in use stays with its entry, also if first tiers serve it."""
    with DistributedCache(**at) as cache:
        cache.set("used", 1, tags=["shared"])
        for i in range(4000):                           # 80 MB, and as much again for the tags
            cache.set(f"k{i}", i, tags=[f"{i} {'t' * 10_000}", "shared"])
            if i % 20 == 0:
                assert cache.get("used") == 1
                assert taken(root) <= LEAST
        assert len(cache.get_many([f"k{i}" for i in range(4000)])) > 400
        cache.invalidate_tag("shared")
        assert cache.get_many(["used", "k3999"]) == {}


def test_tags_count_for_the_bound(root, at):
    with DistributedCache(**at) as cache:
        fill(cache, 500)
        cache.set("long", 1, tags=[f"{i} {'t' * 60_000}" for i in range(30)])
        for _ in range(20):                             # each time with all the tags
            cache.touch("long", 1000)
            cache.increment("long")
            cache.compute("long", lambda value: value + 1)
            fill(cache, 1)
            assert taken(root) <= LEAST
        assert cache.get("long") == 41
        with pytest.raises(BackendRefused, match="more than one write may have"):
            cache.set("longer", 1, tags=[f"{i} {'t' * 60_000}" for i in range(250)])
        assert cache.get("long") == 41 and taken(root) <= LEAST


def test_what_was_cleared_makes_room(root, at):
    with DistributedCache(**at, max_size=1) as cache:
        fill(cache, 300)
        cache.clear()
        store = cache._core.topology.store
        count = "SELECT count(*) FROM e"
        wait_until(lambda: store.read(lambda execute, page: execute(count).fetchone(), time.monotonic() + 9) == (0,))
        fill(cache, 300)
        assert cache.stats.evictions == 0


@pytest.mark.parametrize("limit", [LEAST, 64 << 20, 10**9, 10**12])
def test_the_parts_of_the_bound_add_up(limit):
    room = Room(limit)
    assert room.most_in_log * 4096 > 4_500_000
    assert room.most_pages * 4096 + room.most_in_log * 4120 < limit
    assert room.most_pages * 4096 > 0.7 * limit


@pytest.mark.slow
def test_random_programs_stay_within_the_bound(root, at):
    dice = random.Random(1)
    with DistributedCache(**at, max_size=10) as cache:
        for _ in range(3000):
            size = int(math.exp(dice.uniform(0, math.log(1_000_000))))
            how = dice.random()
            if how < 0.6:
                cache.set(f"k{dice.randrange(5000)}", "x" * size, tags=["t"] if dice.random() < 0.1 else ())
            elif how < 0.8:
                cache.set_many({f"k{dice.randrange(5000)}": "y" * (size // 20) for _ in range(20)})
            elif how < 0.9:
                cache.get(f"k{dice.randrange(5000)}")
            elif how < 0.99:
                cache.delete_many(f"k{dice.randrange(5000)}" for _ in range(50))
            elif how < 0.995:
                cache.invalidate_tag("t")
            else:
                cache.clear()
            assert taken(root) <= LEAST
