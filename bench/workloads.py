"""The workloads of the candidates: keys, uses of a cache and of a decorated function. Figures and suites share them."""

from __future__ import annotations

import contextvars
import dataclasses
import datetime
import decimal
import enum
import itertools
import random
import uuid
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from bench import measure
from bench.measure import Candidate, candidate, in_turn, shuffled
from bench.peers import Decorator, containers

# --- keys -------------------------------------------------------------------------------------------------------------


class Point:
    """A key of a user's class, hashed and compared in Python."""

    __slots__ = ("x", "y")

    def __init__(self, x: int, y: int) -> None:
        self.x = x
        self.y = y

    def __hash__(self) -> int:
        return hash((self.x, self.y))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Point) and self.x == other.x and self.y == other.y


class Pair(NamedTuple):
    x: int
    y: str


@dataclasses.dataclass(frozen=True)
class Frozen:
    x: int
    y: str


Member = enum.Enum("Member", [f"M{i}" for i in range(100)])

EQUAL_ARGUMENTS: dict[str, Callable[[int], Any]] = {        # a new object at each call, equal to others of that number
    "tuple": lambda i: (i, "a"),
    "frozenset": lambda i: frozenset((i, "a")),
    "date": lambda i: datetime.date(1900 + i, 1, 1),
    "datetime": lambda i: datetime.datetime(1900 + i, 1, 1),
    "Decimal": lambda i: decimal.Decimal(i) / 7,
    "UUID": lambda i: uuid.UUID(int=i),
    "complex": lambda i: complex(i, 1),
    "named tuple": lambda i: Pair(i, "a"),
    "frozen dataclass": lambda i: Frozen(i, "a"),
    "enum": lambda i: Member[f"M{i}"],
    "bytes": lambda i: b"key-%d" % i,
}
EQUAL_SHAPES = {
    "f(x)": "f(key)",
    "f(x, 1)": "f(key, 1)",
    "f('a', 1, x)": "f('a', 1, key)",
    "f(x=x)": "f(x=key)",
    "f(1, x=x)": "f(1, x=key)",
    "a.method(x)": "f.method(key)",
    "a.method(1, x)": "f.method(1, key)",
}


def text_keys(count: int, prefix: str = "key") -> list[str]:
    return [f"{prefix}-{i}" for i in range(count)]


def number_keys(count: int) -> list[int]:
    return [1000 + 7 * i for i in range(count)]


def scattered_keys(count: int) -> list[int]:
    """Different numbers without an order, because consecutive ones would be neighbours in a dict, too."""
    return [(i * 0x9E3779B1) & 0x7FFFFFFF for i in range(count)]


def tuple_keys(count: int) -> list[tuple[str, int]]:
    return [("user", i) for i in range(count)]


def object_keys(count: int) -> list[Point]:
    return [Point(i, i + 1) for i in range(count)]


KEYS: dict[str, Callable[[int], list[Any]]] = {
    "str": text_keys,
    "int": number_keys,
    "tuple": tuple_keys,
    "object": object_keys,
}


def zipf(alpha: float, universe: int, length: int, seed: int = 1) -> list[str]:
    """Keys drawn so that the key of rank r comes with a frequency of 1 / r ** alpha."""
    source = random.Random(seed)
    weights = list(itertools.accumulate(rank**-alpha for rank in range(1, universe + 1)))
    keys = text_keys(universe)
    source.shuffle(keys)
    return source.choices(keys, cum_weights=weights, k=length)


# --- caches -----------------------------------------------------------------------------------------------------------


def reads(
    names: Sequence[str], keys: list[Any], operation: str = "get", asked: list[Any] | None = None
) -> list[Candidate]:
    """Look up keys that are all present; `asked` are equal keys for the lookups, instead of the same objects."""
    batches = shuffled(keys if asked is None else asked)
    made = []
    for each in containers(*names, operation=operation):
        made.append(candidate(each.name, batches, getattr(each, operation), cache=each.filled(keys), **each.names))
    return made


def inserts(names: Sequence[str], keys: list[Any], newer: list[Any]) -> list[Candidate]:
    """Store new keys in full caches, which must evict."""
    found = containers(*names, operation="insert")
    return [candidate(each.name, in_turn(newer), each.insert, cache=each.filled(keys), **each.names) for each in found]


def fills(names: Sequence[str], keys: list[Any]) -> list[Candidate]:
    """Store keys in empty caches, which grow."""
    made = []
    for each in containers(*names, operation="store"):
        loop = measure.compile_loop(each.store, cache=None, **each.names)

        def sample(each: Any = each, loop: Any = loop) -> float:
            seconds: float = loop(keys, cache=each.make(len(keys)))
            return seconds / len(keys)

        made.append(Candidate(each.name, sample))
    return made


def overwrites(names: Sequence[str], keys: list[Any]) -> list[Candidate]:
    """Store keys that are present already."""
    found = containers(*names, operation="store")
    return [candidate(each.name, shuffled(keys), each.store, cache=each.filled(keys), **each.names) for each in found]


def deletes(names: Sequence[str], keys: list[Any]) -> list[Candidate]:
    """Delete all keys in random order; the cache is filled again before each round, untimed."""
    batches = shuffled(keys, batch=len(keys))
    made = []
    for each in containers(*names, operation="delete"):
        cache = each.make(len(keys))

        def fill(batch: Sequence[Any], each: Any = each, cache: Any = cache) -> None:
            each.fill(cache, keys)

        made.append(candidate(each.name, batches, each.delete, prepare=fill, cache=cache, **each.names))
    return made


def look_aside(names: Sequence[str], trace: list[Any], size: int) -> list[Candidate]:
    """Get each key of a trace, and store it if it is absent, as most programs use a cache.

    functools.lru_cache does that by itself.
    """
    batches = in_turn(trace)
    made = []
    for each in containers(*names, operation="look_aside"):
        cache = each.make(size)
        loop = measure.compile_loop(each.look_aside, cache=cache, size=size, **each.names)
        loop(trace)
        made.append(candidate(each.name, batches, each.look_aside, cache=cache, size=size, **each.names))
    return made


# --- decorated functions ----------------------------------------------------------------------------------------------


def calls(arguments: str, decorators: Sequence[Decorator]) -> list[Candidate]:
    """Call a decorated function with `arguments`, in which `key` varies; all results are cached."""
    keys = text_keys(1000)
    statement = f"f({arguments})"
    made = []
    for each in decorators:

        @each.make(2000)
        def f(*args: Any, **kwargs: Any) -> None:
            return None

        measure.compile_loop(statement, f=f)(keys)
        made.append(candidate(each.name, shuffled(keys), statement, f=f))
    return made


def method_calls(decorators: Sequence[Decorator]) -> list[Candidate]:
    """`calls` for a method with one argument, of one instance."""
    keys = text_keys(1000)
    made = []
    for each in decorators:

        class Owner:
            @each.make(2000)
            def method(self, key: Any) -> None:
                return None

        owner = Owner()
        measure.compile_loop("owner.method(key)", owner=owner)(keys)
        made.append(candidate(each.name, shuffled(keys), "owner.method(key)", owner=owner))
    return made


def async_calls(decorators: Sequence[Decorator]) -> list[Candidate]:
    """`calls` for a coroutine function, awaited in one task of a shared event loop."""
    run = measure.run_until_complete()
    keys = text_keys(1000)
    made = []
    for each in decorators:

        @each.make(2000)
        async def f(key: Any) -> None:
            return None

        run(measure.compile_async_loop("await f(key)", f=f)(keys))
        made.append(measure.async_candidate(each.name, shuffled(keys), "await f(key)", run=run, f=f))
    return made


def missed_calls(decorators: Sequence[Decorator]) -> list[Candidate]:
    """Call a function with arguments that are not cached; the candidate "plain" is the function without a decorator."""
    batches = in_turn(text_keys(100_000))
    made = []
    for each in [Decorator("plain", "plain", lambda size: lambda function: function), *decorators]:

        @each.make(1000)
        def f(key: Any) -> None:
            return None

        made.append(candidate(each.name, batches, "f(key)", f=f))
    return made


TENANT = contextvars.ContextVar("tenant")
KEY_OPTIONS: dict[str, tuple[dict[str, Any], str, str]] = {     # options, parameters, and a call
    "ignore": ({"ignore": "session"}, "key, session", "f(key, 1)"),
    "vary": ({"vary": TENANT}, "key", "f(key)"),
    "version": ({"version": 2}, "key", "f(key)"),
    "normalize": ({"normalize": True}, "key, other=1", "f(key)"),
}


def option_calls() -> list[Candidate]:
    """Call functions with options about their keys, and one without; all results are cached."""
    from cachebox import cached

    TENANT.set("a tenant")
    keys = text_keys(1000)
    made = []
    for name, (options, parameters, statement) in {"plain": ({}, "key", "f(key)"), **KEY_OPTIONS}.items():
        f = cached(max_size=2000, **options)(eval(f"lambda {parameters}: None"))
        measure.compile_loop(statement, f=f)(keys)
        made.append(candidate(name, shuffled(keys), statement, f=f))
    return made


# --- equal arguments --------------------------------------------------------------------------------------------------


def equal_batches(kind: str) -> tuple[list[Any], list[list[Any]]]:
    """A hundred keys, and batches of equal ones that are all different objects.

    All keys are hashed once, because some types remember their hash, and the first candidate would pay for the others.
    """
    make = EQUAL_ARGUMENTS[kind]
    batches = [[make(i) for i in batch] for batch in shuffled(range(100), batch=2_000)]
    for key in itertools.chain(*batches):
        hash(key)
    return [make(i) for i in range(100)], batches


def equal_calls(shape: str, kind: str, decorators: Sequence[Decorator]) -> list[Candidate]:
    """Call a decorated function or method with arguments equal to earlier ones."""
    keys, batches = equal_batches(kind)
    statement = EQUAL_SHAPES[shape]
    made = []
    for each in decorators:

        @each.make(200)
        def f(*args: Any, **kwargs: Any) -> None:
            return None

        class Owner:
            @each.make(200)
            def method(self, x: Any, y: Any = None) -> None:
                return None

        called = Owner() if ".method" in statement else f
        measure.compile_loop(statement, f=called)(keys)
        made.append(candidate(each.name, batches, statement, f=called))
    return made


def equal_reads(names: Sequence[str], kind: str) -> list[Candidate]:
    """Look up keys that are equal to the stored ones."""
    keys, batches = equal_batches(kind)
    found = containers(*names, operation="get")
    return [candidate(each.name, batches, each.get, cache=each.filled(keys), **each.names) for each in found]
