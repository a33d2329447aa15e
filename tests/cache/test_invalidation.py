"""Tags, prefixes, predicates; and failures that are remembered."""

from __future__ import annotations

import asyncio
import pickle
import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cachebox import Cache, RemovalCause, cached
from in_threads import Started, must_end, run_all, wait_for


def test_a_tag_takes_its_entries_along(any_policy):
    told = []
    cache = Cache(policy=any_policy, on_removal=lambda *a: told.append(a))
    cache.set("a", 1, tags="t")
    cache.set("b", 2, tags=("t", "u"))
    cache.set("c", 3, tags=["u", "u"])
    cache.set("d", 4)
    assert cache.invalidate_tag("t") == 2 and list(cache) == ["c", "d"]
    assert told == [("a", 1, RemovalCause.EXPLICIT), ("b", 2, RemovalCause.EXPLICIT)]
    assert cache.stats.deletes == 2
    assert cache.invalidate_tag("t") == 0 and cache.invalidate_tag("unknown") == 0
    assert cache.invalidate_tag("u") == 1
    with pytest.raises(TypeError):
        cache.invalidate_tag([])


@pytest.mark.parametrize(
    "overwrite", [lambda c: c.set("a", 2), lambda c: c.update(a=2), lambda c: c.set_many({"a": 2})]
)
def test_an_overwrite_replaces_the_tags(overwrite):
    cache = Cache()
    cache.set("a", 1, tags="t")
    overwrite(cache)
    assert cache.invalidate_tag("t") == 0
    cache.set("a", 3, tags="u")
    assert cache.invalidate_tag("u") == 1


def test_a_change_in_place_keeps_the_tags():
    cache = Cache()
    cache.set("n", 1, tags="t")
    cache.increment("n"), cache.compute("n", lambda old: old + 1), cache.touch("n", 60)
    assert cache["n"] == 3 and cache.invalidate_tag("t") == 1


def test_expired_entries_do_not_count(clock):
    cache = Cache(clock=clock)
    cache.set("a", 1, ttl=10, tags="t")
    cache.set("b", 2, tags="t")
    clock.now += 10
    assert cache.invalidate_tag("t") == 1 and cache.stats.expired == 1


@pytest.mark.parametrize("tags", [5, b"t", [[]], None])
def test_tags_that_make_no_sense_change_nothing(tags):
    cache = Cache()
    with pytest.raises(TypeError, match="tags"):
        cache.set("a", 1, tags=tags)
    assert len(cache) == 0 and cache.stats.sets == 0


def test_tags_travel_with_copies_and_pickles(clock):
    cache = Cache()
    cache.set("a", 1, tags=("t", 5))
    for copied in (cache.copy(), pickle.loads(pickle.dumps(cache))):
        assert copied.invalidate_tag(5) == 1


def test_unused_tags_are_forgotten():
    cache = Cache(10)
    for n in range(5000):
        cache.set(n, n, tags=f"tag {n}")
    assert cache.invalidate_tag("tag 4999") == 1 and cache.invalidate_tag("tag 1") == 0
    import gc

    known = [thing.name for thing in gc.get_objects() if type(thing).__name__ == "Tag"]
    assert "tag 4999" in known and len([name for name in known if name.startswith("tag ")]) < 200


OPERATIONS = st.lists(
    st.tuples(
        st.sampled_from(["set", "set", "tagged", "tagged", "delete", "invalidate", "clear", "evict", "tick"]),
        st.integers(0, 7),
        st.sets(st.sampled_from("tuvw"), max_size=3),
    ),
    max_size=80,
)


@settings(max_examples=200, deadline=None)
@given(OPERATIONS, st.sampled_from(["LRU", "LFU", "FIFO", "AUTO"]))
def test_tags_against_a_model(operations, policy):
    now = [0.0]
    cache = Cache(5, policy=policy, default_ttl=3, clock=lambda: now[0])
    tags = {}
    for call, key, given_tags in operations:
        if call == "set":
            cache.set(key, key)
            tags[key] = set()
        elif call == "tagged":
            cache.set(key, key, tags=given_tags)
            tags[key] = given_tags
        elif call == "delete":
            cache.delete(key)
        elif call == "invalidate":
            for tag in given_tags:
                there = [key for key in cache if tag in tags[key]]
                assert cache.invalidate_tag(tag) == len(there) and not any(key in cache for key in there)
        elif call == "clear":
            cache.clear()
        elif call == "evict" and len(cache):
            cache.popitem()
        else:
            now[0] += 1
        cache._check()


@must_end
def test_tags_under_threads():
    cache = Cache(50)

    def work(n):
        for step in range(300):
            cache.set((n + step) % 60, step, tags=(f"t{step % 5}", f"only {n} {step}"))
            if step % 10 == 0:
                cache.invalidate_tag(f"t{n % 5}")

    run_all(*[lambda n=n: work(n) for n in range(6)])
    for n in range(5):
        cache.invalidate_tag(f"t{n}")
    assert len(cache) == 0


# --- cached(tags=...) -------------------------------------------------------------------------------------------------

def test_results_have_the_tags_of_their_function():
    cache = Cache()

    @cached(cache, tags=lambda result, user, *, page=0: (f"user:{user}", f"size:{len(result)}"))
    def posts(user, *, page=0):
        return [user] * page

    @cached(cache, tags="static")
    def other(x):
        return x

    posts(1, page=2), posts(1, page=3), posts(2, page=2), other(1), other(2)
    assert cache.invalidate_tag("size:2") == 2 and cache.invalidate_tag("user:1") == 1
    assert cache.invalidate_tag("static") == 2 and len(cache) == 0
    with pytest.raises(TypeError, match="tags"):
        cached(tags=5)


def test_methods_and_async_functions_have_tags():
    class Blog:
        @cached(tags=lambda result, self, n: [result, self.name])
        def post(self, n):
            return f"post {n}"

        name = "blog"

    blog = Blog()
    assert blog.post(1) == "post 1" and blog.post.cache.invalidate_tag("blog") == 1

    @cached(tags=lambda result, n: result)
    async def fetch(n):
        return f"page {n}"

    async def main():
        assert await fetch(1) == await fetch(1) == "page 1"

    asyncio.run(main())
    assert fetch.cache.invalidate_tag("page 1") == 1


@must_end
def test_what_is_being_computed_when_its_tag_is_invalidated_is_not_stored():
    entered, go = threading.Event(), threading.Event()

    @cached(tags="t")
    def slow(x):
        entered.set()
        wait_for(go)
        return x

    call = Started(slow, 1)
    wait_for(entered)
    assert slow.cache.invalidate_tag("t") == 0
    go.set()
    assert call.result() == 1 and len(slow.cache) == 0
    assert slow(1) == 1 and slow.cache.invalidate_tag("t") == 1


# --- prefixes, patterns, predicates -----------------------------------------------------------------------------------

def test_prefix_and_glob(any_policy):
    cache = Cache(policy=any_policy)
    cache.update({"user:1": 1, "user:2": 2, "user": 3, "post:1": 4, 5: 5, "User:3": 6})
    assert cache.invalidate_prefix("user:") == 2
    assert cache.invalidate_glob("*:[13]") == 2
    assert sorted(cache, key=str) == [5, "user"]
    assert cache.invalidate_prefix("") == 1 and list(cache) == [5]
    for call in (cache.invalidate_prefix, cache.invalidate_glob):
        with pytest.raises(TypeError):
            call(5)


def test_where(any_policy, clock):
    cache = Cache(policy=any_policy, clock=clock)
    cache.update(a=1, b=2, c=3)
    cache.set("d", 4, ttl=1)
    clock.now += 1
    assert cache.invalidate_where(lambda key, value: value >= 2) == 2 and list(cache) == ["a"]
    with pytest.raises(ZeroDivisionError):
        cache.invalidate_where(lambda key, value: 1 / 0)
    assert list(cache) == ["a"]
    with pytest.raises(TypeError, match="predicate"):
        cache.invalidate_where(None)


def test_where_asks_without_the_lock_and_spares_what_was_written_meanwhile():
    cache = Cache()
    cache.update(a=1, b=2)

    def predicate(key, value):
        cache["a"] = "new"
        return True

    assert cache.invalidate_where(predicate) == 1 and dict(cache) == {"a": "new"}


# --- negative caching -------------------------------------------------------------------------------------------------

class NotFound(Exception):
    pass


def test_failures_are_remembered_for_their_own_time(clock):
    calls = []

    def load(key):
        calls.append(key)
        raise NotFound(key)

    cache = Cache(loader=load, default_ttl=100, cache_exceptions=(NotFound,), exception_ttl=5, clock=clock)
    for _ in range(3):
        with pytest.raises(NotFound, match="a"):
            cache["a"]
        with pytest.raises(NotFound):
            cache.get_or_set("a", int)
    assert calls == ["a"] and len(cache) == 0 and "a" not in cache
    clock.now += 5
    with pytest.raises(NotFound):
        cache.get("a")
    assert calls == ["a", "a"]


def test_other_failures_are_not_remembered():
    calls = []

    def load(key):
        calls.append(key)
        raise OSError

    cache = Cache(loader=load, cache_exceptions=NotFound, exception_ttl=5)
    for _ in range(2):
        with pytest.raises(OSError):
            cache["a"]
    assert len(calls) == 2


def test_that_there_is_none_can_be_remembered_too(clock):
    calls = []

    class Source:
        def load(self, key):
            calls.append(key)
            raise KeyError(key)

        def load_many(self, keys):
            calls.append(tuple(keys))
            return {}

    cache = Cache(loader=Source(), cache_exceptions=(KeyError,), exception_ttl=5, clock=clock)
    with pytest.raises(KeyError):
        cache["a"]
    with pytest.raises(KeyError):
        cache["a"]
    assert cache.get("a", "none") == "none" and calls == ["a"]
    for _ in range(2):
        assert cache.get_many(["a", "b"]) == {} and calls == ["a", ("b",)]


@pytest.mark.parametrize("change", [lambda c: c.set("a", 1), lambda c: c.delete("a"), lambda c: c.clear()])
def test_a_write_or_a_delete_forgets_the_failure(change):
    calls = []

    def load(key):
        calls.append(key)
        raise NotFound

    cache = Cache(loader=load, cache_exceptions=(NotFound,), exception_ttl=1000)
    with pytest.raises(NotFound):
        cache["a"]
    change(cache)
    cache.delete("a")
    with pytest.raises(NotFound):
        cache["a"]
    assert len(calls) == 2


def test_a_failure_whose_key_was_written_meanwhile_is_not_remembered():
    def load(key):
        cache["a"] = 1
        raise NotFound

    cache = Cache(loader=load, cache_exceptions=(NotFound,), exception_ttl=1000)
    with pytest.raises(NotFound):
        cache.get("a")
    assert cache["a"] == 1


def test_cached_functions_remember_failures_too(clock):
    calls = []

    @cached(Cache(clock=clock), cache_exceptions=(NotFound,), exception_ttl=5)
    def find(x):
        calls.append(x)
        raise NotFound(x)

    for _ in range(3):
        with pytest.raises(NotFound) as caught:
            find(1)
        assert caught.value.args == (1,)
    assert calls == [1] and find.cache_info().hits == 2
    find.invalidate(1)
    with pytest.raises(NotFound):
        find(1)
    clock.now += 5
    with pytest.raises(NotFound):
        find(1)
    assert calls == [1, 1, 1]
    find.cache_clear()
    with pytest.raises(NotFound):
        find(1)
    assert len(calls) == 4

    @cached(cache_exceptions=NotFound, exception_ttl=5)
    async def fetch(x):
        calls.append(x)
        raise NotFound(x)

    async def main():
        for _ in range(2):
            with pytest.raises(NotFound):
                await fetch("async")

    asyncio.run(main())
    assert calls.count("async") == 1
