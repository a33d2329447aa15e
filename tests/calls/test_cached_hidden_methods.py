"""Cached methods that other decorators hide: whose the result is, and what keeps the instance alive."""

from __future__ import annotations

import abc
import contextlib
import enum
import functools
import gc
import inspect
import weakref

import pytest
from test_cached_methods import classes_must_be_mortal

from cachebox import Cache, cached, lru_cache


def traced(function):
    """A decorator as most are written."""

    @functools.wraps(function)
    def wrapper(*args, **kwargs):
        return function(*args, **kwargs)

    return wrapper


def opaque(function):
    """A decorator that hides the function that it wraps."""

    def inner(*args, **kwargs):
        return function(*args, **kwargs)

    return inner


def by_default(function):
    """A decorator that keeps the function that it wraps in a default."""

    def inner(*args, _function=function, **kwargs):
        return _function(*args, **kwargs)

    return inner


def by_keyword(function):
    """A decorator that passes all arguments on by name."""
    signature = inspect.signature(function)

    @functools.wraps(function)
    def wrapper(*args, **kwargs):
        return function(**signature.bind(*args, **kwargs).arguments)

    return wrapper


class Descriptor:
    """A decorator that is written as a class."""

    def __init__(self, function):
        self.function = function

    def __get__(self, instance, owner=None):
        return self if instance is None else functools.partial(self.function, instance)


class SlottedDescriptor:
    """A decorator that is a class without a dict."""

    __slots__ = ("function",)

    def __init__(self, function):
        self.function = function

    __get__ = Descriptor.__get__


class Money:
    """An instance that is equal to another of the same amount, with the same hash."""

    def __init__(self, amount, note):
        self.amount, self.note = amount, note

    def __eq__(self, other):
        return isinstance(other, Money) and self.amount == other.amount

    def __hash__(self):
        return hash(self.amount)


HIDDEN = {
    "below": lambda f: traced(cached(f)),
    "above": lambda f: cached(traced(f)),
    "between": lambda f: traced(cached(traced(f))),
    "below an opaque one": lambda f: opaque(cached(f)),
    "above an opaque one": lambda f: cached(opaque(f)),
    "between opaque ones": lambda f: opaque(opaque(cached(opaque(opaque(f))))),
    "below one with a default": lambda f: by_default(cached(f)),
    "below one that calls by keyword": lambda f: by_keyword(cached(f)),
    "below a class": lambda f: Descriptor(cached(f)),
    "below a slotted class": lambda f: SlottedDescriptor(cached(f)),
    "below a class and a function": lambda f: Descriptor(opaque(cached(f))),
    "in a partialmethod": lambda f: functools.partialmethod(cached(f)),
    "above a partialmethod": lambda f: cached(functools.partialmethod(f)),
    "in a shared cache": lambda f: opaque(cached(Cache())(f)),
    "typed": lambda f: opaque(cached(typed=True)(f)),
    "cached twice": lambda f: opaque(cached(cached(f))),
    "below lru_cache's kin": lambda f: opaque(cached(traced(opaque(f)))),
}


@pytest.fixture(params=HIDDEN.values(), ids=HIDDEN)
def hide(request):
    return request.param


def in_the_body(hide):
    class InTheBody(Money):
        @hide
        def describe(this):
            return [this.note]

    return InTheBody


def later(hide):
    class Later(Money):
        pass

    Later.describe = hide(lambda whoever: [whoever.note])
    return Later


def in_a_base(hide):
    class Base:
        describe = hide(lambda self: [self.note])

    class Derived(Base, Money):
        pass

    return Derived


def by_setattr_on_a_base(hide):
    class Derived(Money):
        pass

    mixin = type("Mixin", (Derived,), {})
    Derived.other_name = hide(lambda x: [x.note])
    mixin.describe = property(lambda self: self.other_name)
    return mixin


@pytest.mark.parametrize("make", [in_the_body, later, in_a_base, by_setattr_on_a_base], ids=lambda make: make.__name__)
def test_equal_instances_never_share_and_none_is_kept_alive(hide, make):
    cls = make(hide)
    one, other = cls(5, "mine"), cls(5, "yours")
    for _ in range(3):
        assert (one.describe(), other.describe()) == (["mine"], ["yours"])
    assert one.describe() is one.describe() is not other.describe()
    gone = weakref.ref(one)
    del one
    gc.collect()
    assert gone() is None


@pytest.mark.parametrize("make", [in_the_body, later], ids=lambda make: make.__name__)
def test_unhashable_instances_are_not_refused(hide, make):
    cls = make(hide)
    cls.__hash__ = None
    one = cls(5, "mine")
    assert one.describe() is one.describe()


def test_arguments_count_beside_the_instance(hide):
    calls = []

    class Adder(Money):
        @hide
        def add(self, *numbers, **more):
            calls.append((self.note, numbers))
            return self.amount + sum(numbers) + sum(more.values())

    if hide is HIDDEN["below one that calls by keyword"]:
        pytest.skip("such a decorator hands on no *args")
    one, other = Adder(1, "a"), Adder(1, "b")
    for _ in range(2):
        assert [one.add(1), one.add(1, 2), one.add(1, y=2), other.add(1)] == [2, 4, 4, 2]
    assert len(calls) == 4


# --- properties -------------------------------------------------------------------------------------------------------


def test_cached_above_and_inside_a_property():
    class Account(Money):
        computed = 0

        @property
        @cached
        def inside(me):
            Account.computed += 1
            return [me.note]

        @cached
        @property
        def above(me):
            Account.computed += 1
            return [me.note]

        @above.setter
        def above(me, note):
            me.note = note

        @cached
        @property
        @traced
        def both(me):
            return [me.note]

    one, other = Account(5, "mine"), Account(5, "yours")
    for name in ("inside", "above", "both"):
        assert getattr(one, name) is getattr(one, name)
        assert (getattr(one, name), getattr(other, name)) == (["mine"], ["yours"])
    assert Account.computed == 4
    one.above = "new"
    assert one.above == ["mine"]                # nothing said that it has changed
    assert Account.above.fget.invalidate(one) is True
    assert one.above == ["new"]
    gone = weakref.ref(one)
    del one
    gc.collect()
    assert gone() is None and len(Account.above.fget.cache) == 1


def test_a_property_keeps_its_documentation_and_its_kind():
    class Named(property):
        pass

    class One:
        @cached
        @Named
        def value(self):
            """What it is worth."""
            return [1]

    assert type(One.value) is Named and One.value.__doc__ == "What it is worth."
    assert One().value == [1]
    with pytest.raises(AttributeError):
        One().value = 2


def test_an_abstract_property_stays_abstract():
    class Abstract(abc.ABC):
        @property
        @cached
        @abc.abstractmethod
        def value(self):
            return 1

    assert Abstract.__abstractmethods__ == {"value"}


@pytest.mark.parametrize("thing", [functools.cached_property(len), functools.singledispatchmethod(len), property()])
def test_what_cannot_be_cached_says_what_to_do(thing):
    with pytest.raises(TypeError, match=r"property|below|getter"):
        cached(thing)


def test_cached_below_a_singledispatchmethod():
    class Shown:                        # functools of 3.13.0 itself takes one equal instance for another
        def __init__(self, price, note):
            self.note = note

        @functools.singledispatchmethod
        @cached
        def show(self, x):
            return [self.note, x]

        @show.register
        @cached
        def _(self, x: int):
            return [self.note, -x]

    one, other = Shown(5, "mine"), Shown(5, "yours")
    assert one.show(1) is one.show(1) and one.show("a") is one.show("a")
    assert (one.show(1), other.show(1), other.show("a")) == (["mine", -1], ["yours", -1], ["yours", "a"])


# --- static and class methods -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "decorate",
    [
        lambda f: staticmethod(cached(f)),
        lambda f: cached(staticmethod(f)),
        lambda f: staticmethod(traced(cached(f))),
        lambda f: staticmethod(opaque(cached(opaque(f)))),
        lambda f: cached(traced(staticmethod(f))),
        lambda f: staticmethod(cached(Cache())(f)),
    ],
)
def test_a_static_method_is_no_method_whatever_its_first_parameter_is_called(decorate):
    calls = []

    class Node:
        @decorate
        def weight(self, depth):
            calls.append(self)
            return depth

        def __eq__(self, other):
            return isinstance(other, Node)

        def __hash__(self):
            return 1

    assert [Node.weight(1, 2), Node.weight(1, 2), Node.weight("a", 3), Node.weight("a", 3)] == [2, 2, 3, 3]
    assert calls == [1, "a"]
    if not isinstance(vars(Node)["weight"], staticmethod):
        return                                  # an instance in front is the one that the function is called on
    node, equal = Node(), Node()
    assert Node.weight(node, 1) == Node.weight(equal, 1) == 1
    assert len(calls) == 3                      # arguments, compared as arguments are


@classes_must_be_mortal
@pytest.mark.parametrize("between", [traced, opaque])
def test_class_methods_below_other_decorators(between):
    class Base:
        made = 0

        @classmethod
        @between
        @cached
        def make(whoever, x):
            Base.made += 1
            return [whoever.__name__, x]

    derived = type("Derived", (Base,), {})
    for _ in range(2):
        assert (Base.make(1), derived.make(1), derived().make(1)) == (["Base", 1], ["Derived", 1], ["Derived", 1])
    assert Base.made == 2
    gone = weakref.ref(derived)
    del derived
    gc.collect()
    assert gone() is None


# --- what is no method ------------------------------------------------------------------------------------------------


def test_a_function_that_methods_call_is_a_function():
    calls = []

    @cached
    def describe(money):
        calls.append(money)
        return [money.note]

    class Account(Money):
        def shown(self):
            return describe(self)

        @property
        def label(self):
            return describe(self)

        table = {"describe": describe}

    one, equal = Account(5, "mine"), Account(5, "yours")
    assert one.shown() is equal.shown() is one.label is describe(one)
    assert calls == [one]


def test_a_function_is_a_method_only_for_the_classes_that_have_it():
    @cached
    def describe(x):
        return [x]

    class With(Money):
        shown = opaque(describe)

    class Without(Money):
        pass

    assert describe(5) is describe(5) and describe(Without(5, "a")) is describe(Without(5, "b"))
    assert With(5, "a").shown() is not With(5, "a").shown()


def test_a_class_that_gets_the_function_later_gives_no_results_of_before():
    @cached
    def describe(x):
        return [x.note]

    class Account(Money):
        pass

    one, equal = Account(5, "mine"), Account(5, "yours")
    assert describe(one) is describe(equal)
    Account.describe = opaque(describe)
    assert (one.describe(), equal.describe()) == (["mine"], ["yours"])
    del Account.describe
    assert describe(equal) == ["mine"]          # a function again


def test_a_class_that_changes_all_the_time_is_asked_all_the_time():
    class Account(Money):
        calls = 0

        @opaque
        @cached
        def describe(self):
            Account.calls += 1
            return [self.note]

    accounts = [Account(5, str(k)) for k in range(3000)]
    assert [one.describe() for one in accounts] == [[str(k)] for k in range(3000)]
    assert Account.calls == 3000


def test_keys_and_invalidation_of_a_hidden_method_know_the_instance():
    class Account(Money):
        @opaque
        @cached
        def describe(self, x=0):
            return [self.note, x]

    hidden = vars(Account)["describe"].__closure__[0].cell_contents
    one, equal = Account(5, "mine"), Account(5, "yours")
    one.describe(1), equal.describe(1)
    assert hidden.cache_key(one, 1) != hidden.cache_key(equal, 1)
    assert hidden.invalidate(one, 1) is True and hidden.invalidate(one, 1) is False
    assert hidden.cache_info().currsize == 1


def test_async_methods_below_other_decorators():
    import asyncio

    class Account(Money):
        @opaque
        @cached
        async def describe(me):
            await asyncio.sleep(0)
            return [me.note]

    async def main():
        one, other = Account(5, "mine"), Account(5, "yours")
        assert await one.describe() is await one.describe()
        assert (await one.describe(), await other.describe()) == (["mine"], ["yours"])

    asyncio.run(main())


def test_decorators_of_the_standard_library():
    @contextlib.contextmanager
    def entered():
        yield

    class Account(Money):
        @entered()
        @cached
        @entered()
        def describe(self):
            return [self.note]

    assert Account(5, "a").describe() == ["a"] != Account(5, "b").describe()


# --- classes that tools make ------------------------------------------------------------------------------------------


def test_a_named_tuple_says_once_that_nothing_is_cached():
    from typing import NamedTuple

    class Point(NamedTuple):
        x: int

        @cached
        def double(self):
            return [self.x * 2]

        @cached(key_func=lambda self: self)
        def by_value(self):
            return [self.x * 2]

    with pytest.warns(UserWarning, match=r"Point\.double .*key_func") as said:
        assert Point(1).double() == [2] and Point(1).double() is not Point(1).double()
    assert len(said) == 1
    assert Point(1).by_value() is Point(1).by_value()


def test_a_dataclass_with_slots_says_once_what_to_do():
    from dataclasses import dataclass

    @dataclass(frozen=True, slots=True)
    class Without:
        x: int

        @cached
        def double(self):
            return [self.x * 2]

        @property
        @cached
        def half(self):
            return [self.x / 2]

    @dataclass(frozen=True, slots=True, weakref_slot=True)
    class With:
        x: int

        @cached
        def double(self):
            return [self.x * 2]

    with pytest.warns(UserWarning, match=r"Without\.double .*weakref_slot=True") as said:
        assert Without(1).double() == Without(1).double() == [2]
    assert len(said) == 1
    with pytest.warns(UserWarning, match="weakref_slot"):
        assert Without(1).half == [0.5]
    one = With(1)
    assert one.double() is one.double() is not With(1).double()


def test_enumerations_of_every_kind():
    class Colour(enum.Enum):
        RED = 1
        BLUE = 2

        @opaque
        @cached
        def described(self, x):
            return [self.name, x]

        @property
        @cached
        def label(this):
            return [this.name]

    for _ in range(2):
        assert (Colour.RED.described(1), Colour.BLUE.described(1)) == (["RED", 1], ["BLUE", 1])
    assert Colour.RED.described(1) is Colour.RED.described(1)
    assert Colour.RED.label is Colour.RED.label is not Colour.BLUE.label
    assert list(Colour) == [Colour.RED, Colour.BLUE]

    class Level(enum.IntEnum):
        LOW = 1
        HIGH = 2

        @cached
        def described(self):
            return [self.name]

    class Other(enum.IntEnum):
        FIRST = 1

        described = vars(Level)["described"]

    for _ in range(2):
        found = Level.LOW.described(), Level.HIGH.described(), Other.FIRST.described()
        assert found == (["LOW"], ["HIGH"], ["FIRST"])
    assert Level.LOW.described() is Level.LOW.described()
    assert Level.LOW.described.invalidate() is True


def test_methods_of_lru_cache_stay_functools_own():
    class Equal(Money):
        @opaque
        @lru_cache
        def describe(self):
            return [self.note]

    assert Equal(5, "a").describe() is Equal(5, "b").describe()
