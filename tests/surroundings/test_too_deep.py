"""Calls near the limit of recursion: one that goes too deep is a RecursionError, and leaves nothing locked behind.

Taking a lock may need fewer nested calls than giving it back, so there may be depths at which only the second fails.
"""

from __future__ import annotations

import sys

import pytest

from cachebox import Cache, DistributedCache, WriteBehind, WriteThrough, cached
from in_threads import Started


class Rows(dict):
    """A store."""

    load, save, delete = dict.__getitem__, dict.__setitem__, dict.__delitem__


CALLS = {
    "set": lambda c: c.set("a", 1), "get": lambda c: c.get("b", 0), "delete": lambda c: c.delete("a"),
    "set_many": lambda c: c.set_many({"a": 1, "b": 2}), "delete_many": lambda c: c.delete_many(["a", "b"]),
    "get_many": lambda c: c.get_many(["a", "b"]), "get_or_set": lambda c: c.get_or_set("c", lambda: 1),
    "increment": lambda c: c.increment("n"), "add": lambda c: c.add("d", 1), "clear": lambda c: c.clear(),
    "invalidate_tag": lambda c: c.invalidate_tag("tag"),
}
MADE = {
    "cache": lambda: Cache(4, default_ttl=60),
    "folder": lambda: DistributedCache(url="memory://"),
    "through": lambda: WriteThrough(Cache(4), Rows()),
    "behind": lambda: WriteBehind(Cache(4), Rows(), max_delay=0.001),
}


def at_depth(depth, call):
    return call() if depth == 0 else at_depth(depth - 1, call)


def too_deep(call):
    """Make a call at every depth at which a part of it may be too deep. How often it was."""
    raised = 0
    limit = sys.getrecursionlimit()
    for depth in range(limit - 90, limit):
        try:
            at_depth(depth, call)
        except RecursionError:
            raised += 1
        except Exception:                       # the call has made another exception of it
            pass
    return raised


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("made", MADE)
def test_a_call_that_goes_too_deep_leaves_no_lock_behind(made, call):
    cache = MADE[made]()
    for each in CALLS.values():                 # imports what it needs
        each(cache)
    try:
        assert Started(too_deep, lambda: CALLS[call](cache)).result()
        for each in CALLS.values():
            Started(each, cache).result()
        cache.set("a", "b")
        assert Started(cache.get, "a").result() == "b"
    finally:
        if hasattr(cache, "close"):
            cache.close()


def test_a_function_that_goes_too_deep_leaves_no_lock_behind():
    with DistributedCache(url="memory://") as cache:
        count = cached(cache, name="count")(lambda n: n and count(n - 1) + 1)
        with pytest.raises(RecursionError):
            count(10_000)
        assert Started(count, 3).result() == 3
