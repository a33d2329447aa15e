"""`cached` on methods: whose result it is, how long it lives, and every way in which a method can be reached."""

from __future__ import annotations

import abc
import copy
import enum
import gc
import inspect
import os
import pickle
import sys
import types
import weakref
from dataclasses import dataclass

import pytest

from cachebox import Cache, cached, lru_cache
from conftest import named
from in_threads import run_all

FREE_THREADED = not getattr(sys, "_is_gil_enabled", lambda: True)()

classes_must_be_mortal = pytest.mark.skipif(
    FREE_THREADED and sys.version_info < (3, 14),
    reason="Python 3.13 without the GIL makes functions and classes immortal",
)


@pytest.fixture
def no_collector():
    """Objects that die in the test die by their reference count."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


OWN_AND_SHARED = pytest.mark.parametrize("cache", [None, "shared"], ids=["own cache", "shared cache"])


def decorator(cache, **options):
    """`cached` with a cache of its own, or with one that it shares."""
    return cached(Cache() if cache == "shared" else None, **options)


# --- kinds of instances -----------------------------------------------------------------------------------------------
# Each function makes a class with a method `double(x)` that computes (instance, 2 * x) as text and notes the call.


def plain(decorate):
    class Plain:
        @decorate
        def double(self, x, **more):
            calls.append((id(self), x))
            return f"{id(self)}: {2 * x}"

    calls = Plain.calls = []
    return Plain


def slotted(decorate):
    class Slotted:
        __slots__ = ("__weakref__",)

        @decorate
        def double(self, x, **more):
            calls.append((id(self), x))
            return f"{id(self)}: {2 * x}"

        calls = []

    calls = Slotted.calls
    return Slotted


def unhashable(decorate):
    class Unhashable(plain(decorate)):
        __hash__ = None

        def __eq__(self, other):
            return True

    return Unhashable


def all_equal(decorate):
    class AllEqual(plain(decorate)):
        def __eq__(self, other):
            return True

        def __hash__(self):
            return 1

    return AllEqual


def frozen(decorate):
    @dataclass(frozen=True)
    class Frozen:
        number: int = 1

        @decorate
        def double(self, x, **more):
            calls.append((id(self), x))
            return f"{id(self)}: {2 * x}"

    calls = Frozen.calls = []
    return Frozen


def mutable_data(decorate):
    @dataclass
    class MutableData:
        number: int = 1

        @decorate
        def double(self, x, **more):
            calls.append((id(self), x))
            return f"{id(self)}: {2 * x}"

    calls = MutableData.calls = []
    return MutableData


def slotted_data(decorate):
    @dataclass(frozen=True, slots=True, weakref_slot=True)
    class SlottedData:
        number: int = 1

        @decorate
        def double(self, x, **more):
            calls.append((id(self), x))
            return f"{id(self)}: {2 * x}"

    calls = SlottedData.calls = []
    return SlottedData


def named_otherwise(decorate):
    class NamedOtherwise:
        @decorate
        def double(this, x, **more):
            calls.append((id(this), x))
            return f"{id(this)}: {2 * x}"

    calls = NamedOtherwise.calls = []
    return NamedOtherwise


def unreadable(decorate):
    class Unreadable(plain(decorate)):
        """An object whose comparison, hash, truth and attributes fail."""

        def __eq__(self, other):
            raise ZeroDivisionError

        __hash__ = __bool__ = __len__ = __eq__

        def __getattribute__(self, name):
            if name not in ("double", "__class__"):
                raise ZeroDivisionError
            return super().__getattribute__(name)

    return Unreadable


def an_exception(decorate):
    class AnException(Exception):
        @decorate
        def double(self, x, **more):
            calls.append((id(self), x))
            return f"{id(self)}: {2 * x}"

    calls = AnException.calls = []
    return AnException


def assigned_later(decorate):
    class AssignedLater:
        pass

    def double(self, x, **more):
        calls.append((id(self), x))
        return f"{id(self)}: {2 * x}"

    AssignedLater.double = decorate(double)
    calls = AssignedLater.calls = []
    return AssignedLater


def a_lambda(decorate):
    class Lambda:
        double = decorate(lambda self, x, **more: (calls.append((id(self), x)), f"{id(self)}: {2 * x}")[1])

    calls = Lambda.calls = []
    return Lambda


KINDS_OF_CLASSES = [
    plain, slotted, unhashable, all_equal, frozen, mutable_data, slotted_data, named_otherwise, unreadable,
    an_exception, assigned_later, a_lambda,
]


@pytest.fixture(params=KINDS_OF_CLASSES, ids=lambda make: make.__name__)
def make_class(request):
    """Makes a class of each kind in turn."""
    return request.param


@OWN_AND_SHARED
@pytest.mark.parametrize("typed", [False, True])
def test_each_instance_has_its_own_results(make_class, cache, typed):
    cls = make_class(decorator(cache, typed=typed))
    instances = [cls() for _ in range(20)]
    for _ in range(3):
        for one in instances:
            assert one.double(1) == f"{id(one)}: 2"
            assert one.double(2, y=3) == f"{id(one)}: 4"
    assert cls.calls == [(id(one), x) for one in instances for x in (1, 2)]
    assert cls.double.cache_info()[:2] == (80, 40)


@OWN_AND_SHARED
def test_results_neither_keep_the_instance_alive_nor_outlive_it(make_class, cache, no_collector):
    cls = make_class(decorator(cache))
    one, other = cls(), cls()
    gone = weakref.ref(one)
    for x in range(10):
        one.double(x), one.double(x, y=x), other.double(x)
    assert len(cls.double.cache) == 30
    one.double.cache_key(5), one.double.invalidate(5)
    del one
    assert gone() is None
    assert len(cls.double.cache) == 10
    assert other.double(9) == f"{id(other)}: 18"
    assert len(cls.calls) == 30


@OWN_AND_SHARED
def test_an_instance_at_the_address_of_a_dead_one_gets_nothing_of_it(make_class, cache):
    cls = make_class(decorator(cache))
    seen = set()
    reused = 0
    for n in range(200):
        one = cls()
        reused += id(one) in seen
        seen.add(id(one))
        assert one.double(1) == f"{id(one)}: 2"
        assert len(cls.calls) == n + 1
        assert len(cls.double.cache) == 1
        del one
    if not reused and (FREE_THREADED or "ASAN_OPTIONS" in os.environ):
        pytest.skip("no address was used again: without the GIL that can be, and under AddressSanitizer it is the rule")
    assert reused, "no address was used again: this test tested nothing"


@OWN_AND_SHARED
def test_invalidate_and_cache_key_of_a_bound_method_take_no_self(make_class, cache):
    cls = make_class(decorator(cache))
    one, other = cls(), cls()
    assert one.double.invalidate(1) is False
    one.double(1), other.double(1), one.double(2, y=3)
    keys = {one.double.cache_key(1), other.double.cache_key(1), one.double.cache_key(2, y=3)}
    assert keys == set(cls.double.cache)
    assert one.double.invalidate(1) is True
    assert one.double.invalidate(1) is False
    assert one.double.invalidate(2, y=3) is True
    assert set(cls.double.cache) == {other.double.cache_key(1)}
    one.double(1)
    assert len(cls.calls) == 4


def test_asking_for_a_key_leaves_no_trace(make_class, no_collector):
    cls = make_class(cached)
    one = cls()
    gone = weakref.ref(one)
    key = one.double.cache_key(1)
    assert one.double.invalidate(1) is False
    cls.double.cache[key] = "by hand"
    assert one.double(1) == "by hand"
    del one
    assert gone() is None
    assert len(cls.double.cache) == 0


@OWN_AND_SHARED
def test_an_instance_that_dies_in_a_cycle_takes_its_results_along(make_class, cache):
    if make_class in (slotted, frozen, slotted_data, unreadable):
        pytest.skip("its instances cannot refer to themselves")
    cls = make_class(decorator(cache))
    one = cls()
    one.itself = one
    one.double(1), one.double(2)
    gone = weakref.ref(one)
    del one
    gc.collect()
    assert gone() is None
    assert len(cls.double.cache) == 0


@OWN_AND_SHARED
def test_an_unbound_call_is_the_same_call(cache):
    cls = plain(decorator(cache))
    one = cls()
    assert cls.double(one, 1) == one.double(1)
    assert len(cls.calls) == 1
    assert cls.double.cache_key(one, 1) == one.double.cache_key(1)
    assert cls.double.invalidate(one, 1) is True
    assert one.double.invalidate(1) is False
    assert cls.double is vars(cls)["double"]
    with pytest.raises(TypeError):
        cls.double()
    with pytest.raises(TypeError):
        cls.double.cache_key()


@classes_must_be_mortal
def test_a_class_whose_methods_are_cached_is_collected_with_everything():
    cls = plain(cached)
    one = cls()
    one.double(1)
    gone = [weakref.ref(cls), weakref.ref(one), weakref.ref(cls.double), weakref.ref(cls.double.cache)]
    del cls, one
    gc.collect()
    assert [known() for known in gone] == [None] * 4


@classes_must_be_mortal
def test_a_class_that_dies_before_its_shared_cache_leaves_nothing_there():
    cache = Cache()
    cls = plain(cached(cache))
    one, other = cls(), cls()
    one.itself = one
    one.double(1), other.double(1)
    assert len(cache) == 2
    gone = weakref.ref(cls)
    del one, other, cls
    gc.collect()
    assert gone() is None
    assert len(cache) == 0


# --- instances that take no weak reference ----------------------------------------------------------------------------


class NoWeakReference:
    __slots__ = ("number",)
    calls: list = []

    @cached
    def double(self, x):
        self.calls.append(x)
        return 2 * x

    @cached(key_func=lambda self, x: (self.number, x))
    def by_number(self, x):
        self.calls.append(x)
        return 2 * x


class AnInt(int):
    calls: list = []

    @cached
    def times(self, x):
        self.calls.append(x)
        return self * x


@pytest.mark.parametrize("cls, name", [(NoWeakReference, "double"), (AnInt, "times")])
def test_an_instance_that_takes_no_weak_reference_is_computed_every_time(cls, name):
    cls.calls.clear()
    method = getattr(cls, name)
    method.cache_clear()
    one = cls()
    bound = getattr(one, name)
    assert [bound(3), bound(x=3), method(one, 3)] == [method.__wrapped__(one, 3)] * 3
    assert cls.calls == [3] * 4
    assert method.cache_info() == (0, 3, 1000, 0)
    assert method.cache.stats.misses == 3
    assert bound.invalidate(3) is False
    with pytest.raises(TypeError, match="weak"):
        bound.cache_key(3)


def test_a_key_func_caches_even_such_instances():
    NoWeakReference.calls.clear()
    one, other = NoWeakReference(), NoWeakReference()
    one.number = other.number = 5
    assert one.by_number(1) == other.by_number(1) == NoWeakReference.by_number(one, 1) == 2
    assert NoWeakReference.calls == [1]
    assert one.by_number.cache_key(1) == (5, 1)
    assert one.by_number.invalidate(1) is True
    assert NoWeakReference.by_number.invalidate(other, 1) is False


def test_such_misses_count_for_the_function_in_a_shared_cache():
    class Slotted:
        __slots__ = ()

        @cached(Cache())
        def method(self):
            return 1

    Slotted().method(), Slotted().method()
    assert Slotted.method.cache_info()[:2] == (0, 2)


# --- what keys and results refer to -----------------------------------------------------------------------------------


class Node:
    """A class whose methods return the instance, or get it as an argument."""

    made = 0

    @cached
    def itself(self, x):
        Node.made += 1
        return self

    @cached
    def given(self, *args, **kwargs):
        Node.made += 1
        return Node.made

    @cached
    def listed(self):
        return [self]

    @cached
    async def itself_later(self):
        return self


def test_a_result_that_is_the_instance_is_not_stored(no_collector):
    node = Node()
    gone = weakref.ref(node)
    assert node.itself(1) is node.itself(1) is node
    assert len(Node.itself.cache) == 0
    del node
    assert gone() is None


def test_a_result_that_is_the_instance_is_not_stored_by_a_coroutine_either(no_collector):
    node = Node()
    gone = weakref.ref(node)
    with pytest.raises(StopIteration) as over:
        node.itself_later().send(None)
    assert over.value.value is node
    assert len(Node.itself_later.cache) == 0
    over.value.value = None
    del node, over
    assert gone() is None


def test_a_result_that_refers_to_the_instance_keeps_it_as_long_as_it_is_stored(no_collector):
    node = Node()
    gone = weakref.ref(node)
    assert node.listed() is node.listed() and node.listed.invalidate() is True
    del node
    assert gone() is None


def test_arguments_that_are_the_instance_do_not_keep_it_alive(no_collector):
    node, other = Node(), Node()
    gone = weakref.ref(node)
    Node.given.cache_clear()
    calls = [((node,), {}), ((node, node, 1), {}), ((), {"x": node}), ((1, node), {"y": node}), ((other,), {})]
    results = [node.given(*args, **kwargs) for args, kwargs in calls]
    assert [node.given(*args, **kwargs) for args, kwargs in calls] == results
    assert len(set(results)) == len(calls)
    assert node.given(other) != other.given(node) != other.given(other)
    assert other.given.invalidate(node) is True         # as an argument of the other's call it would stay alive
    assert {node.given.cache_key(*args, **kwargs) for args, kwargs in calls} <= set(Node.given.cache)
    assert node.given.invalidate(1, node, y=node) is True
    del calls, node
    assert gone() is None
    other.given.invalidate(other)
    assert len(Node.given.cache) == 0


def test_arguments_that_are_the_instance_need_no_hash(no_collector):
    class Unhashable(Node):
        __hash__ = None
        __eq__ = object.__eq__

    node, other = Unhashable(), Unhashable()
    assert node.given(node) == node.given(node)
    assert node.given(x=node, y=1) == node.given(x=node, y=1)
    with pytest.raises(TypeError, match="unhashable"):
        node.given(other)


def test_typed_methods_tell_the_types_of_arguments_apart():
    class Typed:
        @cached(typed=True)
        def kind(self, x, y=None):
            return type(x), type(y)

    one = Typed()
    assert one.kind(1) != one.kind(1.0) != one.kind(True)
    assert one.kind(1, y=1) != one.kind(1, y=1.0)
    assert one.kind(one) == (Typed, type(None))
    assert one.kind.cache_info()[:2] == (0, 6) or one.kind.cache_info().misses == 6


# --- memory: a living instance with many results, and dying ones ------------------------------------------------------


class Same:
    """Objects that all have one hash, and are different."""

    def __hash__(self):
        return 1


@OWN_AND_SHARED
def test_results_of_equal_hashes_die_with_the_instance(cache, no_collector):
    cls = plain(decorator(cache))
    one, keys = cls(), [Same() for _ in range(30)]
    for key in keys:
        one.double(1, y=key)
    assert len(cls.double.cache) == 30
    del one
    assert len(cls.double.cache) == 0


@OWN_AND_SHARED
def test_results_die_with_the_instance_however_many_it_had_before(cache, no_collector):
    cls = plain(cached(Cache(max_size=10)) if cache else cached(max_size=10))
    one, other = cls(), cls()
    for x in range(1000):
        one.double(x % 300)
        other.double(-1)
    assert len(cls.double.cache) == 10
    del one
    assert list(cls.double.cache.values()) == [f"{id(other)}: -2"]


def test_a_result_that_arrives_after_a_thousand_others_dies_with_the_instance(no_collector):
    """The entries that die with an instance are noted when a result is stored, not when its computation begins."""

    class Slow:
        @cached(max_size=10)
        async def double(self, x):
            return 2 * x

    def run(coroutine):
        with pytest.raises(StopIteration):
            coroutine.send(None)

    one = Slow()
    early = one.double(-1)
    for x in range(1000):
        run(one.double(x))
    run(early)
    assert one.double.cache_key(-1) in Slow.double.cache
    del one, early
    assert len(Slow.double.cache) == 0


@OWN_AND_SHARED
def test_results_computed_while_others_are_swept_die_with_the_instance(cache, no_collector):
    class Nested:
        @(cached(Cache(max_size=10)) if cache else cached(max_size=10))
        def double(self, x):
            if x == -1:
                for k in range(1000):
                    self.double(k)
            return 2 * x

    one = Nested()
    one.double(-1)
    assert one.double.cache_key(-1) in Nested.double.cache
    del one
    assert len(Nested.double.cache) == 0


def test_evicted_results_keep_none_of_their_arguments_alive(no_collector):
    class Argument:
        pass

    cls = plain(cached(max_size=5))
    one = cls()
    arguments = [Argument() for _ in range(100)]
    gone = [weakref.ref(argument) for argument in arguments]
    for argument in arguments:
        one.double(1, y=argument)
    del argument, arguments
    assert sum(known() is not None for known in gone) == 5


@pytest.mark.skipif(FREE_THREADED, reason="reference counts are split between threads without the GIL")
def test_no_call_of_a_method_leaks_a_reference():
    class Thing:
        result = object()

        @cached
        def method(self, *args, **kwargs):
            return self.result

        @classmethod
        @cached
        def inner(cls, *args, **kwargs):
            return cls.result

        @cached
        @classmethod
        def outer(cls, *args, **kwargs):
            return cls.result

    thing, argument = Thing(), object()

    def use():
        for _ in range(20):
            thing.inner(1)                      # this call shows that it is a class method
            for method in (thing.method, thing.inner, Thing.outer):
                method(argument), method(argument, 1), method(argument, x=argument), method(thing), method(y=thing)
                method(*[argument] * 10, **{f"k{k}": argument for k in range(10)})
                method.__call__(argument)
                method.cache_key(argument), method.invalidate(argument, 1), method.invalidate("nothing")
                with pytest.raises(TypeError):
                    method([])
            thing.method(argument), thing.method(argument, x=1), Thing.method(thing, argument)
        for method in (thing.method, thing.inner, Thing.outer):
            method.cache_clear()

    use()
    gc.collect()
    counts = [sys.getrefcount(one) for one in (thing, argument, Thing, Thing.result)]
    use()
    gc.collect()
    assert [sys.getrefcount(one) for one in (thing, argument, Thing, Thing.result)] == counts


def test_a_wrapper_forgets_the_instances_that_died(no_collector):
    """An instance that had results, or was only asked for a key, leaves nothing behind."""
    cls = plain(cached)

    def use():
        one = cls()
        one.double(1)
        one.double.cache_key(2)
        cls().double.cache_key(1)

    use()
    cls.calls.clear()
    gc.collect()
    before = len(gc.get_objects())
    for _ in range(100):
        use()
        cls.calls.clear()
    assert len(gc.get_objects()) <= before + 20


# --- how instances end ------------------------------------------------------------------------------------------------


class LastWords:
    """An object that calls its own method while it dies."""

    said: list = []

    def __init__(self):
        self.before = self.method("before")

    @cached
    def method(self, when):
        return [when, id(self)]

    def __del__(self):
        LastWords.said.append((self.before, self.method("before"), self.method("last"), self.method("last")))


@pytest.mark.parametrize("in_a_cycle", [False, True])
def test_an_instance_may_call_its_method_while_it_dies(in_a_cycle):
    LastWords.said.clear()
    gc.collect()
    one = LastWords()
    address = id(one)
    if in_a_cycle:
        one.itself = one
    del one
    gc.collect()
    ((first, again, last, last_again),) = LastWords.said
    assert first == again == ["before", address] and last is last_again and last == ["last", address]
    assert len(LastWords.method.cache) == 0


class Phoenix:
    """Comes back to life."""

    alive: list = []

    @cached
    def method(self, x):
        return [x, id(self)]

    def __del__(self):
        Phoenix.alive.append(self)


@pytest.mark.parametrize("in_a_cycle", [False, True])
def test_an_instance_that_comes_back_to_life_has_its_own_results(in_a_cycle):
    one = Phoenix()
    if in_a_cycle:
        one.itself = one
    first = one.method(1)
    del one
    gc.collect()
    one = Phoenix.alive.pop()
    assert one.method(1) == first
    assert one.method(2) is one.method(2)
    one.itself = None
    del one                                     # an object is finalised only once
    gc.collect()
    Phoenix.alive.clear()
    gc.collect()
    assert len(Phoenix.method.cache) == 0


def test_a_callback_of_a_weak_reference_may_call_the_function():
    """A callback that runs before the results are dropped may fill the cache."""
    cls = plain(cached)
    one, other = cls(), cls()
    heard = []
    known = weakref.ref(one, lambda _: heard.append(other.double(1)))
    one.double(1)
    later = weakref.ref(one, lambda _: heard.append(other.double(2)))
    del one
    assert sorted(heard) == [f"{id(other)}: 2", f"{id(other)}: 4"]
    assert len(cls.double.cache) == 2
    del known, later


def test_callbacks_hear_of_the_results_of_a_dead_instance():
    left = []
    cls = plain(cached(Cache(on_removal=lambda key, value, cause: left.append((value, cause.name)))))
    one = cls()
    one.double(1), one.double(2)
    address = id(one)
    del one
    gc.collect()
    assert sorted(left) == [(f"{address}: 2", "EXPLICIT"), (f"{address}: 4", "EXPLICIT")]


def test_a_callback_that_interrupts_does_not_save_the_other_results(monkeypatch):
    told = []
    monkeypatch.setattr(sys, "unraisablehook", lambda unraisable: told.append(unraisable.exc_type))

    def on_evict(key, value):
        raise KeyboardInterrupt

    cls = plain(cached(Cache(on_evict=on_evict)))
    one = cls()
    for x in range(5):
        one.double(x)
    del one
    gc.collect()
    assert len(cls.double.cache) == 0
    assert told == [KeyboardInterrupt]


def test_results_whose_end_calls_the_method_again():
    class Result:
        def __init__(self, other):
            self.other = other

        def __del__(self):
            self.other.make(None)

    class Maker:
        @cached
        def make(self, other):
            return Result(other) if other is not None else "none"

    one, other = Maker(), Maker()
    one.make(other)
    del one
    gc.collect()
    assert list(Maker.make.cache.values()) == ["none"]


def test_instances_may_die_in_many_threads_at_once():
    cls = plain(cached(max_size=None))
    keep = cls()
    keep.double(0)

    def use():
        for k in range(300):
            one = cls()
            for x in range(5):
                assert one.double(x) == f"{id(one)}: {2 * x}"
            assert keep.double(0) == f"{id(keep)}: 0"
            if k % 3 == 0:
                one.itself = one

    run_all(*[use] * 4)
    gc.collect()
    assert list(cls.double.cache) == [keep.double.cache_key(0)]


def test_one_instance_in_many_threads_at_once():
    cls = plain(cached(max_size=50))
    one = cls()

    def use():
        for x in range(2000):
            assert one.double(x % 97) == f"{id(one)}: {2 * (x % 97)}"     # noqa: F821  # deleted only later

    run_all(*[use] * 4)
    info = cls.double.cache_info()
    assert info.hits + info.misses == 8000
    del one
    gc.collect()
    assert len(cls.double.cache) == 0


# --- inheritance ------------------------------------------------------------------------------------------------------


class Base:
    @cached
    def name(self, x):
        return ("base", x)

    @cached
    def kind(self):
        return type(self)

    @classmethod
    @cached
    def maker(cls, x):
        return (cls, x)


class Derived(Base):
    @cached
    def name(self, x):
        return ("derived", super().name(x))

    @classmethod
    @cached
    def maker(cls, x):
        return ("derived", super().maker(x))


class Further(Derived):
    pass


class Diamond(Further, Base):
    @cached
    def name(self, x):
        return ("diamond", *super().name(x))


def test_inheritance_and_super():
    one = Diamond()
    for _ in range(2):
        assert Base().name(1) == ("base", 1)
        assert Derived().name(1) == ("derived", ("base", 1))
        assert one.name(1) == ("diamond", "derived", ("base", 1))
    assert super(Diamond, one).name(1) == ("derived", ("base", 1))
    assert super(Derived, one).name(1) == ("base", 1)
    assert Base.name(one, 1) == ("base", 1)
    assert [cls().kind() for cls in (Base, Derived, Further, Diamond)] == [Base, Derived, Further, Diamond]


def test_inheritance_and_super_of_class_methods():
    for _ in range(2):
        assert Base.maker(1) == (Base, 1)
        assert Derived.maker(1) == ("derived", (Derived, 1))
        assert Further.maker(1) == Further().maker(1) == ("derived", (Further, 1))
    assert Further.maker.invalidate(1) is True
    assert Derived.maker.invalidate(1) is True
    assert Derived.maker.invalidate(1) is False


def test_invalidating_through_super_concerns_the_method_above():
    one = Derived()
    one.name(1)
    assert super(Derived, one).name.invalidate(1) is True
    assert one.name.invalidate(1) is True
    assert super(Derived, one).name.invalidate(1) is False


def test_abstract_methods_stay_abstract():
    class Abstract(abc.ABC):
        @abc.abstractmethod
        @cached
        def inner(self):
            """..."""

        @cached
        @abc.abstractmethod
        def outer(self):
            """..."""

    assert Abstract.__abstractmethods__ == {"inner", "outer"}
    concrete = type("Concrete", (Abstract,), {"inner": lambda self: 1, "outer": cached(lambda self: 2)})
    assert concrete().outer() == concrete().outer() == 2


def test_enumerations_and_metaclasses():
    class Colour(enum.Enum):
        RED = 1
        BLUE = 2

        @cached
        def described(self, x):
            return f"{self.name} {x}"

        @classmethod
        @cached
        def count(cls):
            return len(cls)

    class Meta(type):
        @cached
        def of_class(cls, x):
            return (cls.__name__, x)

    class One(metaclass=Meta):
        pass

    for _ in range(2):
        assert (Colour.RED.described(1), Colour.BLUE.described(1)) == ("RED 1", "BLUE 1")
        assert Colour.count() == 2
        assert One.of_class(1) == ("One", 1)
    assert Colour.count.cache_info()[:2] == (1, 1)


# --- class methods, static methods, properties ------------------------------------------------------------------------


def class_with_class_methods(decorate):
    class Methods:
        calls: list = []

        @classmethod
        @decorate
        def inner(cls, x, y=0):
            cls.calls.append(x)
            return (cls.__name__, x)

        @decorate
        @classmethod
        def outer(cls, x, y=0):
            cls.calls.append(x)
            return (cls.__name__, x)

        @classmethod
        @decorate
        def inner_named_otherwise(klass, x, y=0):
            klass.calls.append(x)
            return (klass.__name__, x)

        @decorate
        @classmethod
        def outer_named_otherwise(klass, x, y=0):
            klass.calls.append(x)
            return (klass.__name__, x)

        @staticmethod
        @decorate
        def inner_static(x, y=0):
            Methods.calls.append(x)
            return ("static", x)

        @decorate
        @staticmethod
        def outer_static(x, y=0):
            Methods.calls.append(x)
            return ("static", x)

    return Methods


CLASS_METHODS = ["inner", "outer", "inner_named_otherwise", "outer_named_otherwise"]
STATIC_METHODS = ["inner_static", "outer_static"]
DECORATIONS = pytest.mark.parametrize(
    "options",
    [{}, {"cache": "shared"}, {"typed": True}, {"key_func": lambda *args, **kwargs: (args, tuple(kwargs))}],
    ids=named,
)


def decoration(options):
    options = dict(options)
    return decorator(options.pop("cache", None), **options)


@DECORATIONS
@pytest.mark.parametrize("name", CLASS_METHODS)
def test_class_methods_in_both_orders(name, options):
    cls = class_with_class_methods(decoration(options))
    sub = type("Sub", (cls,), {})
    for _ in range(3):
        assert getattr(cls, name)(1) == getattr(cls(), name)(1) == ("Methods", 1)
        assert getattr(sub, name)(1) == getattr(sub(), name)(1) == ("Sub", 1)
        assert getattr(cls, name)(2, y=3) == ("Methods", 2)
    assert cls.calls == [1, 1, 2]
    assert getattr(cls, name).cache_info()[:2] == (12, 3)


@DECORATIONS
@pytest.mark.parametrize("name", CLASS_METHODS)
def test_invalidate_and_cache_key_of_a_class_method_take_no_class(name, options):
    cls = class_with_class_methods(decoration(options))
    sub = type("Sub", (cls,), {})
    if "key_func" not in options:
        assert getattr(cls, name).invalidate(1) is False
    getattr(cls, name)(1), getattr(sub, name)(1)
    method, of_sub, of_instance = getattr(cls, name), getattr(sub, name), getattr(cls(), name)
    assert {method.cache_key(1), of_sub.cache_key(1)} == set(method.cache)
    assert of_instance.cache_key(1) == method.cache_key(1)
    assert of_sub.invalidate(1) is True
    assert of_instance.invalidate(1) is True
    assert method.invalidate(1) is False and len(method.cache) == 0
    method(1)
    assert cls.calls == [1, 1, 1]


@DECORATIONS
@pytest.mark.parametrize("name", STATIC_METHODS)
def test_static_methods_in_both_orders(name, options):
    cls = class_with_class_methods(decoration(options))
    sub = type("Sub", (cls,), {})
    for _ in range(3):
        assert getattr(cls, name)(1) == getattr(cls(), name)(1) == getattr(sub, name)(1) == ("static", 1)
        assert getattr(cls, name)(2, y=3) == ("static", 2)
    assert cls.calls == [1, 2]
    assert getattr(cls, name).cache_key(1) in getattr(cls, name).cache
    assert getattr(sub(), name).invalidate(1) is True
    assert getattr(cls, name).invalidate(1) is False


@pytest.mark.parametrize("name", [*CLASS_METHODS, *STATIC_METHODS])
def test_static_and_class_methods_cache_calls_with_a_class_as_argument(name):
    cls = class_with_class_methods(cached)
    method = getattr(cls, name)
    assert method(cls) == method(cls) == getattr(cls, name)(cls)
    assert cls.calls == [cls]


@pytest.mark.parametrize("order", ["inner", "outer"])
def test_a_class_method_works_whatever_the_metaclass_forbids(order):
    class Sealed(type):
        def __setattr__(cls, name, value):
            raise AttributeError("sealed")

    class One(metaclass=Sealed):
        @classmethod
        @cached
        def inner(cls, x):
            return x

        @cached
        @classmethod
        def outer(cls, x):
            return x

    method = getattr(One, order)
    assert method(1) == method(1) == 1
    assert getattr(One, order).invalidate(1) is True


@classes_must_be_mortal
def test_classes_are_not_kept_alive_by_their_class_methods():
    cls = class_with_class_methods(cached)
    gone = [weakref.ref(cls)]
    for _ in range(3):
        sub = type("Sub", (cls,), {})
        gone.append(weakref.ref(sub))
        for name in CLASS_METHODS:
            getattr(sub, name)(1)
    del sub
    gc.collect()
    assert [known() for known in gone[1:]] == [None] * 3
    assert all(len(getattr(cls, name).cache) == 0 for name in CLASS_METHODS)
    del cls
    gc.collect()
    assert gone[0]() is None


def test_properties():
    class Circle:
        computed = 0

        def __init__(self, radius):
            self.radius = radius

        @property
        @cached
        def area(self):
            Circle.computed += 1
            return 3 * self.radius**2

    circles = [Circle(1), Circle(2)]
    assert [[circle.area for circle in circles] for _ in range(3)] == [[3, 12]] * 3
    assert Circle.computed == 2
    assert Circle.area.fget.invalidate(circles[0]) is True
    assert (circles[0].area, Circle.computed) == (3, 3)
    del circles
    gc.collect()
    assert len(Circle.area.fget.cache) == 0


def test_a_method_that_another_decorator_wraps():
    def logged(function):
        def wrapper(*args, **kwargs):
            return function(*args, **kwargs)

        return wrapper

    class Wrapped:
        @logged
        @cached
        def method(self, x):
            return [x]

    one, other = Wrapped(), Wrapped()
    assert one.method(1) is one.method(1) is not other.method(1)
    gone = weakref.ref(one)
    del one
    gc.collect()
    assert gone() is None


def test_two_names_for_one_method():
    class Two:
        @cached
        def first(self, x):
            return [x]

        second = first

    one = Two()
    assert one.first(1) is one.second(1)
    gone = weakref.ref(one)
    del one
    gc.collect()
    assert gone() is None and len(Two.first.cache) == 0


def test_functions_inside_methods_are_functions():
    class Outer:
        def method(self):
            @cached
            def inner(self, x=0):
                return [self]

            return inner

    inner = Outer().method()
    assert inner(5) is inner(5)
    assert inner.cache_key(5) == 5
    assert inner.cache_info()[:2] == (1, 1)


def test_a_cached_function_as_an_attribute_of_an_instance_is_not_bound():
    class Holder:
        pass

    holder = Holder()
    holder.function = cached(lambda *args: args)
    assert holder.function(1) == (1,)
    assert holder.function.cache_info()[1] == 1


def test_a_bound_method_may_be_cached_for_its_instance():
    """``self.method = cached(self.method)``: a function like any other, which has its instance already."""

    class One:
        def __init__(self):
            self.calls = []
            self.method = cached(self.method)

        def method(self, x):
            self.calls.append(x)
            return x

    one, other = One(), One()
    for _ in range(2):
        assert [one.method(1), one.method("a"), one.method(x=other), other.method(1)] == [1, "a", other, 1]
    assert one.calls == [1, "a", other] and other.calls == [1]
    assert one.method.invalidate(1) is True


# --- bound methods as objects -----------------------------------------------------------------------------------------


class Shown:
    @cached
    def method(self, x: int, *, y: str = "") -> float:
        """Its documentation."""
        return x

    @cached
    @classmethod
    def of_class(cls, x: int) -> float:
        """Of the class."""
        return x

    def __eq__(self, other):
        return isinstance(other, Shown)

    __hash__ = None


def test_a_bound_method_shows_what_it_is():
    one = Shown()
    method = one.method
    assert method.__self__ is one and method.__func__ is Shown.method
    assert (method.__name__, method.__qualname__, method.__module__) == ("method", "Shown.method", __name__)
    assert method.__doc__ == inspect.getdoc(method) == "Its documentation."
    assert method.__wrapped__ is Shown.method.__wrapped__
    parameters = inspect.signature(method).parameters
    assert list(parameters) == ["x", "y"] and parameters["y"].default == ""
    assert list(inspect.signature(Shown.method).parameters) == ["self", "x", "y"]
    assert list(inspect.signature(Shown.of_class).parameters) == ["x"]
    assert Shown.of_class.__doc__ == "Of the class."
    assert "Shown.method" in repr(method)
    assert method.cache is Shown.method.cache
    assert method.cache_parameters() == Shown.method.cache_parameters()
    with pytest.raises(AttributeError):
        method.nothing


def test_bound_methods_are_equal_where_function_and_instance_are_the_same():
    one, other = Shown(), Shown()
    assert one.method == one.method and hash(one.method) == hash(one.method)
    assert one.method != other.method
    assert one.method != one.of_class and one.of_class == Shown.of_class
    assert one.method != 5
    assert len({one.method, one.method, other.method}) == 2


def test_a_bound_method_keeps_its_instance_while_it_is_held(no_collector):
    one = Shown()
    method, gone = one.method, weakref.ref(one)
    del one
    assert method(1) == method(1) == 1
    assert Shown.method.cache_info().hits >= 1
    weak = weakref.ref(method)
    del method
    assert gone() is None and weak() is None


def test_a_bound_method_in_a_cycle_with_its_instance_is_collected():
    one = Shown()
    one.bound = one.method
    one.bound(1)
    gone = weakref.ref(one)
    del one
    gc.collect()
    assert gone() is None


def test_bound_methods_pickle_with_their_instance():
    one = Shown()
    one.x = 5
    copied = pickle.loads(pickle.dumps(one.method))
    assert copied.__self__.x == 5 and copied.__func__ is Shown.method
    assert pickle.loads(pickle.dumps(Shown.method)) is Shown.method
    assert copy.copy(Shown.method) is copy.deepcopy(Shown.method) is Shown.method
    assert copy.copy(one.method) == one.method


def test_a_bound_method_called_in_all_ways():
    class Any:
        @cached
        def method(self, /, *args, **kwargs):
            return (args, kwargs)

    one = Any()
    many = {f"name{k}": k for k in range(20)}
    for method in (one.method, one.method.__call__, lambda *args, **kwargs: Any.method(one, *args, **kwargs)):
        assert method() == ((), {})
        assert method(1, 2, x=3) == ((1, 2), {"x": 3})
        assert method(*range(30), **many) == (tuple(range(30)), many)
        assert method(self=1) == ((), {"self": 1})
        assert list(map(method, [7, 8])) == [((7,), {}), ((8,), {})]
    assert Any.method.cache_info()[:2] == (12, 6)


# --- copies of instances ----------------------------------------------------------------------------------------------


class Account:
    def __init__(self, owner):
        self.owner = owner

    @cached
    def title(self):
        return f"account of {self.owner}"


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, lambda one: pickle.loads(pickle.dumps(one))])
def test_a_copied_instance_starts_without_results(duplicate):
    one = Account("Ann")
    assert one.title() == "account of Ann"
    twin = duplicate(one)
    assert vars(twin) == vars(one) == {"owner": "Ann"}
    twin.owner = "Bob"
    assert (twin.title(), one.title()) == ("account of Bob", "account of Ann")


# --- methods that arrive later ----------------------------------------------------------------------------------------


def test_a_method_assigned_to_several_classes():
    @cached
    def describe(self, x):
        return (type(self).__name__, x)

    classes = [type(name, (), {"describe": describe}) for name in "ABC"]
    instances = [cls() for cls in classes]
    for _ in range(2):
        assert [one.describe(1) for one in instances] == [("A", 1), ("B", 1), ("C", 1)]
    assert describe.cache_info()[:2] == (3, 3)
    gone = weakref.ref(instances[0])
    del instances[0]
    gc.collect()
    assert gone() is None
    assert len(describe.cache) == 2


def test_a_method_bound_by_hand():
    cls = plain(cached)
    one = cls()
    assert types.MethodType(cls.double, one)(1) == one.double(1) == cls.double.__get__(one)(1)
    assert len(cls.calls) == 1


def test_the_methods_of_lru_cache_are_functools_own():
    """They keep their instances alive and compare them, as functools has it."""

    class Equal:
        made = 0

        def __eq__(self, other):
            return True

        def __hash__(self):
            return 1

        @lru_cache
        def method(self, x):
            Equal.made += 1
            return x

    assert Equal().method(1) == Equal().method(1) == 1
    assert Equal.made == 1
    assert isinstance(Equal().method, types.MethodType)
