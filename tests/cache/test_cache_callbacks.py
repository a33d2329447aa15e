"""`on_evict` and `on_removal`: which entries each is given, when, in which order, and what a callback may do."""

from __future__ import annotations

import gc
import sys
import threading

import pytest

import cachebox
from cachebox import Cache, RemovalCause


class Listener:
    """Notes the arguments of both callbacks, in order."""

    def __init__(self):
        self.told = []

    def on_evict(self, key, value):
        self.told.append(("on_evict", key, value))

    def on_removal(self, key, value, cause):
        self.told.append((key, value, cause))

    @property
    def removals(self):
        return [row for row in self.told if row[0] != "on_evict"]


@pytest.fixture
def listener():
    return Listener()


@pytest.fixture
def cache(any_policy, clock, listener):
    return Cache(3, policy=any_policy, clock=clock, on_evict=listener.on_evict, on_removal=listener.on_removal)


@pytest.fixture
def unraisable(monkeypatch):
    """The reports to `sys.unraisablehook`: pairs of the callback and the exception."""
    reported = []
    monkeypatch.setattr(sys, "unraisablehook", lambda found: reported.append((found.object, found.exc_value)))
    return reported


# --- which callback is given what -------------------------------------------------------------------------------------


def test_there_are_four_causes():
    assert [cause.name for cause in RemovalCause] == ["SIZE", "EXPIRED", "EXPLICIT", "REPLACED"]
    assert cachebox.RemovalCause is RemovalCause


def expire(cache, clock):
    """The cache, just after "a" has expired."""
    cache.touch("a", 5)
    clock.now += 5
    return cache


REMOVALS = {
    "delete": (lambda cache, clock: cache.delete("a"), "EXPLICIT"),
    "del": (lambda cache, clock: cache.__delitem__("a"), "EXPLICIT"),
    "pop": (lambda cache, clock: cache.pop("a"), "EXPLICIT"),
    "popitem": (lambda cache, clock: cache.popitem(), "EXPLICIT"),
    "delete_many": (lambda cache, clock: cache.delete_many(["a"]), "EXPLICIT"),
    "compute": (lambda cache, clock: cache.compute("a", lambda old: cachebox.MISSING), "EXPLICIT"),
    "set": (lambda cache, clock: cache.set("a", 2), "REPLACED"),
    "c[key] = v": (lambda cache, clock: cache.__setitem__("a", 2), "REPLACED"),
    "update": (lambda cache, clock: cache.update(a=2), "REPLACED"),
    "set_many": (lambda cache, clock: cache.set_many({"a": 2}), "REPLACED"),
    "increment": (lambda cache, clock: cache.increment("a"), "REPLACED"),
    "a new value by compute": (lambda cache, clock: cache.compute("a", lambda old: 2), "REPLACED"),
    "eviction": (lambda cache, clock: cache.update(x=1, y=1, z=1), "SIZE"),
    "resize": (lambda cache, clock: cache.update(x=1, y=1) or cache.resize(2), "SIZE"),
    "purge_expired": (lambda cache, clock: expire(cache, clock).purge_expired(), "EXPIRED"),
    "get of an expired entry": (lambda cache, clock: expire(cache, clock).get("a"), "EXPIRED"),
    "set over an expired entry": (lambda cache, clock: expire(cache, clock).set("a", 2), "EXPIRED"),
}


@pytest.mark.parametrize("removal", REMOVALS)
def test_both_callbacks_are_told_of_every_entry_that_leaves_and_on_removal_why(cache, clock, listener, removal):
    call, cause = REMOVALS[removal]
    cache["a"] = 1
    call(cache, clock)
    assert listener.told == [("on_evict", "a", 1), ("a", 1, RemovalCause[cause])]


QUIET = {
    "clear": lambda cache: cache.clear(),
    "a new key": lambda cache: cache.set("b", 1),
    "get": lambda cache: cache.get("a"),
    "get_or_set of a new key": lambda cache: cache.get_or_set("b", int),
    "setdefault": lambda cache: cache.setdefault("a", 2),
    "touch": lambda cache: cache.touch("a", 5),
    "delete of nothing": lambda cache: cache.delete("b"),
    "compute of nothing": lambda cache: cache.compute("b", lambda old: cachebox.MISSING),
    "copy": lambda cache: cache.copy(),
    "a refused set": lambda cache: pytest.raises(ValueError, cache.set, "a", 2, 0),
}


@pytest.mark.parametrize("call", QUIET)
def test_nobody_is_told_where_nothing_leaves_and_never_by_clear(cache, listener, call):
    cache["a"] = 1
    QUIET[call](cache)
    assert listener.told == []


def test_dropping_the_cache_tells_nobody(any_policy, listener):
    cache = Cache(policy=any_policy, on_evict=listener.on_evict)
    cache["a"] = 1
    del cache
    gc.collect()
    assert listener.told == []


def test_overwriting_with_the_same_object_is_a_replacement(cache, listener):
    value = object()
    cache["a"] = value
    cache["a"] = value
    assert listener.removals == [("a", value, RemovalCause.REPLACED)]


def test_a_replacement_is_told_with_the_key_that_was_stored(cache, listener):
    cache[1] = "int"
    cache[True] = "bool"
    assert type(listener.removals[0][0]) is int


def test_a_callback_may_be_alone(any_policy, listener):
    cache = Cache(1, policy=any_policy, on_evict=listener.on_evict)
    cache.update(a=1, b=2)
    other = Cache(1, policy=any_policy, on_removal=listener.on_removal)
    other.update(c=3, d=4)
    assert listener.told == [("on_evict", "a", 1), ("c", 3, RemovalCause.SIZE)]


def test_callbacks_get_the_arguments_by_position(any_policy):
    told = []
    cache = Cache(1, policy=any_policy, on_evict=lambda *args, **kw: told.append((args, kw)))
    cache.update(a=1, b=2)
    assert told == [(("a", 1), {})]


# --- when and in which order ----------------------------------------------------------------------------------------


def test_within_one_operation_the_order_is_expired_evicted_replaced(any_policy, clock, listener):
    options = dict(max_weight=10, weigher=lambda key, value: value, clock=clock, on_removal=listener.on_removal)
    cache = Cache(policy=any_policy, **options)
    cache.set("victim", 2)
    cache.set("late", 1, ttl=20)
    cache.set("soon", 2, ttl=10)
    cache.set("kept", 4)
    cache.get("kept")
    clock.now += 20
    cache["kept"] = 9
    assert [(key, cause.name) for key, _, cause in listener.told] == [
        ("soon", "EXPIRED"),
        ("late", "EXPIRED"),
        ("victim", "SIZE"),
        ("kept", "REPLACED"),
    ]


def test_callbacks_run_in_the_order_in_which_the_entries_left(cache, listener):
    cache.update(a=1, b=2, c=3)
    cache.update(d=4, e=5)
    cache.delete_many(["e", "c"])
    assert [key for key, _, _ in listener.removals] == ["a", "b", "e", "c"]


def test_a_resize_tells_in_policy_order(cache, listener):
    cache.update(a=1, b=2, c=3)
    cache.get("a")
    order = list(cache.items())
    cache.resize(1)
    assert [(key, value) for key, value, _ in listener.removals] == order[:2]


def test_callbacks_run_before_the_call_returns_in_the_thread_that_caused_it(any_policy):
    where = []
    cache = Cache(1, policy=any_policy, on_evict=lambda key, value: where.append(threading.get_ident()))

    def work():
        cache["b"] = 2
        assert where == [threading.get_ident()]

    cache["a"] = 1
    thread = threading.Thread(target=work)
    thread.start()
    thread.join(60)
    assert len(where) == 1 and where[0] != threading.get_ident()


def test_when_a_callback_runs_the_operation_is_over(any_policy):
    seen = []
    cache = Cache(
        2, policy=any_policy, on_evict=lambda key, value: seen.append((dict(cache.items()), cache.stats.sets))
    )
    cache.update(a=1, b=2)
    cache["c"] = 3
    assert seen == [({"b": 2, "c": 3}, 3)]
    cache["c"] = 4
    assert seen[1:] == [({"b": 2, "c": 4}, 4)]
    del cache["b"]
    assert seen[2:] == [({"c": 4}, 4)]


@pytest.mark.parametrize("call", ["update", "set_many"])
def test_a_bulk_write_is_over_when_its_callbacks_run(any_policy, call):
    seen = []
    cache = Cache(
        3, policy=any_policy, on_removal=lambda key, value, cause: seen.append((key, value, cause, dict(cache)))
    )
    getattr(cache, call)({"a": 1, "b": 2, "c": 3})
    getattr(cache, call)({"b": 4, "c": 5, "d": 6})
    after = {"b": 4, "c": 5, "d": 6}
    assert seen == [
        ("b", 2, RemovalCause.REPLACED, after),
        ("c", 3, RemovalCause.REPLACED, after),
        ("a", 1, RemovalCause.SIZE, after),
    ]


def test_a_bulk_write_whose_callback_interrupts_stands(any_policy):
    def interrupt(key, value):
        raise KeyboardInterrupt

    cache = Cache(policy=any_policy, on_evict=interrupt)
    cache.update(a=1, b=2)
    with pytest.raises(KeyboardInterrupt):
        cache.update(a=3, b=4, c=5)
    assert cache == {"a": 3, "b": 4, "c": 5}


def test_an_entry_that_left_is_kept_for_its_callbacks_and_freed_after_them(any_policy):
    class Thing:
        pass

    seen = []
    cache = Cache(1, policy=any_policy, on_removal=lambda key, value, cause: seen.append(type(value)))
    cache["a"] = Thing()
    cache["b"] = 1
    gc.collect()
    assert seen == [Thing] and not any(type(found) is Thing for found in gc.get_objects())


# --- what a callback may do -----------------------------------------------------------------------------------------


def test_a_callback_may_use_the_cache(any_policy):
    def on_evict(key, value):
        cache.get(key)
        cache.peek(key)
        list(cache.items())
        cache.stats.report()
        repr(cache)
        if key == "a":
            cache.set("again", value)
            cache.delete("b")
            cache.compute("count", lambda old: (old or 0) + 1)

    cache = Cache(2, policy=any_policy, on_evict=on_evict)
    cache.update(a=1, b=2, c=3)
    assert len(cache) <= 2 and "count" in cache


def test_a_callback_may_store_what_was_evicted_again(any_policy):
    def on_evict(key, value):
        if value < 3:
            cache[key] = value + 1

    cache = Cache(1, policy=any_policy, on_evict=on_evict)
    cache["a"] = 0
    cache["b"] = 9
    assert len(cache) == 1


def test_a_callback_may_clear_or_resize_the_cache(any_policy):
    for act in (lambda: cache.clear(), lambda: cache.resize(1), lambda: cache.popitem()):
        acted = []

        def on_evict(key, value, act=act, acted=acted):
            if not acted:
                acted.append(key)
                act()

        cache = Cache(3, policy=any_policy, on_evict=on_evict)
        cache.update(a=1, b=2, c=3, d=4)
        assert acted == ["a"] and len(cache) <= 3


def test_a_second_level_may_hang_on_the_callback(any_policy):
    below = Cache(100, policy=any_policy)
    above = Cache(2, policy=any_policy, on_evict=below.set)
    above.update(a=1, b=2, c=3, d=4)
    assert (dict(above.items()), dict(below.items())) == ({"c": 3, "d": 4}, {"a": 1, "b": 2})


# --- callbacks that raise -------------------------------------------------------------------------------------------

CAUSES_A_REMOVAL = {
    "set": lambda cache: cache.set("a", 2),
    "evict": lambda cache: cache.set("b", 2),
    "delete": lambda cache: cache.delete("a"),
    "pop": lambda cache: cache.pop("a"),
    "popitem": lambda cache: cache.popitem(),
    "delete_many": lambda cache: cache.delete_many(["a"]),
    "compute": lambda cache: cache.compute("a", lambda old: 2),
    "increment": lambda cache: cache.increment("a", 1),
    "get_or_set": lambda cache: cache.get_or_set("b", lambda: 2),
    "setdefault": lambda cache: cache.setdefault("b", 2),
}
AFTERWARDS = {
    "set": {"a": 2},
    "evict": {"b": 2},
    "compute": {"a": 2},
    "increment": {"a": 2},
    "get_or_set": {"b": 2},
    "setdefault": {"b": 2},
}
RESULTS = {
    "set": None,
    "evict": None,
    "delete": True,
    "pop": 1,
    "popitem": ("a", 1),
    "delete_many": 1,
    "compute": 2,
    "increment": 2,
    "get_or_set": 2,
    "setdefault": 2,
}


@pytest.mark.parametrize("call", CAUSES_A_REMOVAL)
def test_one_that_raises_is_reported_and_the_operation_stands(any_policy, unraisable, call):
    error = LookupError("callback")

    def on_evict(key, value):
        raise error

    cache = Cache(1, policy=any_policy, on_evict=on_evict)
    cache["a"] = 1
    assert CAUSES_A_REMOVAL[call](cache) == RESULTS[call]
    assert unraisable == [(on_evict, error)]
    assert cache == AFTERWARDS.get(call, {})


def test_both_callbacks_run_even_if_the_first_raises(any_policy, unraisable):
    told = []

    def on_evict(key, value):
        raise ValueError(key)

    def on_removal(key, value, cause):
        told.append(key)
        raise KeyError(key)

    cache = Cache(3, policy=any_policy, on_evict=on_evict, on_removal=on_removal)
    cache.update(a=1, b=2, c=3)
    cache.resize(1)
    assert told == ["a", "b"]
    assert [(found, type(error)) for found, error in unraisable] == [(on_evict, ValueError), (on_removal, KeyError)] * 2


@pytest.mark.parametrize(
    "kind", [GeneratorExit, BaseException, RecursionError, StopIteration, MemoryError, AssertionError]
)
def test_every_exception_but_two_is_reported(any_policy, unraisable, kind):
    def on_evict(key, value):
        raise kind

    cache = Cache(1, policy=any_policy, on_evict=on_evict)
    cache.update(a=1, b=2)
    assert [type(error) for _, error in unraisable] == [kind] and cache == {"b": 2}


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("call", CAUSES_A_REMOVAL)
def test_keyboard_interrupt_and_system_exit_pass_through_and_the_operation_stands(any_policy, unraisable, call, kind):
    def interrupted(*args):
        raise kind

    for option in ("on_evict", "on_removal"):
        cache = Cache(1, policy=any_policy, **{option: interrupted})
        cache["a"] = 1
        with pytest.raises(kind):
            CAUSES_A_REMOVAL[call](cache)
        assert cache == AFTERWARDS.get(call, {}) and unraisable == []


def test_an_interruption_waits_until_all_callbacks_have_run(any_policy):
    told = []

    def on_evict(key, value):
        told.append(key)
        raise KeyboardInterrupt(key)

    def on_removal(key, value, cause):
        told.append((key, cause.name))
        raise SystemExit(key)

    cache = Cache(3, policy=any_policy, on_evict=on_evict, on_removal=on_removal)
    cache.update(a=1, b=2, c=3)
    with pytest.raises(KeyboardInterrupt, match="a"):
        cache.resize(1)
    assert told == ["a", ("a", "SIZE"), "b", ("b", "SIZE")] and cache == {"c": 3}


def test_an_interruption_from_a_lookup_that_found_an_expired_entry(any_policy, clock):
    def on_evict(key, value):
        raise KeyboardInterrupt

    cache = Cache(policy=any_policy, clock=clock, on_evict=on_evict)
    for look in (cache.get, cache.__getitem__, cache.delete, cache.touch):
        cache.set("a", 1, ttl=5)
        clock.now += 5
        with pytest.raises(KeyboardInterrupt):  # noqa: PT012  # not every look removes it
            look("a")
            cache.purge_expired()
        assert "a" not in cache


def test_an_interrupted_call_leaks_nothing(any_policy):
    def on_evict(key, value):
        raise KeyboardInterrupt

    cache = Cache(policy=any_policy, on_evict=on_evict)
    key, value = object(), 2**100
    before = sys.getrefcount(key), sys.getrefcount(value)
    for call in (
        lambda: cache.set(key, value),
        lambda: cache.pop(key),
        lambda: cache.popitem(),
        lambda: cache.increment(key),
        lambda: cache.compute(key, lambda old: value),
        lambda: cache.delete(key),
    ):
        cache[key] = value
        with pytest.raises(KeyboardInterrupt):
            call()
        cache.clear()
    assert (sys.getrefcount(key), sys.getrefcount(value)) == before


def test_an_unraisable_hook_that_raises_harms_nobody(any_policy, monkeypatch, capsys):
    def hook(found):
        raise OSError("hook")

    def on_evict(key, value):
        raise ValueError("callback")

    monkeypatch.setattr(sys, "unraisablehook", hook)
    cache = Cache(1, policy=any_policy, on_evict=on_evict)
    cache.update(a=1, b=2)
    assert cache == {"b": 2}
