"""`cached` on plain functions: ways to decorate, keys, shared caches, lifetimes, conditions, options, errors."""

from __future__ import annotations

import copy
import functools
import gc
import importlib
import inspect
import math
import operator
import pickle
import subprocess
import sys
import threading
import weakref
from datetime import timedelta
from decimal import Decimal
from unittest.mock import Mock

import pytest

from cachebox import Cache, EvictionPolicy, cached, lru_cache
from conftest import named
from in_threads import run_all

FREE_THREADED = not getattr(sys, "_is_gil_enabled", lambda: True)()


class Counted:
    """Makes functions that count their calls: ``counted.calls`` is the list of the arguments of each."""

    def __init__(self):
        self.calls = []

    def __call__(self, /, *args, **kwargs):
        self.calls.append((args, kwargs) if kwargs else args)
        return len(self.calls)


@cached
def by_name(x):
    """Twice as much."""
    return 2 * x


shared_by_modules = Cache()


@cached(shared_by_modules)
def in_shared(x):
    return x


class Thing:
    """An object that can be weakly referenced, equal to nothing else."""


class Owner:
    """An object whose methods are decorated once they are bound."""

    def method(self, x):
        return x

    @classmethod
    def of_class(cls, x):
        return x


class Same:
    """A key that is equal to those of the same number; all have one hash."""

    def __init__(self, number):
        self.number = number

    def __hash__(self):
        return 7

    def __eq__(self, other):
        return isinstance(other, Same) and self.number == other.number


# --- ways to decorate -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "decorate",
    [
        cached,
        cached(),
        cached(None),
        cached(Cache()),
        cached(cache=Cache()),
        cached(ttl=60),
        cached(Cache(), ttl=60, key_func=lambda x: x),
        cached(max_size=10, policy="LFU", ttl=60, typed=True, condition=lambda result: True, single_flight=False),
        lambda function: cached(function, ttl=60),
    ],
)
def test_every_way_to_decorate_caches(decorate):
    function = Counted()
    f = decorate(function)
    assert [f(1), f(1), f(2), f(1)] == [1, 1, 2, 1]
    assert function.calls == [(1,), (2,)]
    assert f.cache_info()[:2] == (2, 2)


def test_the_wrapper_has_what_the_contract_names():
    def function(x: int, *, y: str = "") -> float:
        """Its documentation."""

    f = cached(max_size=7)(function)
    assert f.__wrapped__ is function
    assert (f.__name__, f.__qualname__, f.__module__) == (function.__name__, function.__qualname__, __name__)
    assert f.__doc__ == "Its documentation."
    assert inspect.signature(f) == inspect.signature(function)
    assert isinstance(f.cache, Cache) and f.cache.max_size == 7
    assert function.__name__ in repr(f)
    f(1), f(1)
    info = f.cache_info()
    assert info == (1, 1, 7, 1)
    assert (info.hits, info.misses, info.maxsize, info.currsize) == (1, 1, 7, 1)
    assert repr(info) == "CacheInfo(hits=1, misses=1, maxsize=7, currsize=1)"
    assert f.cache_parameters() == {"maxsize": 7, "typed": False, "policy": "LRU", "ttl": None}
    assert f.cache_clear() is None
    assert f.cache_info() == (0, 0, 7, 0)


def test_parameters_are_those_given_and_a_new_dict_each_time():
    f = cached(max_size=None, policy="fifo", ttl=5, typed=True)(len)
    assert f.cache_parameters() == {"maxsize": None, "typed": True, "policy": "FIFO", "ttl": 5}
    f.cache_parameters()["ttl"] = 6
    assert f.cache_parameters()["ttl"] == 5
    assert f.cache_info().maxsize is None
    ttl = len
    cache = Cache(max_size=3, policy="LFU")
    parameters = cached(cache, ttl=ttl)(repr).cache_parameters()
    assert parameters == {"maxsize": 3, "typed": False, "policy": "LFU", "ttl": ttl}


def test_wrappers_are_copied_and_pickled_by_name():
    assert copy.copy(by_name) is by_name
    assert copy.deepcopy(by_name) is by_name
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        assert pickle.loads(pickle.dumps(by_name, protocol)) is by_name


def test_a_wrapper_nobody_holds_is_freed_at_once_with_its_cache_and_results():
    result = Thing()
    f = cached(lambda: result)                  # noqa: F821  # deleted only later
    gone = [weakref.ref(f), weakref.ref(f.cache), weakref.ref(result)]
    assert f() is result
    gc.disable()
    try:
        del f, result
        assert [one() for one in gone] == [None] * 3
    finally:
        gc.enable()


@pytest.mark.skipif(
    FREE_THREADED and sys.version_info < (3, 14), reason="Python 3.13 without the GIL makes functions immortal"
)
def test_a_wrapper_in_a_cycle_with_its_results_is_collected():
    f = cached(lambda: [f])                     # noqa: F821  # deleted only later
    gone = weakref.ref(f)
    f()
    del f
    gc.collect()
    assert gone() is None


@pytest.mark.parametrize(
    "function",
    [
        repr,
        functools.partial(operator.add, "0"),
        operator.itemgetter(slice(None)),
        lambda x: x,
        Mock(return_value=5, spec=["__call__"]),
        Mock(side_effect=lambda x: x),
        type("Callable", (), {"__call__": lambda self, x: x, "func": None})(),
        type("Box", (), {"__init__": lambda self, x: None, "func": None}),
        "".join,
        Owner().method,
        Owner.of_class,
    ],
    ids=lambda function: type(function).__name__,
)
def test_any_callable_may_be_decorated(function):
    f = cached(function)
    value = f("55")
    assert value is f("55")
    assert not inspect.iscoroutine(value)
    assert f.cache_info() == (1, 1, 1000, 1)


def test_a_cached_function_may_be_cached_again():
    function = Counted()
    inner = cached(function)
    outer = cached(inner)
    assert outer(1) == outer(1) == 1
    assert (outer.cache_info()[:2], inner.cache_info()[:2]) == ((1, 1), (0, 1))
    assert outer.__wrapped__ is inner


def test_all_ways_to_call():
    function = Counted()
    f = cached(function)
    many = {f"name{k}": k for k in range(20)}
    assert f() == f() == f(*()) == f(**{}) == f.__call__() == functools.partial(f)() == 1
    assert f(1, 2, x=3) == f(*(1, 2), **{"x": 3}) == f.__call__(1, 2, x=3) == functools.partial(f, 1)(2, x=3) == 2
    assert f(**many) == f.__call__(**many) == functools.partial(f, **many)() == 3
    assert f(*range(50)) == f.__call__(*range(50)) == 4
    assert list(map(f, [(), ()])) == [5, 5]
    assert f(self=1, args=2, kwargs=3, function=4) == f(self=1, args=2, kwargs=3, function=4) == 6
    with pytest.raises(TypeError):
        f(**{1: 2})
    assert len(function.calls) == 6


def test_arguments_reach_the_function_as_given():
    f = cached(lambda *args, **kwargs: (args, kwargs))
    assert f(1, "b", c=3, d=None) == ((1, "b"), {"c": 3, "d": None})
    assert f(1, "b", c=3, d=None) == ((1, "b"), {"c": 3, "d": None})
    assert f.__call__(x=1) == ((), {"x": 1})


# --- keys -------------------------------------------------------------------------------------------------------------

DIFFERENT_CALLS = [
    ((1,), {}),
    (("1",), {}),
    ((b"1",), {}),
    ((-1,), {}),
    ((-2,), {}),
    ((-1.5,), {}),
    ((2**61 - 1,), {}),
    ((0,), {}),
    ((None,), {}),
    ((), {}),
    (((),), {}),
    (((1,),), {}),
    (((1, 2),), {}),
    ((1, 2), {}),
    ((2, 1), {}),
    (((1, 2), 3), {}),
    ((1, (2, 3)), {}),
    ((1, 2, 3), {}),
    ((), {"x": 1}),
    ((), {"y": 1}),
    ((), {"x": 1, "y": 2}),
    ((), {"y": 2, "x": 1}),
    ((1,), {"x": 1}),
    (("x", 1), {}),
    ((("x", 1),), {}),
    ((1, "x", 1), {}),
    ((frozenset({1}),), {}),
    (("a" * 100,), {}),
    (("\xe9",), {}),
    (("\u20ac",), {}),
    (("",), {}),
    ((1, None), {}),
    ((Ellipsis,), {}),
    ((int,), {}),
]
KINDS = [
    pytest.param({}, id="own cache"),
    pytest.param({"typed": True}, id="typed"),
    pytest.param({"cache": True}, id="shared cache"),
    pytest.param({"cache": True, "typed": True}, id="shared cache, typed"),
]


@pytest.fixture(params=KINDS)
def kind(request):
    """Options of `cached` under which keys are made differently."""
    options = dict(request.param)
    if options.get("cache"):
        options["cache"] = Cache()
    return options


def test_different_calls_never_meet_and_equal_ones_always_do(kind):
    function = Counted()
    f = cached(**kind)(function)
    first = [f(*args, **kwargs) for args, kwargs in DIFFERENT_CALLS]
    again = [f(*copy.deepcopy(args), **copy.deepcopy(kwargs)) for args, kwargs in DIFFERENT_CALLS]
    assert again == first == list(range(1, len(DIFFERENT_CALLS) + 1))
    assert f.cache_info()[:2] == (len(DIFFERENT_CALLS),) * 2


@pytest.mark.parametrize(
    "signature",
    ["", "a", "a=0", "a, b", "a, b=0", "a, b, *c, **d", "*a", "*a, **d", "**d", "*, x=0", "a=0, *b, x=0, y=0"],
)
def test_a_function_of_any_signature_takes_all_its_calls(signature):
    """From the signature the wrapper guesses which calls come, and is quickest for those."""
    runs = []
    function = eval(f"lambda {signature}: runs.append(1) or len(runs)", {"runs": runs})
    f = cached(function)
    taken, results = [], []
    for args, kwargs in DIFFERENT_CALLS:
        try:
            inspect.signature(function).bind(*args, **kwargs)
        except TypeError:
            with pytest.raises(TypeError, match="argument"):
                f(*args, **kwargs)
        else:
            taken.append((args, kwargs))
            results.append(f(*args, **kwargs))
    assert results == list(range(1, len(taken) + 1))
    for _ in range(3):
        assert [f(*copy.deepcopy(args), **copy.deepcopy(kwargs)) for args, kwargs in taken] == results
        assert [f(*args, **kwargs) for args, kwargs in reversed(taken)] == results[::-1]
    assert f.cache_info().hits == 6 * len(taken)


def test_keys_are_those_under_which_the_cache_has_the_results(kind):
    f = cached(**kind)(Counted())
    results = {f.cache_key(*args, **kwargs): f(*args, **kwargs) for args, kwargs in DIFFERENT_CALLS}
    assert len(results) == len(DIFFERENT_CALLS)
    assert results == f.cache
    f.cache[f.cache_key("a", b="c")] = "written by hand"
    assert f("a", b="c") == "written by hand"


def test_invalidate_forgets_one_call(kind):
    f = cached(**kind)(Counted())
    for args, kwargs in DIFFERENT_CALLS:
        f(*args, **kwargs)
    for n, (args, kwargs) in enumerate(DIFFERENT_CALLS):
        assert f.invalidate(*args, **kwargs) is True
        assert f.invalidate(*args, **kwargs) is False
        assert len(f.cache) == len(DIFFERENT_CALLS) - n - 1
    assert f(1) == len(DIFFERENT_CALLS) + 1


def test_numbers_that_are_equal_are_one_key_unless_typed():
    for arguments in ([1, 1.0, True], [0, 0.0, False, -0.0], [Decimal(2), 2]):
        f, g = cached(Counted()), cached(typed=True)(Counted())
        for wrapped, different in ((f, 1), (g, len({type(x) for x in arguments}))):
            assert len({wrapped(x) for x in arguments}) == different
            wrapped.cache_clear()
            assert len({wrapped(None, x) for x in arguments}) == different
            wrapped.cache_clear()
            assert len({wrapped(k=x) for x in arguments}) == different
            wrapped.cache_clear()
            assert len({wrapped(None, j=None, k=x) for x in arguments}) == different


def test_typed_does_not_look_into_arguments():
    f = cached(typed=True)(Counted())
    assert f((1,)) == f((1.0,)) == f((True,))


def test_positional_and_keyword_spellings_and_orders_of_keywords_are_different_calls():
    function = Counted()
    f = cached(function)
    assert len({f(1, 2), f(1, y=2), f(x=1, y=2), f(y=2, x=1)}) == 4


def test_keys_are_compared_by_equality_not_by_hash():
    function = Counted()
    f = cached(function)
    first = [f(Same(k)) for k in range(30)] + [f(0, Same(k), s=Same(-k)) for k in range(30)]
    again = [f(Same(k)) for k in range(30)] + [f(0, Same(k), s=Same(-k)) for k in range(30)]
    assert first == again == list(range(1, 61))
    assert f.invalidate(Same(29)) and not f.invalidate(Same(30))


def test_a_keyword_is_compared_by_equality_even_if_it_is_no_plain_str():
    class Name(str):
        def __hash__(self):
            return hash("x")

    f = cached(lambda **kwargs: list(kwargs))
    assert f(x=1) == ["x"]
    assert f(**{Name("y"): 1}) == ["y"]
    assert f(**{Name("x"): 1}) == ["x"]


def test_the_same_nan_is_the_same_key_and_another_is_not():
    f = cached(Counted())
    nan = float("nan")
    assert f(nan) == f(nan) == 1
    assert f(float("nan")) == 2
    assert f(0, nan) == f(0, nan) == 3


def test_an_unhashable_argument_is_a_type_error_and_counts_nothing(kind):
    function = Counted()
    f = cached(**kind)(function)
    for unhashable in ([], {}, set(), ([],), (1, {"a": []})):
        for attempt in (f, f.cache_key, f.invalidate):
            for args, kwargs in (((unhashable,), {}), ((1, unhashable), {}), ((), {"x": unhashable})):
                with pytest.raises(TypeError, match="unhashable"):
                    attempt(*args, **kwargs)
    assert function.calls == []
    assert f.cache_info()[:2] == (0, 0)
    assert f.cache.stats.misses == 0


@pytest.mark.parametrize("broken", ["__hash__", "__eq__"])
def test_an_argument_that_cannot_be_looked_up_passes_its_error_on_and_counts_nothing(kind, broken):
    class Broken(Same):
        armed = False

        def __hash__(self):
            if broken == "__hash__" and self.armed:
                raise ZeroDivisionError
            return 7

        def __eq__(self, other):
            if broken == "__eq__" and self.armed:
                raise ZeroDivisionError
            return False

    f = cached(**kind)(Counted())
    f(Broken(1))
    Broken.armed = True
    with pytest.raises(ZeroDivisionError):
        f(Broken(2))
    assert f.cache_info()[:2] == (0, 1)
    Broken.armed = False
    assert f.cache.stats.misses == 1


def test_an_argument_may_call_the_function_while_it_is_compared(kind):
    class Busy(Same):
        busy = False

        def __eq__(self, other):
            if not Busy.busy:
                Busy.busy = True
                f(-1)
                f(Same(self.number))
                Busy.busy = False
            return super().__eq__(other)

        __hash__ = Same.__hash__

    f = cached(**kind)(lambda x: getattr(x, "number", x))
    for _ in range(2):
        assert [f(Busy(k)) for k in range(5)] == list(range(5))


def test_keys_survive_pickling():
    for f in (by_name, in_shared):
        for key in (f.cache_key(1), f.cache_key(1, 2), f.cache_key("a", b=3, c=(4,))):
            copied = pickle.loads(pickle.dumps(key))
            assert (copied, hash(copied), type(copied)) == (key, hash(key), type(key))


def test_a_key_is_no_plain_tuple():
    f = cached(Counted())
    key = f.cache_key(1, 2)
    assert key != tuple(key) and tuple(key) != key
    assert f(key) != f(1, 2)
    assert f(tuple(key)) not in (f(key), f(1, 2))
    f.cache[(1, 2)] = "mine"
    assert f(1, 2) != "mine"


def test_results_stored_in_one_process_are_found_in_another(tmp_path):
    """No key depends on an address or on the seed of hashes."""
    stored = tmp_path / "cache.pickle"
    script = (
        "import pickle, sys\n"
        "from cachebox import Cache, cached\n"
        "path = sys.argv[1]\n"
        "load = len(sys.argv) > 2\n"
        "cache = pickle.load(open(path, 'rb')) if load else Cache()\n"
        "@cached(cache)\n"
        "def f(*args, **kwargs):\n"
        "    assert not load, 'not found'\n"
        "    return repr((args, kwargs))\n"
        "same_name = f\n"
        "@cached(cache, typed=True)\n"
        "def f(*args, **kwargs):\n"
        "    assert not load, 'not found'\n"
        "    return repr((args, kwargs)) * 2\n"
        "for g in (f, same_name):\n"
        "    print([g(1), g('a', 2), g(x='a', y=(1.5, None))])\n"
        "load or pickle.dump(cache, open(path, 'wb'))\n"
    )
    said = [
        subprocess.run(
            [sys.executable, "-c", script, str(stored), *more], check=True, capture_output=True, text=True, timeout=60
        ).stdout
        for more in ([], ["again"])
    ]
    assert said[0] == said[1] != ""


# --- a key function ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cache", [None, Cache()])
def test_a_key_func_is_called_once_per_call_with_the_arguments(cache):
    asked = Mock(side_effect=lambda x, *, y=0: (x[0], y))
    f = cached(cache, key_func=asked)(Counted())
    assert f([1, 2]) == f([1, 3]) == f([1], y=0) == 1
    assert f([1], y=1) == f([1], y=1) == 2
    assert [(call.args, call.kwargs) for call in asked.call_args_list] == [
        (([1, 2],), {}), (([1, 3],), {}), (([1],), {"y": 0}), (([1],), {"y": 1}), (([1],), {"y": 1}),
    ]
    assert f.invalidate([1, "other"]) is True
    assert f([1, 2]) == 3
    assert f.cache_key([5], y=6) in (cached(key_func=asked)(Counted()).cache_key([5], y=6), f.cache_key([5, 0], y=6))


def test_a_key_func_may_return_any_hashable():
    f = cached(key_func=lambda x: x)(Counted())
    assert f(None) == f(None) == 1
    assert f(1) == f(1.0) == 2          # its own keys, compared as a dict compares them
    f.cache["by hand"] = 0
    assert f("by hand") == 0


@pytest.mark.parametrize("cache", [None, Cache()])
def test_a_key_func_that_fails_or_returns_an_unhashable_passes_its_error_on(cache):
    function = Counted()
    f = cached(cache, key_func=lambda x: [] if x else 1 / 0)(function)
    for attempt in (f, f.cache_key, f.invalidate):
        with pytest.raises(TypeError, match="unhashable"):
            attempt(1)
        with pytest.raises(ZeroDivisionError):
            attempt(0)
    assert function.calls == []
    assert f.cache_info()[:2] == (0, 0)


# --- shared caches ----------------------------------------------------------------------------------------------------


def make_alike(cache, n):
    """Functions of one name, each of which returns its number."""

    def make(number):
        @cached(cache)
        def alike(*args, **kwargs):
            return number

        return alike

    return [make(k) for k in range(n)]


def test_functions_that_share_a_cache_never_meet():
    cache = Cache()
    functions = [
        *make_alike(cache, 5),
        cached(cache)(lambda *args, **kwargs: 5),
        cached(cache)(lambda *args, **kwargs: 6),
        cached(cache, typed=True)(lambda *args, **kwargs: 7),
        cached(cache, key_func=lambda *args, **kwargs: "eight")(lambda *args, **kwargs: 8),
        cached(cache, key_func=lambda *args, **kwargs: "nine")(lambda *args, **kwargs: 9),
    ]
    for _ in range(2):
        expected = list(range(10))
        assert [f(1) for f in functions] == [f(1, x=2) for f in functions] == [f() for f in functions] == expected
    assert len({f.cache_key(1) for f in functions}) == 10


def test_one_function_decorated_twice_is_two_functions():
    cache, function = Cache(), Counted()
    f, g = cached(cache)(function), cached(cache)(function)
    assert (f(1), g(1), f(1), g(1)) == (1, 2, 1, 2)


def test_a_reloaded_module_does_not_meet_its_former_self(tmp_path, monkeypatch):
    (tmp_path / "reloaded_by_a_test.py").write_text(
        "from cachebox import cached\n"
        "from test_cached import shared_by_modules\n"
        "version = globals().get('version', 0) + 1\n"
        "@cached(shared_by_modules)\n"
        "def f(*, version=version):\n"
        "    return version\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(sys.modules, "test_cached", sys.modules[__name__])
    module = importlib.import_module("reloaded_by_a_test")
    try:
        assert module.f() == module.f() == 1
        importlib.reload(module)
        assert module.f() == module.f() == 2
    finally:
        del sys.modules["reloaded_by_a_test"]


def test_tokens_are_given_out_once_also_by_several_threads():
    cache = Cache()
    rounds = [run_all(*[lambda: [f.cache_key()[0] for f in make_alike(cache, 100)]] * 4) for _ in range(5)]
    tokens = [token for tokens in rounds for each in tokens for token in each]
    assert len(set(tokens)) == len(tokens) == 2000


def test_shared_statistics_are_each_functions_own():
    cache = Cache(max_size=50)
    f, g = cached(cache)(Counted()), cached(cache)(Counted())
    f(1), f(1), f(2), g(1)
    cache["mine"] = 1
    cache.get("mine"), cache.get("nothing")
    assert f.cache_info() == (1, 2, 50, 4)
    assert g.cache_info() == (0, 1, 50, 4)
    assert (cache.stats.hits, cache.stats.misses) == (2, 4)


def test_clearing_a_function_leaves_the_others_in_a_shared_cache_alone():
    cache = Cache()
    f, g, h = cached(cache)(Counted()), cached(cache)(Counted()), cached(Counted())
    f(1), f(2), g(1), h("x", 1)
    cache["mine"] = 1
    cache[("mine", 1)] = 2
    cache[h.cache_key("x", 1)] = 3
    cache[h.cache_key()] = 4
    f.cache_clear()
    assert f.cache_info()[:2] == (0, 0)
    assert g.cache_info() == (0, 1, 1000, 5)
    assert g.cache_key(1) in cache and f.cache_key(1) not in cache and f.cache_key(2) not in cache
    assert (g(1), f(1)) == (1, 3)
    assert g.cache_info()[0] == 1


def test_clearing_the_cache_leaves_a_shared_functions_own_counts():
    cache = Cache()
    f = cached(cache)(Counted())
    f(1), f(1)
    cache.clear()
    assert f.cache_info() == (1, 1, 1000, 0)
    assert f(1) == 2


# --- lifetimes --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "ttl", [10, 10.0, timedelta(seconds=10), lambda result: 10, lambda result: timedelta(seconds=10)]
)
def test_a_result_lives_for_its_ttl(clock, ttl):
    f = cached(Cache(clock=clock, default_ttl=99), ttl=ttl)(Counted())
    assert f(1) == 1
    clock.now += 9.999
    assert f(1) == 1
    clock.now += 0.001
    assert f(1) == 2
    assert f.cache_info()[:2] == (1, 2)


@pytest.mark.parametrize("ttl", [None, lambda result: None])
def test_without_a_ttl_the_caches_own_holds(clock, ttl):
    f = cached(Cache(clock=clock, default_ttl=10), ttl=ttl)(Counted())
    assert f(1) == 1
    clock.now += 10
    assert f(1) == 2


@pytest.mark.parametrize("ttl", [math.inf, lambda result: math.inf, 10**400])
def test_infinity_is_for_ever(clock, ttl):
    f = cached(Cache(clock=clock, default_ttl=10), ttl=ttl)(Counted())
    assert f(1) == 1
    clock.now += 1e9
    assert f(1) == 1


def test_a_ttl_may_depend_on_the_result(clock):
    asked = []
    f = cached(Cache(clock=clock), ttl=lambda result: asked.append(result) or result)(lambda x: x)
    assert (f(5), f(10), f(5)) == (5, 10, 5)
    assert asked == [5, 10]
    clock.now += 5
    assert f.cache_key(5) not in f.cache and f.cache_key(10) in f.cache


@pytest.mark.parametrize("nothing", [0, 0.0, -1, -math.inf, timedelta(0), timedelta(seconds=-1)])
def test_a_ttl_callable_that_returns_nothing_left_means_do_not_store(nothing):
    f = cached(ttl=lambda result: nothing)(Counted())
    assert (f(1), f(1)) == (1, 2)
    assert f.cache_info() == (0, 2, 1000, 0)
    assert f.cache.stats.sets == 0


@pytest.mark.parametrize(
    "wrong, error", [("10", TypeError), (math.nan, ValueError), (True, TypeError), ([], TypeError)]
)
def test_a_ttl_callable_that_returns_nonsense_is_an_error(wrong, error):
    f = cached(ttl=lambda result: wrong)(Counted())
    with pytest.raises(error, match="ttl"):
        f(1)
    assert len(f.cache) == 0


def test_idle_results_leave(clock):
    f = cached(Cache(clock=clock, time_to_idle=5))(Counted())
    for _ in range(3):
        assert f(1) == f(1, 2) - 1 == 1
        clock.now += 4
    clock.now += 1
    assert f(1) == 3


# --- what is stored ---------------------------------------------------------------------------------------------------


def test_every_result_is_cached(kind):
    for result in (None, False, 0, "", (), NotImplemented, Ellipsis, Exception("as a value")):
        function = Mock(return_value=result, spec=["__call__"])
        f = cached(**kind)(function)
        f.cache_clear()
        assert f(1) is f(1) is f(1) is result
        assert function.call_count == 1
        assert f.cache_info()[:2] == (2, 1)


def test_exceptions_are_not_cached(kind):
    errors = [ValueError("first"), KeyError("second")]
    function = Mock(side_effect=[*errors, "third"], spec=["__call__"])
    f = cached(**kind)(function)
    for error in errors:
        with pytest.raises(type(error)) as caught:
            f(1)
        assert caught.value is error
        assert caught.value.__context__ is None and caught.value.__cause__ is None
    assert f(1) == f(1) == "third"
    assert f.cache_info()[:2] == (1, 3)
    assert f.cache.stats.sets == 1


def test_every_kind_of_exception_passes_through(kind):
    for error in (KeyboardInterrupt, SystemExit, GeneratorExit, StopIteration, RecursionError):
        f = cached(**kind)(Mock(side_effect=[error, 5], spec=["__call__"]))
        with pytest.raises(error):
            f(1)
        assert f(1) == f(1) == 5


def test_a_condition_decides_by_the_result(kind):
    asked = []
    function = Mock(side_effect=[None, 0, "good", "never"], spec=["__call__"])
    f = cached(**kind, condition=lambda result: asked.append(result) or result)(function)
    assert [f(1) for _ in range(5)] == [None, 0, "good", "good", "good"]
    assert asked == [None, 0, "good"]
    assert f.cache_info()[:2] == (2, 3)


def test_a_condition_is_asked_before_the_ttl():
    ttl = Mock(return_value=10)
    f = cached(condition=lambda result: result, ttl=ttl)(lambda x: x)
    f(False)
    ttl.assert_not_called()
    f(True)
    ttl.assert_called_once_with(True)


@pytest.mark.parametrize("asked", ["condition", "ttl"])
def test_an_error_in_condition_or_ttl_reaches_the_caller_and_nothing_is_stored(kind, asked):
    f = cached(**kind, **{asked: lambda result: 1 / 0})(Counted())
    with pytest.raises(ZeroDivisionError):
        f(1)
    assert len(f.cache) == 0
    with pytest.raises(ZeroDivisionError):
        f(1)


def test_a_result_that_is_too_heavy_is_returned_but_not_stored():
    f = cached(Cache(max_weight=10, weigher=lambda key, value: value))(lambda x: x)
    assert (f(11), f(11), f(10), f(10)) == (11, 11, 10, 10)
    assert f.cache_info() == (1, 3, 1000, 1)
    assert f.cache.weight == 10


def test_the_bound_and_the_policy_are_the_caches(any_policy):
    f = cached(max_size=3, policy=any_policy)(Counted())
    for k in (1, 2, 3, 1, 4):
        f(k)
    victim = {"LRU": 2, "LFU": 2, "AUTO": 2}.get(any_policy, 1)     # AUTO begins as LRU if a cache is small
    assert sorted(f.cache) == sorted({1, 2, 3, 4} - {victim})
    assert f.cache_info() == (1, 4, 3, 3)


def test_resizing_shows_in_the_info():
    f = cached(max_size=10)(Counted())
    for k in range(10):
        f(k)
    f.cache.resize(5)
    assert f.cache_info()[2:] == (5, 5)


def test_callbacks_see_the_keys_of_calls():
    left = []
    cache = Cache(max_size=1, on_evict=lambda key, value: left.append((key, value)))
    f = cached(cache)(lambda x: x)
    first = f.cache_key("a")
    f("a"), f("b")
    assert left == [(first, "a")]


# --- recursion --------------------------------------------------------------------------------------------------------


def test_recursive_functions(kind):
    @cached(**kind)
    def fib(n):
        return n if n < 2 else fib(n - 1) + fib(n - 2)

    assert fib(100) == 354224848179261915075
    assert fib.cache_info()[:2] == (98, 101)


def test_endless_recursion_is_a_recursion_error(kind):
    @cached(**kind)
    def deeper(n):
        return deeper(n + 1)

    with pytest.raises(RecursionError):
        deeper(0)
    assert len(deeper.cache) == 0


def test_endless_recursion_into_the_same_key_is_a_recursion_error(kind):
    @cached(**kind)
    def again(n):
        return again(n)

    with pytest.raises(RecursionError):
        again(0)
    assert len(again.cache) == 0


# --- references -------------------------------------------------------------------------------------------------------


def count_of(thing):
    return sys.getrefcount(thing)


@pytest.mark.skipif(FREE_THREADED, reason="reference counts are split between threads without the GIL")
@pytest.mark.parametrize(
    "options",
    [
        {}, {"cache": None, "typed": True}, {"cache": Cache()}, {"key_func": lambda *args, **kwargs: args},
        {"condition": lambda result: False}, {"ttl": lambda result: 0}, {"single_flight": False}, {"lru": True},
        {"lru": True, "maxsize": 0}, {"lru": True, "maxsize": None},
    ],
    ids=named,
)
def test_no_call_leaks_a_reference(options):
    thing, result = Thing(), Thing()
    options = dict(options)
    f = (lru_cache if options.pop("lru", False) else cached)(**options)(lambda *args, **kwargs: result)

    def use():
        for _ in range(20):
            f(thing), f(thing, 1), f(thing, x=thing), f(*[thing] * 10, **{f"k{k}": thing for k in range(10)})
            f.__call__(thing, y=thing)
            for attempt in ([], (thing, []), ()):
                try:
                    f(thing, attempt)
                except TypeError:
                    pass
        for name in ("cache_key", "invalidate"):
            if hasattr(f, name) and options.get("maxsize", 1) != 0:
                getattr(f, name)(thing), getattr(f, name)(thing, x=thing)
        f.cache_clear()

    use()
    before = count_of(thing), count_of(result), count_of(f), count_of(None)
    use()
    after = count_of(thing), count_of(result), count_of(f), count_of(None)
    assert after[:3] == before[:3]
    assert abs(after[3] - before[3]) < 20       # None: the interpreter itself takes some


def test_arguments_and_results_die_when_their_entry_leaves(kind):
    f = cached(**kind)(lambda *args, **kwargs: Thing())
    for leave in (f.cache_clear, f.cache.clear, lambda: f.invalidate(*args, **kwargs)):
        args, kwargs = [Thing(), Thing()], {"x": Thing()}
        gone = [weakref.ref(f(*args, **kwargs))] + [weakref.ref(one) for one in (*args, *kwargs.values())]
        assert all(one() is not None for one in gone)
        leave()
        args = kwargs = None
        assert [one() for one in gone] == [None] * 4


def test_a_failed_call_keeps_nothing_alive(kind):
    @cached(**kind)
    def fails(x):
        raise ValueError

    thing = Thing()
    gone = weakref.ref(thing)
    gc.disable()
    try:
        with pytest.raises(ValueError):
            fails(thing)
        del thing
        assert gone() is None
    finally:
        gc.enable()


# --- what is refused --------------------------------------------------------------------------------------------------


def generate():
    yield 1


async def generate_asynchronously():
    yield 1


class Generators:
    def method(self):
        yield 1

    @classmethod
    def of_class(cls):
        yield 1

    @staticmethod
    def static():
        yield 1

    def __call__(self):
        yield 1


@pytest.mark.parametrize(
    "function",
    [
        generate,
        generate_asynchronously,
        functools.partial(generate),
        functools.partial(functools.partial(generate)),
        Generators.method,
        Generators().method,
        vars(Generators)["of_class"],
        vars(Generators)["static"],
        Generators(),
        lambda: (yield),
    ],
)
def test_a_generator_function_is_a_type_error_at_decoration(function):
    for decorate in (cached, cached(), cached(Cache()), cached(key_func=lambda: 1)):
        with pytest.raises(TypeError, match="generator"):
            decorate(function)


@pytest.mark.parametrize(
    "options", [{"max_size": 5}, {"policy": "LFU"}, {"max_size": 5, "policy": "LFU"}, {"max_size": None}]
)
def test_a_cache_together_with_its_own_options_is_a_type_error(options):
    with pytest.raises(TypeError, match=" and ".join(options)):
        cached(Cache(), **options)


@pytest.mark.parametrize(
    "options, error, named",
    [
        ({"key_func": 1}, TypeError, "key_func"),
        ({"condition": "yes"}, TypeError, "condition"),
        ({"ttl": 0}, ValueError, "ttl"),
        ({"ttl": -1}, ValueError, "ttl"),
        ({"ttl": math.nan}, ValueError, "ttl"),
        ({"ttl": "soon"}, TypeError, "ttl"),
        ({"ttl": True}, TypeError, "ttl"),
        ({"ttl": timedelta(0)}, ValueError, "ttl"),
        ({"max_size": 0}, ValueError, "max_size"),
        ({"max_size": "many"}, TypeError, "max_size"),
        ({"policy": "LIFO"}, ValueError, "LRU"),
        ({"policy": 5}, TypeError, "policy"),
        ({"cache": 5}, TypeError, "cache"),
        ({"cache": {}}, TypeError, "cache"),
        ({"unknown": 5}, TypeError, "unknown"),
    ],
    ids=named,
)
def test_bad_options_are_refused_by_name(options, error, named):
    with pytest.raises(error, match=named):
        cached(**options)(len)


def test_a_size_in_place_of_the_cache_is_told_its_name():
    with pytest.raises(TypeError, match=r"cached\(max_size=100\)"):
        cached(100)


def test_a_second_positional_option_is_refused():
    with pytest.raises(TypeError):
        cached(Cache(), 300)


@pytest.mark.parametrize("thing", [5, "f", None, property()])
def test_what_cannot_be_called_cannot_be_decorated(thing):
    with pytest.raises(TypeError):
        cached()(thing)


def test_a_policy_instance_serves_one_function():
    policy = type("Mine", (EvictionPolicy,), {})(1000)
    decorate = cached(policy=policy)
    decorate(len)
    with pytest.raises(ValueError, match="policy"):
        decorate(repr)


def test_each_function_decorated_by_one_decorator_has_its_own_cache():
    decorate = cached(max_size=5)
    f, g = decorate(Counted()), decorate(Counted())
    assert f.cache is not g.cache
    f(1)
    assert g.cache_info() == (0, 0, 5, 0)


# --- threads ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"cache": Cache()}, {"typed": True}, {"single_flight": False}], ids=named)
def test_hits_and_misses_add_up_under_threads(options):
    f = cached(**options)(lambda x, y=0: (x, y))
    f.cache_clear()
    barrier = threading.Barrier(4)

    def use():
        barrier.wait(60)
        for k in range(3000):
            assert f(k % 37) == (k % 37, 0)
            assert f(k % 11, y=k % 7) == (k % 11, k % 7)

    run_all(*[use] * 4)
    info = f.cache_info()
    assert info.hits + info.misses == 4 * 2 * 3000
    assert info.currsize == 37 + 77
    assert info.misses == 37 + 77 or options.get("single_flight") is False or info.misses >= 37 + 77
