"""Without memory: an operation raises MemoryError, at whatever allocation, and has happened wholly or not at all.

Every public method is called with memory that fails at the first, second, third ... allocation, once for that one alone
and once for all that follow, until nothing fails any more. After each call the cache verifies itself, holds what it
held before or what it would hold afterwards, and no entry stays reserved.
"""

from __future__ import annotations

import copy
import gc
import itertools
import pickle
import sys
import sysconfig
import weakref
from functools import partial

import pytest

from cachebox import MISSING, Cache, cached, lru_cache
from conftest import POLICIES, Clock, PythonFIFO, named

_testcapi = pytest.importorskip("_testcapi", reason="this interpreter has no _testcapi, which makes memory fail")
if not hasattr(_testcapi, "set_nomemory"):
    pytest.skip("this interpreter's memory cannot be made to fail", allow_module_level=True)
if sysconfig.get_config_var("Py_GIL_DISABLED"):     # its PyList_New drops a list that still has what it had before
    pytest.skip("CPython without the GIL frees items of a list twice where memory fails", allow_module_level=True)


@pytest.fixture(autouse=True)
def others_wait():
    """Let no other thread run while memory fails: the one that distributes tests would end, and the run never would."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(3600.0)               # seconds
    yield
    sys.setswitchinterval(before)


ENOUGH = 6                          # calls in a row that end well: nothing failed any more
LIMIT = 3000


class Key:
    """Keys that Python code compares; all have one hash."""

    def __init__(self, n):
        self.n = n

    def __hash__(self):
        return 7

    def __eq__(self, other):
        return isinstance(other, Key) and self.n == other.n

    def __repr__(self):
        return f"Key({self.n})"


def weigh(key, value):
    return 1


def told(*departure):
    pass


def loaded(key):
    return ("loaded", key)


CLOCK = Clock()

KINDS = {
    "plain": {},
    "expiring": {"default_ttl": 100},
    "idling": {"time_to_idle": 100, "default_ttl": 1000},
    "clocked": {"default_ttl": 100, "clock": CLOCK},
    "weighed": {"max_weight": 6, "weigher": weigh},
    "listened": {"on_evict": told, "on_removal": told},
    "loading": {"loader": loaded, "default_ttl": 100, "refresh_ahead": 0.5, "stale_ttl": 50},
    "negative": {"loader": loaded, "cache_exceptions": ValueError, "exception_ttl": 5},
    "all": {
        "default_ttl": 100,
        "time_to_idle": 50,
        "max_weight": 6,
        "weigher": weigh,
        "on_removal": told,
        "clock": CLOCK,
        "cache_exceptions": (ValueError, OSError),
        "exception_ttl": 5,
    },
}

BIG = 10**200


failing = iter(()).__next__         # a function that raises and gets no frame has its exception lost by CPython 3.11


def attempt(function, *arguments):
    try:
        return function(*arguments)
    except (ValueError, KeyError, StopIteration):
        return None


# Functions that are there before memory fails: CPython 3.13.0 crashes if it makes one without memory.
def boxed(old):
    return [old]


def five(*old):
    return 5


def second(value, old):
    return value


def deleted(old):
    return MISSING


def is_b(key, value):
    return key == "b"


def pickled(cache):
    try:
        return pickle.dumps(cache)
    except pickle.PicklingError as error:       # pickle's own word for an import that found no memory
        if isinstance(error.__context__, MemoryError) or "import of module" in str(error):
            raise MemoryError from None
        raise


CALLS = {
    "get": lambda cache: cache.get("b"),
    "get a missing key": lambda cache: cache.get("new"),
    "get by comparing": lambda cache: cache.get(Key(2)),
    "subscript": lambda cache: cache["b"],
    "set": lambda cache: cache.set("new", 1),
    "set again": lambda cache: cache.set("b", [1]),
    "set by comparing": lambda cache: cache.set(Key(9), 1),
    "set for a while": lambda cache: cache.set("new", 1, ttl=5),
    "set with tags": lambda cache: cache.set("new", 1, tags=("t", "u", "new tag")),
    "set again with tags": lambda cache: cache.set("b", 1, ttl=5, tags=["u", "v"]),
    "delete": lambda cache: cache.delete("b"),
    "pop": lambda cache: cache.pop(Key(2)),
    "popitem": lambda cache: cache.popitem(),
    "setdefault": lambda cache: cache.setdefault("new", 1),
    "contains": lambda cache: Key(2) in cache,
    "peek": lambda cache: cache.peek("b"),
    "ttl": lambda cache: cache.ttl("b"),
    "touch": lambda cache: cache.touch("b", ttl=5),
    "increment": lambda cache: cache.increment("n", BIG),
    "increment a missing key": lambda cache: cache.increment("new", BIG),
    "compute": lambda cache: cache.compute("b", boxed),
    "compute a missing key": lambda cache: cache.compute("new", five),
    "compute to delete": lambda cache: cache.compute("b", deleted),
    "get_or_set": lambda cache: cache.get_or_set("new", five),
    "get_or_set for a while": lambda cache: cache.get_or_set("new", list, ttl=5),
    "get_or_set that fails": lambda cache: attempt(cache.get_or_set, "new", failing),
    "get_many": lambda cache: cache.get_many(["a", "b", "new"]),
    "set_many": lambda cache: cache.set_many({"b": 5}),
    "delete_many": lambda cache: cache.delete_many(["b"]),
    "update": lambda cache: cache.update(new=1),
    "resize": lambda cache: cache.resize(3),
    "clear": lambda cache: cache.clear(),
    "purge_expired": lambda cache: cache.purge_expired(),
    "len": len,
    "list": list,
    "items": lambda cache: list(cache.items()),
    "repr": repr,
    "weight": lambda cache: cache.weight,
    "equals": lambda cache: cache == {},
    "copy": lambda cache: copy.copy(cache),
    "pickle": pickled,
    "invalidate_tag": lambda cache: cache.invalidate_tag("t"),
    "invalidate_prefix": lambda cache: cache.invalidate_prefix("b"),
    "invalidate_where": lambda cache: cache.invalidate_where(is_b),
    "stats": lambda cache: cache.stats.snapshot(),
    "report": lambda cache: cache.stats.report(),
    "count": lambda cache: cache.stats.increment("hits", 2**62),
    "warm": lambda cache: cache.add("new", 1),
}
WHOLE_OR_NOT = {name for name in CALLS if name not in ("resize", "clear", "purge_expired")}


def filled(policy, options):
    CLOCK.now = 1000.0
    cache = Cache(6, policy=policy, **options)
    cache.set("a", [1], tags=("t", "u"))
    cache.set("b", 2, tags="t")
    cache.set("n", BIG)
    for n in range(3):
        cache.set(Key(n), n)
    return cache


def contents(cache):
    return {key: repr(value) for key, value in cache.items()}


def sweep(make, call, check, start=0):
    """Call until it has ended well several times: each time with memory that fails one allocation later."""
    found = 0
    for rest in (1, 0):
        well = 0
        for n in range(start, LIMIT):
            subject = make()
            outcome = None
            stop = n + rest if rest else 0
            _testcapi.set_nomemory(n, stop)
            try:
                call(subject)
            except MemoryError:
                outcome = "MemoryError"
            except KeyError:
                outcome = "KeyError"
            finally:
                _testcapi.remove_mem_hooks()
            check(subject, n, outcome)
            well = 0 if outcome == "MemoryError" else well + 1
            found += outcome == "MemoryError"
            if well == ENOUGH:
                break
        else:
            pytest.fail(f"it still fails at the {LIMIT}th allocation")
    return found


def sweep_call(policy, kind, name):
    options, call = KINDS[kind], CALLS[name]
    done = filled(policy, options)
    before = contents(done)
    attempt(call, done)
    after = contents(done)

    def check(cache, n, outcome):
        cache._check()
        assert len(cache) <= (cache.max_size or 6), n
        if policy is PythonFIFO:        # if its own `add` fails, the victim that it named has gone all the same
            assert contents(cache).items() <= before.items() | after.items(), (n, outcome, contents(cache))
        elif name in WHOLE_OR_NOT:
            assert contents(cache) in (before, after), (n, outcome, contents(cache))
        cache["afterwards"] = n
        assert cache["afterwards"] == n
        cache._check()

    gc.collect()
    gc.disable()
    try:
        sweep(lambda: filled(policy, options), call, check)
    finally:
        gc.enable()


@pytest.fixture(autouse=True)
def all_is_imported(monkeypatch):
    """All modules that are imported at first use are there: an import that fails midway is another matter.

    Exceptions of a callback, MemoryError too, are not reported.
    """
    monkeypatch.setattr(sys, "unraisablehook", lambda unraisable: None)
    for options in KINDS.values():
        cache = filled("LRU", options)
        for call in CALLS.values():
            attempt(call, cache)
    attempt(filled("LRU", {"on_removal": told}).delete, "a")


@pytest.mark.parametrize("name", CALLS)
def test_every_method_of_a_plain_cache(name):
    sweep_call("LRU", "plain", name)


@pytest.mark.parametrize("name", ["set", "set with tags", "compute", "increment", "get_or_set", "pop", "resize"])
@pytest.mark.parametrize("policy", [PythonFIFO, *POLICIES], ids=named)
def test_what_changes_a_cache_with_everything(policy, name):
    sweep_call(policy, "all", name)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("policy", [*POLICIES, PythonFIFO], ids=named)
def test_every_method_of_every_kind_of_cache(policy, kind):
    for name in CALLS:
        sweep_call(policy, kind, name)


@pytest.mark.parametrize("decorator", [cached, lru_cache, lambda function: cached(ttl=50, tags="t")(function)])
def test_calls_of_cached_functions(decorator):
    def make():
        calls = itertools.count()
        function = decorator(lambda *args, **kwargs: next(calls))
        function(1)
        return function

    def check(function, n, outcome):
        assert function(1) == 0
        assert function(2, x=3) == function(2, x=3)
        function.cache_info()

    for call in (lambda it: it(1), lambda it: it(2), lambda it: it(2, x=3), lambda it: it()):
        sweep(make, call, check)
    sweep(make, lambda it: it.cache_clear(), lambda *_: None)


@pytest.mark.parametrize("policy", [*POLICIES, PythonFIFO], ids=named)
def test_making_a_cache(policy):
    made = []
    for options in KINDS.values():
        sweep(lambda: made, lambda it, options=options: it.append(Cache(6, policy=policy, **options)), lambda *_: None)
    for cache in made:
        cache["a"] = 1
        cache._check()


@pytest.mark.parametrize("policy", POLICIES)
def test_policies_on_their_own(policy):
    from cachebox.policies import BUILT_IN

    def make():
        order = BUILT_IN[policy](max_size=5)
        for n in range(5):
            order.add(Key(n))
        return order

    for call in (
        lambda order: order.add(Key(7)),
        lambda order: order.add(Key(2)),
        lambda order: order.access(Key(2)),
        lambda order: order.remove(Key(2)),
        lambda order: order.evict(),
        list,
        pickle.dumps,
        copy.copy,
        lambda order: Cache(5, policy=BUILT_IN[policy]()),
    ):
        sweep(make, call, lambda order, n, outcome: order._check())


def test_what_has_failed_is_not_kept_alive():
    """No key, value or tag stays behind of an operation that found no memory."""

    class Thing:
        pass

    def use(cache, key, value, tag, answer):
        cache.set(key, value, tags=[tag])
        cache.compute(key, answer)

    for n in range(60):
        cache = Cache(3)
        cache.update(a=1, b=2)
        things = [Thing(), Thing(), Thing()]
        known = [weakref.ref(thing) for thing in things]
        answer = partial(second, things[1])
        _testcapi.set_nomemory(n, n + 1)
        begun = True
        try:
            use(cache, *things, answer)
        except MemoryError as error:
            begun = error.__traceback__.tb_next is not None
        finally:
            _testcapi.remove_mem_hooks()
        if not begun:                   # CPython 3.11 keeps the arguments of a call that found no memory for its frame
            continue
        cache.delete(things[0])
        del things, answer
        for k in range(200):            # tags that nothing has are forgotten as others come
            cache.set("x", 1, tags=str(k))
        gc.collect()
        assert [ref() for ref in known] == [None] * 3, n
