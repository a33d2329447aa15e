"""`lru_cache` is `functools.lru_cache`: CPython's own tests pass, and random calls have the same effects in both."""

from __future__ import annotations

import copy
import functools
import inspect
import pickle
import random
import sys
import threading
import types
import unittest
import warnings
import weakref

import pytest

from cachebox import cached, lru_cache
from in_threads import LIMIT, run_all

# --- CPython's tests --------------------------------------------------------------------------------------------------

try:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")         # the imports of the standard library's tests are not our concern
        import test.test_functools as tests
except ImportError:
    tests = None

OURS = types.SimpleNamespace(**{**vars(functools), "lru_cache": lru_cache})


@lru_cache()
def cached_function(x, y):
    return 3 * x + y


@pytest.mark.skipif(tests is None, reason="this interpreter comes without its own test package")
class TestAsInCPython(*([tests.TestLRU] if tests else []), unittest.TestCase):
    """The interpreter's own tests, with our `lru_cache` in the place of the one written in C."""

    module = OURS
    cached_func = (cached_function,)

    @lru_cache()
    def cached_meth(self, x, y):
        return 3 * x + y

    @staticmethod
    @lru_cache()
    def cached_staticmeth(x, y):
        return 3 * x + y

    def setUp(self):
        for name in ("c_functools", "py_functools"):    # some tests ask which of the two they test
            self.addCleanup(setattr, tests, name, getattr(tests, name))
        tests.c_functools = OURS


@pytest.mark.skipif(tests is None, reason="this interpreter comes without its own test package")
def test_all_of_cpythons_tests_are_among_them():
    names = {name for name in dir(tests.TestLRUC) if name.startswith("test_")}
    assert len(names) >= 25
    assert names == {name for name in dir(TestAsInCPython) if name.startswith("test_")}


# --- the same calls have the same effects in both ---------------------------------------------------------------------

BOTH = [functools.lru_cache, lru_cache]
MAX_SIZES = [None, 0, 1, 3, 50]


class Same:
    """A key that is equal to those of the same number; all have one hash."""

    def __init__(self, number):
        self.number = number

    def __hash__(self):
        return 5

    def __eq__(self, other):
        return isinstance(other, Same) and self.number == other.number

    def __repr__(self):
        return f"Same({self.number})"


class AnInt(int):
    pass


class AStr(str):
    pass


VALUES = [
    0, 1, 2, -1, -2, 2**61 - 1, 2**80, 0.0, -0.0, 1.0, 2.5, float("inf"), True, False, None, "", "a", "b", "1", "\xe9",
    b"a", (), (1,), (1.0,), (True,), (1, 2), ("a", 1), ((1,), 2), frozenset(), frozenset({1}), 1j, Ellipsis, int, str,
    Same(1), Same(2), Same(1), AnInt(1), AnInt(2), AStr("a"), AStr("b"), [], {}, ([],),
]
NAMES = ["x", "y", "z", "self", "args"]


def random_call(chance):
    """Arguments, many of which come again."""
    few = chance.random() < 0.6
    values = VALUES[:8] if few else VALUES
    args = [chance.choice(values) for _ in range(chance.choice([0, 1, 1, 1, 2, 3]))]
    names = chance.sample(NAMES, chance.choice([0, 0, 0, 1, 2]))
    return args, {name: chance.choice(values) for name in names}


def outcome_of(call):
    """The result or the exception of a call, to be compared with another one's."""
    try:
        return repr(call())
    except Exception as error:
        return type(error), str(error)


@pytest.mark.parametrize("typed", [False, True])
@pytest.mark.parametrize("maxsize", MAX_SIZES)
def test_random_calls(maxsize, typed):
    chance = random.Random(f"{maxsize} {typed}")
    counts = [[0], [0]]
    theirs, ours = [
        make(maxsize, typed)(lambda *args, _count=count, **kwargs: next_result(_count, args, kwargs))
        for make, count in zip(BOTH, counts, strict=True)
    ]
    for _ in range(4000):
        args, kwargs = random_call(chance)
        assert outcome_of(lambda: ours(*args, **kwargs)) == outcome_of(lambda: theirs(*args, **kwargs)), (args, kwargs)
        assert ours.cache_info() == theirs.cache_info(), (args, kwargs)
        assert counts[0] == counts[1], (args, kwargs)
        if chance.random() < 0.005:
            ours.cache_clear(), theirs.cache_clear()
            assert ours.cache_info() == theirs.cache_info()


def next_result(count, args, kwargs):
    """A result that names its computation; now and then a failure."""
    count[0] += 1
    if count[0] % 11 == 0:
        raise ValueError(count[0])
    return count[0], args, kwargs


@pytest.mark.parametrize("typed", [False, True])
@pytest.mark.parametrize("maxsize", MAX_SIZES)
def test_random_recursion(maxsize, typed):
    """Functions that call themselves, even with the same arguments, clear their own cache, and fail."""

    def make_recursive(make):
        chance = random.Random(f"{maxsize} {typed}")
        few = [0, 1, 1.0, True, "a", *range(2, 60)]
        trace = []

        @make(maxsize, typed)
        def f(x, depth):
            action = chance.random()
            if depth > 0 and action < 0.8:
                for _ in range(chance.randrange(3)):
                    again = chance.random() < 0.3
                    deeper = depth if again and chance.random() < 0.1 else depth - 1
                    try:
                        f(x if again else chance.choice(few), deeper)
                    except ValueError:
                        pass
                    trace.append(tuple(f.cache_info()))
            elif action < 0.85:
                raise ValueError
            elif action < 0.88:
                f.cache_clear()
            trace.append((x, depth))
            return len(trace)

        def run():
            for _ in range(1000):
                trace.append(outcome_of(lambda: f(chance.choice(few), 3)))
                trace.append(tuple(f.cache_info()))
            return trace

        return run

    theirs, ours = [make_recursive(make)() for make in BOTH]
    for n, (ours_then, theirs_then) in enumerate(zip(ours, theirs, strict=False)):
        assert ours_then == theirs_then, f"event {n}, after {ours[max(0, n - 5):n]}"
    assert len(ours) == len(theirs) > 2000


@pytest.mark.parametrize("maxsize", [-5, -1, 0, 1, 2, 128, True, False, None, 10**6, sys.maxsize])
def test_parameters(maxsize):
    for typed in (False, True, 0, 1, "yes"):
        parameters_are_the_same(maxsize, typed)


def parameters_are_the_same(maxsize, typed):
    theirs, ours = [make(maxsize, typed)(abs) for make in BOTH]
    assert ours.cache_parameters() == theirs.cache_parameters()
    for _ in range(2):
        ours(1), theirs(1)
        assert ours.cache_info() == theirs.cache_info()
        assert repr(ours.cache_info()) == repr(theirs.cache_info())
        assert type(ours.cache_info()).__name__ == type(theirs.cache_info()).__name__


@pytest.mark.parametrize(
    "use",
    [
        lambda make: make("many"),
        lambda make: make(1.5),
        lambda make: make([]),
        lambda make: make()(5),
        lambda make: make()(None),
        lambda make: make(maxsize=5, unknown=5),
        lambda make: make(1, 2, 3),
        lambda make: make(abs, "yes"),
    ],
)
def test_bad_parameters(use):
    raised = []
    for make in BOTH:
        with pytest.raises(Exception) as caught:
            use(make)
        raised.append(caught.type)
    assert raised[0] is raised[1]


@pytest.mark.parametrize(
    "decorate", [lambda make: make, lambda make: make(), lambda make: make(64), lambda make: make(maxsize=64)]
)
def test_ways_to_decorate(decorate):
    theirs, ours = [decorate(make)(lambda x: [x]) for make in BOTH]
    assert ours(1) is ours(1) and theirs(1) is theirs(1)
    assert ours.cache_parameters() == theirs.cache_parameters()


def test_the_wrapper_shows_the_same():
    def function(x: int, *, y: str = "") -> float:
        """Its documentation."""

    function.attribute = 5
    theirs, ours = [make(function) for make in BOTH]
    for name in ("__name__", "__qualname__", "__module__", "__doc__", "__wrapped__", "attribute"):
        assert getattr(ours, name) == getattr(theirs, name)
    for name in ("__annotations__", "__annotate__"):        # from 3.14 on, theirs have the second one only
        assert not hasattr(theirs, name) or getattr(ours, name) == getattr(theirs, name)
    assert inspect.signature(ours) == inspect.signature(theirs)
    assert set(dir(theirs)) - set(dir(ours)) == set()
    assert callable(ours) and weakref.ref(ours)() is ours
    assert copy.copy(ours) is ours and copy.deepcopy(ours) is ours
    assert pickle.loads(pickle.dumps(cached_function)) is cached_function


def test_methods_bind_the_same_way():
    for make in BOTH:

        class One:
            calls = 0

            @make
            def method(self, x):
                One.calls += 1
                return (self, x)

            @classmethod
            @make
            def of_class(cls, x):
                return [cls, x]

            @staticmethod
            @make
            def static(x):
                return [x]

        one = One()
        assert isinstance(one.method, types.MethodType) and one.method.__func__ is One.method
        assert one.method(1) == One.method(one, 1) == (one, 1)
        assert One.calls == 1
        assert One.method.cache_info() == one.method.cache_info() == (1, 1, 128, 1)
        assert One.of_class(1) is one.of_class(1) and One.static(1) is one.static(1)
        assert one in one.method(1)
        one.method.cache_clear()
        assert One.method.cache_info() == (0, 0, 128, 0)


def test_a_method_keeps_its_instance_alive_as_in_functools():
    alive = []
    for make in BOTH:
        cls = type("One", (), {"method": make(lambda self: None)})
        one = cls()
        one.method()
        gone = weakref.ref(one)
        del one
        alive.append(gone() is not None)
    assert alive == [True, True]


@pytest.mark.parametrize("maxsize", [None, 5])
def test_there_is_no_single_flight(maxsize):
    """Callers that compute the same at the same time get a result each; functools' rule says which one stays."""
    for make in BOTH:
        barrier = threading.Barrier(3)

        @make(maxsize)
        def f(x):
            barrier.wait(LIMIT)
            return object()

        results = run_all(*[lambda: f(1)] * 3)
        assert len(set(results)) == 3
        assert f.cache_info() == (0, 3, maxsize, 1)
        assert f(1) in results


@pytest.mark.parametrize("maxsize", [None, 5])
def test_of_a_call_and_the_same_call_within_it(maxsize):
    """With a bound the inner result stays, because it was there first; without one the outer result stays."""
    kept = []
    for make in BOTH:
        results = []

        @make(maxsize)
        def f(x):
            results.append(None)
            depth = len(results)
            if depth < 3:
                f(x)
            return depth

        assert f(1) == 1
        kept.append((f(1), f.cache_info()))
    assert kept[0] == kept[1]
    assert kept[0][0] == (1 if maxsize is None else 3)


@pytest.mark.parametrize("maxsize", [None, 5])
def test_a_result_that_arrives_after_a_clear_is_stored_as_in_functools(maxsize):
    for make in BOTH:

        @make(maxsize)
        def f(x):
            f.cache_clear()
            return x

        f(1)
        assert f.cache_info() == (0, 0, maxsize, 1)


def test_hits_and_misses_add_up_under_threads():
    @lru_cache(maxsize=20)
    def f(x, y=0):
        return (x, y)

    def use():
        for k in range(3000):
            assert f(k % 17) == (k % 17, 0)
            assert f(k % 5, y=k % 7) == (k % 5, k % 7)
            if k % 500 == 0:
                f.cache_info()

    run_all(*[use] * 4)
    info = f.cache_info()
    assert info.hits + info.misses == 4 * 2 * 3000
    assert info.currsize == 20


def test_what_sets_it_apart_from_cached():
    """The documentation says it, so it has to be true."""

    class One:
        def __eq__(self, other):
            return True

        def __hash__(self):
            return 1

        theirs = lru_cache(lambda self: id(self))
        own = cached(lambda self: id(self))

    one, other = One(), One()
    assert one.theirs() == other.theirs()
    assert one.own() != other.own()


def test_the_signature_is_functools_own():
    ours, theirs = (inspect.signature(make).parameters.values() for make in (lru_cache, functools.lru_cache))
    assert [str(parameter) for parameter in ours] == [str(parameter) for parameter in theirs]
