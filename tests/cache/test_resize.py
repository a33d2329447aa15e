"""`Cache.resize` where many entries leave: the bound goes down in steps."""

from __future__ import annotations

import threading

import pytest

from cachebox import Cache, LRUPolicy
from in_threads import must_end

MANY = 5_000


def full(**options):
    cache = Cache(MANY, **options)
    cache.update(dict.fromkeys(range(MANY)))
    return cache


def test_the_victims_leave_in_order(any_policy):
    cache = full(policy=any_policy)
    order = list(cache)
    cache.resize(3)
    assert (cache.max_size, list(cache)) == (3, order[-3:])
    cache._check()


def test_there_are_never_more_entries_than_the_bound():
    seen = []
    cache = full(on_removal=lambda key, value, cause: seen.append((len(cache), cache.max_size, cause.name)))
    cache.resize(10)
    assert len(seen) == MANY - 10
    assert all(count <= bound for count, bound, _ in seen)
    assert {cause for *_, cause in seen} == {"SIZE"}
    assert len({bound for _, bound, _ in seen}) > 10, "it went down in one step"


def test_expired_entries_leave_first(clock):
    cache = Cache(2 * MANY, clock=clock)
    cache.update(dict.fromkeys(range(MANY)))
    cache.set_many(dict.fromkeys(range(MANY, 2 * MANY)), ttl=5)
    clock.now += 10
    cache.resize(MANY)
    assert list(cache) == list(range(MANY))


@pytest.mark.parametrize("options", [{"max_size": MANY}, {"max_size": MANY, "policy": LRUPolicy(MANY)}])
def test_a_callback_may_resize_the_cache_again(options):
    def larger(key, value, cause):
        if not asked:
            asked.append(key)
            cache.resize(2 * MANY)

    asked = []
    cache = Cache(**options, on_removal=larger)
    cache.update(dict.fromkeys(range(MANY)))
    cache.resize(10)
    assert cache.max_size == 2 * MANY, "the later call counts"
    assert "policy" not in options or options["policy"].max_size == 2 * MANY
    cache._check()


@pytest.mark.parametrize("bound", [MANY, None])
def test_an_interruption_leaves_the_bound_as_it_was(bound):
    def interrupt(key, value, cause):
        raise KeyboardInterrupt

    cache = Cache(bound, on_removal=interrupt)
    cache.update(dict.fromkeys(range(MANY)))
    with pytest.raises(KeyboardInterrupt):
        cache.resize(10)
    assert cache.max_size == bound
    assert 10 < len(cache) < MANY
    cache._check()


@must_end
def test_others_use_it_meanwhile():
    cache = full()
    began, ended = threading.Event(), threading.Event()

    def use():
        n = 0
        while not ended.is_set():
            n += 1
            cache.set(("new", n), n)
            assert cache.get(("new", n)) in (n, None)
            began.set()

    thread = threading.Thread(target=use)
    thread.start()
    assert began.wait(60)
    for size in (10, MANY, 10, None, 10):
        cache.resize(size)
        cache.update(dict.fromkeys(range(MANY)))
    ended.set()
    thread.join()
    assert (cache.max_size, len(cache)) == (10, 10)
    cache._check()
