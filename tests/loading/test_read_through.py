"""Read-through: a cache with a loader."""

from __future__ import annotations

import threading

import pytest

from cachebox import Cache
from in_threads import Started, is_same, must_end, run_all, wait_for, wait_until


class Source:
    """A store to load from, which notes how it was asked."""

    def __init__(self, **values):
        self.values = values
        self.asked = []

    def load(self, key):
        self.asked.append(key)
        return self.values[key]


class Bulk(Source):
    def load_many(self, keys):
        assert type(keys) is list
        self.asked.append(tuple(keys))
        return {key: self.values[key] for key in keys if key in self.values}


def test_get_and_subscription_load_what_is_missing_once(any_policy, clock):
    source = Source(a=1, none=None)
    cache = Cache(loader=source, policy=any_policy, clock=clock, default_ttl=10)
    assert (cache.get("a"), cache["a"], cache.get("none", 7), cache["none"]) == (1, 1, None, None)
    assert source.asked == ["a", "none"]
    assert (cache.stats.hits, cache.stats.misses, cache.stats.sets) == (2, 2, 2)
    assert cache.ttl("a") == 10
    clock.now += 10
    assert cache["a"] == 1 and source.asked == ["a", "none", "a"]


def test_a_loader_may_be_a_callable():
    assert Cache(loader=str.upper)["a"] == "A"


@pytest.mark.parametrize(
    "look",
    [
        lambda c: "a" in c,
        lambda c: c.peek("a"),
        lambda c: c.pop("a", None),
        lambda c: pytest.raises(KeyError, c.ttl, "a"),
        lambda c: c.touch("a"),
        lambda c: (list(c), len(c), list(c.items()), c == {}),
        lambda c: c.get_or_set("a", lambda: "own"),
        lambda c: c.setdefault("a", "own"),
        lambda c: c.delete("a"),
    ],
)
def test_nothing_else_loads(look):
    source = Source(a=1)
    look(Cache(loader=source))
    assert source.asked == []


def test_a_key_error_of_the_loader_means_that_there_is_none(clock):
    source = Source(a=1)
    cache = Cache(loader=source, clock=clock)
    assert cache.get("x") is None and cache.get("x", 5) == 5
    with pytest.raises(KeyError) as caught:
        cache["x"]
    assert caught.value.args == ("x",)
    assert "x" not in cache and len(cache) == 0 and len(source.asked) == 3
    assert cache.get_many(["a", "x"]) == {"a": 1}


def test_other_exceptions_pass_and_nothing_is_stored():
    error = OSError("down")

    def fail(key):
        raise error

    cache = Cache(loader=fail)
    for call in (cache.get, cache.__getitem__, lambda key: cache.get_many([key])):
        with pytest.raises(OSError, match="down") as caught:
            call("a")
        assert caught.value is error
    assert len(cache) == 0


def test_loads_are_counted_and_measured():
    source = Source(a=1)
    cache = Cache(loader=source)
    cache.get("a"), cache.get("a"), cache.get("x")
    stats = cache.stats
    assert (stats.load_success, stats.load_failure) == (1, 1)
    assert stats.load_time == stats.get("load_time") > 0.0
    cache.get_or_set("b", int)
    assert stats.load_success == 1
    before = stats.snapshot()
    cache.clear()
    assert (stats.load_success, stats.load_failure, stats.load_time) == (0, 0, 0.0)
    assert before.load_time > 0.0 and (before - before).load_time == 0.0


def test_get_many_loads_what_is_missing_together():
    source = Bulk(a=1, b=2, c=3)
    cache = Cache(loader=source)
    cache["a"] = "old"
    assert cache.get_many(["c", "a", "x", "b", "c"]) == {"c": 3, "a": "old", "b": 2}
    assert list(cache.get_many(["c", "a", "b"])) == ["c", "a", "b"]
    assert source.asked == [("c", "x", "b")]
    assert (cache.stats.hits, cache.stats.misses) == (4, 4)
    assert cache.stats.load_success == 1


def test_get_many_without_load_many_loads_each():
    source = Source(a=1, b=2)
    assert Cache(loader=source).get_many(["a", "x", "b"]) == {"a": 1, "b": 2}
    assert source.asked == ["a", "x", "b"]


def test_a_key_error_of_load_many_is_asked_about_one_by_one():
    class Strict(Bulk):
        def load_many(self, keys):
            return {key: self.values[key] for key in keys}

    source = Strict(a=1, b=2)
    assert Cache(loader=source).get_many(["a", "x", "b"]) == {"a": 1, "b": 2}
    assert source.asked == ["a", "x", "b"]


def test_load_many_that_fails_or_returns_nonsense_fails_the_call():
    class Broken(Bulk):
        answer = 5

        def load_many(self, keys):
            if self.answer == 5:
                return 5
            raise OSError

    cache = Cache(loader=Broken())
    with pytest.raises(TypeError, match="load_many must return a dict"):
        cache.get_many(["a", "b"])
    cache = Cache(loader=Broken())
    Broken.answer = 6
    with pytest.raises(OSError):
        cache.get_many(["a", "b"])
    assert len(cache) == 0


def test_keys_that_load_many_adds_are_not_stored():
    class More(Bulk):
        def load_many(self, keys):
            return self.values

    cache = Cache(loader=More(a=1, b=2, c=3))
    assert cache.get_many(["a", "x"]) == {"a": 1} and list(cache) == ["a"]


@must_end
def test_threads_that_miss_one_key_load_it_once():
    started, go = threading.Event(), threading.Event()
    calls = []

    def load(key):
        calls.append(key)
        started.set()
        wait_for(go)
        return [key]

    cache = Cache(loader=load)
    leader = Started(cache.get, "a")
    wait_for(started)
    waiters = [Started(cache.__getitem__, "a") for _ in range(8)] + [Started(cache.get_many, ["a"])]
    wait_until(lambda: cache.stats.misses == 10)
    go.set()
    value = leader.result()
    assert all(waiter.result() is value for waiter in waiters[:-1]) and waiters[-1].result() == {"a": value}
    assert calls == ["a"] and cache.stats.misses == 10


@must_end
@pytest.mark.parametrize("error", [KeyError("a"), OSError("down")])
def test_waiters_get_what_the_leader_gets(error):
    started, go = threading.Event(), threading.Event()

    def load(key):
        started.set()
        wait_for(go)
        raise error

    cache = Cache(loader=load)
    calls = [Started(cache.get, "a", "none")]
    wait_for(started)
    calls += [Started(cache.get, "a", "none") for _ in range(4)]
    wait_until(lambda: cache.stats.misses == 5)
    go.set()
    for call in calls:
        if isinstance(error, KeyError):
            assert call.result() == "none"
        else:
            with pytest.raises(OSError) as caught:
                call.result()
            assert is_same(caught.value, error)


@must_end
def test_a_factory_that_waited_for_a_loader_that_found_nothing_runs():
    started, go = threading.Event(), threading.Event()

    def load(key):
        started.set()
        wait_for(go)
        raise KeyError(key)

    cache = Cache(loader=load)
    reader = Started(cache.get, "a")
    wait_for(started)
    other = Started(cache.get_or_set, "a", lambda: "made")
    wait_until(lambda: cache.stats.misses == 2)
    go.set()
    assert reader.result() is None and other.result() == "made" and cache.peek("a") == "made"


@must_end
def test_bulk_loads_share_with_others_and_with_each_other():
    started, go = threading.Event(), threading.Event()

    class Slow(Bulk):
        def load_many(self, keys):
            started.set()
            wait_for(go)
            return super().load_many(keys)

    source = Slow(a=1, b=2, c=3)
    cache = Cache(loader=source)
    first = Started(cache.get_many, ["a", "b"])
    wait_for(started)
    one = Started(cache.get, "b")
    second = Started(cache.get_many, ["b", "c", "a"])
    wait_until(lambda: cache.stats.misses == 6)
    go.set()
    assert first.result() == {"a": 1, "b": 2} and one.result() == 2 and second.result() == {"a": 1, "b": 2, "c": 3}
    assert sorted(source.asked) == [("a", "b"), ("c",)]


@must_end
@pytest.mark.parametrize(
    "change",
    [
        lambda c: c.set("a", "new"),
        lambda c: c.delete("a"),
        lambda c: c.clear(),
        lambda c: c.delete_many(["a"]),
        lambda c: c.invalidate_prefix("a"),
        lambda c: c.pop("a", None),
        lambda c: c.compute("a", lambda old: "new"),
    ],
)
@pytest.mark.parametrize("bulk", [False, True])
def test_a_change_of_the_key_during_its_load_wins(change, bulk):
    class Meddling(Bulk):
        def load(self, key):
            change(cache)
            return super().load(key)

        def load_many(self, keys):
            change(cache)
            return super().load_many(keys)

    cache = Cache(loader=Meddling(a="loaded", b="loaded"))
    loaded = cache.get_many(["a", "b"])["a"] if bulk else cache["a"]
    assert loaded == "loaded" and cache.peek("a") in (None, "new")
    assert "b" not in cache or bulk


@must_end
def test_coming_back_to_the_key_from_inside_its_loader_loads_again():
    depth = []

    def load(key):
        depth.append(key)
        return cache[key] if len(depth) < 3 else "deep"

    cache = Cache(loader=load)
    assert cache["a"] == "deep" and len(depth) == 3


@must_end
def test_two_loaders_that_need_each_other_end():
    barrier = threading.Barrier(2)

    def load(key):
        if len(first) < 2:
            first.append(key)
            barrier.wait(30)
            return cache["b" if key == "a" else "a"]
        return key

    first = []
    cache = Cache(loader=load)
    assert set(run_all(lambda: cache["a"], lambda: cache["b"])) <= {"a", "b"}


def test_no_lock_is_held_during_a_load():
    def load(key):
        return Started(lambda: (cache.set("b", 1), cache["b"])).result()

    cache = Cache(loader=load)
    assert cache["a"] == (None, 1)


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"loader": 5}, TypeError, "loader"),
        ({"refresh_ahead": 0.5}, ValueError, "loader"),
        ({"stale_ttl": 5}, ValueError, "loader"),
        ({"loader": str, "refresh_ahead": 0}, ValueError, "refresh_ahead"),
        ({"loader": str, "refresh_ahead": 1}, ValueError, "refresh_ahead"),
        ({"loader": str, "refresh_ahead": float("nan")}, ValueError, "refresh_ahead"),
        ({"loader": str, "refresh_ahead": "0.5"}, TypeError, "refresh_ahead"),
        ({"loader": str, "refresh_ahead": True}, TypeError, "refresh_ahead"),
        ({"loader": str, "stale_ttl": 0}, ValueError, "stale_ttl"),
        ({"loader": str, "stale_ttl": "5"}, TypeError, "stale_ttl"),
        ({"cache_exceptions": (5,)}, TypeError, "cache_exceptions"),
        ({"cache_exceptions": (BaseException,)}, TypeError, "cache_exceptions"),
        ({"cache_exceptions": (OSError,), "exception_ttl": 0}, ValueError, "exception_ttl"),
        ({"exception_ttl": 5}, ValueError, "cache_exceptions"),
    ],
)
def test_bad_options_are_refused_by_name(options, error, words):
    with pytest.raises(error, match=words):
        Cache(**options)


def test_an_async_loader_has_to_be_awaited():
    async def load(key):
        return key

    with pytest.raises(TypeError, match=r"async.*aget"):
        Cache(loader=load).get("a")


def test_a_copy_loads_too(clock):
    cache = Cache(loader=str.upper, refresh_ahead=0.5, stale_ttl=5, default_ttl=10, clock=clock)
    cache["a"]
    copied = cache.copy()
    assert copied["b"] == "B" and "b" not in cache and copied.ttl("a") == 10
