"""What type checkers see of the public names. Checked by mypy (`tests/project/test_typing.py`), never run.

Each ``type: ignore`` asserts that the line is refused, and why: one that is not needed is an error.
"""

# Nothing here runs: bodies are empty, and nothing is awaited.
# mypy: disable-error-code="empty-body, unused-coroutine"

from __future__ import annotations

from collections.abc import (
    Callable,
    Coroutine,
    Hashable,
    ItemsView,
    Iterable,
    Iterator,
    KeysView,
    Mapping,
    MutableMapping,
    ValuesView,
)
from contextvars import ContextVar
from datetime import timedelta
from typing import Any, assert_type

import cachebox
from cachebox import (
    MISSING,
    AsyncCacheLike,
    AsyncDistributedCache,
    AsyncWriteBehind,
    AsyncWriteThrough,
    BackendUnavailable,
    Cache,
    CacheLike,
    CacheStats,
    DistributedCache,
    Entry,
    EvictionPolicy,
    FIFOPolicy,
    LFUPolicy,
    LRUPolicy,
    RemovalCause,
    WriteBehind,
    WriteThrough,
    cached,
    cached_many,
    caches,
    clear_all,
    disabled,
    keys,
    lru_cache,
    sizeof,
)
from cachebox._calls.cache_info import CacheInfo
from cachebox._calls.cached_function import BoundFunction, CachedFunction
from cachebox.cache import Missing
from cachebox.stats import StatsSnapshot
from cachebox.testing import ManualClock

assert_type(cachebox.__version__, str)
cachebox.nothing  # type: ignore[attr-defined]

# --- Cache ------------------------------------------------------------------------------------------------------------

tenant: ContextVar[str] = ContextVar("tenant")
cache: Cache[str, int] = Cache(max_size=2, default_ttl=timedelta(seconds=3), policy="lfu")
unbounded: Cache[str, int] = Cache(None, 0.5, LRUPolicy)
mapping: MutableMapping[str, int] = cache

assert_type(cache["a"], int)
assert_type(cache.get("a"), int | None)
assert_type(cache.get("a", 0), int)
assert_type(cache.get("a", "nothing"), int | str)
assert_type(cache.peek("a"), int | None)
assert_type(cache.peek("a", default=0), int)
assert_type(cache.peek("a", b""), int | bytes)
assert_type(cache.pop("a"), int)
assert_type(cache.pop("a", 0), int)
assert_type(cache.pop("a", None), int | None)
assert_type(cache.setdefault("a", 1), int)
assert_type(cache.get_or_set("a", lambda: 1, ttl=timedelta(days=1)), int)
assert_type(cache.increment("a"), int)
assert_type(cache.ttl("a"), float | None)
assert_type(cache.touch("a", ttl=1.5), bool)
assert_type(cache.delete("a"), bool)
assert_type(cache.get_many(["a", "b"]), dict[str, int])
assert_type(cache.delete_many({"a", "b"}), int)
assert_type(cache.popitem(), tuple[str, int])
assert_type(cache.purge_expired(), int)
assert_type(cache.keys(), KeysView[str])
assert_type(cache.values(), ValuesView[int])
assert_type(cache.items(), ItemsView[str, int])
assert_type(iter(cache), Iterator[str])
assert_type(cache.copy(), Cache[str, int])
assert_type(cache.stats, CacheStats)
assert_type(cache.max_size, int | None)
assert_type(cache.default_ttl, float | Callable[[str, int], float | timedelta | None] | None)
assert_type(cache.max_bytes, int | None)
assert_type(cache.add("a", 1, ttl=5, tags="t"), bool)
assert_type(cache.entry("a"), Entry[str, int] | None)
assert_type(cache.contains("a"), bool)
assert_type(cache.get_or_set("a", lambda: 1, tags=["t"]), int)
assert_type(caches(), dict[str, Any])
assert_type(sizeof(cache), int)
clear_all()
clock = ManualClock()
clock.advance(timedelta(seconds=1))
by_value: Cache[str, int] = Cache(
    default_ttl=lambda key, value: value, jitter=0.1, isolate=True, max_bytes="1MB", name="c", clock=clock
)


async def use_coroutines() -> None:
    async def load(key: str) -> int:
        return len(key)

    async def make() -> int:
        return 1

    cache: Cache[str, int] = Cache(loader=load)
    assert_type(await cache.aget("a"), int | None)
    assert_type(await cache.aget("a", 5), int)
    assert_type(await cache.aget("a", "none"), int | str)
    assert_type(await cache.aget_many(["a"]), dict[str, int])
    assert_type(await cache.aget_or_set("a", make, 5, tags="t"), int)
    assert_type(await cache.aget_or_set("a", lambda: 1), int)


assert_type(cache.policy, str | EvictionPolicy[str])
assert_type(cache.weight, float)
assert_type("a" in cache, bool)
cache.set("a", 1, ttl=60)
cache.set_many({"a": 1}, ttl=timedelta(minutes=1))
cache.update({"a": 1})
cache.update([("a", 1)], b=2)
cache.update(a=1)
cache.resize(None)

cache[1] = 1  # type: ignore[index]
cache["a"] = "1"  # type: ignore[assignment]
cache.set("a", "1")  # type: ignore[arg-type]
cache.set("a", 1, ttl="soon")  # type: ignore[arg-type]
cache.get_or_set("a", str)  # type: ignore[arg-type]
cache.set_many({1: 1})  # type: ignore[dict-item]
unhashable: Hashable = cache  # type: ignore[assignment]
Cache(max_size="2")  # type: ignore[arg-type]
Cache(2, None, "LRU", None, 1.0)  # type: ignore[call-arg]


class Sessions(Cache[str, dict[str, int]]):
    """A subclass with a key and a value type."""


assert_type(Sessions()["a"], dict[str, int])
assert_type(Sessions().copy(), Sessions)

# increment: wherever an int may be stored
anything: Cache[str, object] = Cache()
texts: Cache[str, str] = Cache()
assert_type(anything.increment("a", 2), int)
texts.increment("a")  # type: ignore[misc]


# compute: MISSING stands for "no value", and is distinct from every value
def longer(old: str | Missing) -> str:
    if old is MISSING:
        return ""
    assert_type(old, str)
    return old + "."


def shorter(old: str | Missing) -> str | Missing:
    return old[1:] if old else MISSING


assert_type(texts.compute("a", longer), str | Missing)
assert_type(texts.compute("a", shorter), str | Missing)
texts.compute("a", len)  # type: ignore[arg-type]


# callbacks
def evicted(key: str, value: int) -> None: ...
def removed(key: str, value: int, cause: RemovalCause) -> None: ...
def weigh(key: str, value: int) -> float: ...


assert_type(Cache(on_evict=evicted), Cache[str, int])
assert_type(Cache(on_removal=removed, weigher=weigh, max_weight=10, clock=lambda: 0.0), Cache[str, int])
assert_type(RemovalCause("size"), RemovalCause)
Cache(on_removal=evicted)  # type: ignore[arg-type]

# --- policies ---------------------------------------------------------------------------------------------------------

lru = LRUPolicy[str](max_size=2)
lru.add("a")
assert_type(lru.evict(), str | None)
assert_type(list(LFUPolicy[int]()), list[int])
assert_type(len(FIFOPolicy[int]()), int)
assert_type(lru.max_size, int | None)
lru.add(1)  # type: ignore[arg-type]


class Newest(EvictionPolicy[str]):
    """A policy of the user's."""

    keys: list[str]

    def add(self, key: str) -> None: ...
    def remove(self, key: str) -> None: ...
    def access(self, key: str) -> None: ...
    def evict(self) -> str | None: ...
    def clear(self) -> None: ...
    def __len__(self) -> int: ...
    def __contains__(self, key: object) -> bool: ...
    def __iter__(self) -> Iterator[str]: ...


by_class: Cache[str, int] = Cache(policy=Newest)
by_instance: Cache[str, int] = Cache(policy=Newest(10))
wrong_key: Cache[int, int] = Cache(policy=Newest)  # type: ignore[arg-type]


class Unfinished(EvictionPolicy[str]):
    def add(self, key: str) -> None: ...


Unfinished()  # type: ignore[abstract]

# --- statistics -------------------------------------------------------------------------------------------------------

stats = CacheStats()
stats.increment("hits", 2)
assert_type(stats.hits, int)
assert_type(stats.get("misses"), float)
assert_type(stats.get_all(), dict[str, float])
assert_type(stats.hit_rate(), float)
assert_type(stats.report(), str)
assert_type(stats.snapshot() - stats.snapshot(), StatsSnapshot)
assert_type(stats.snapshot().uptime, float)
stats.hits = 1  # type: ignore[misc]


# --- cached -----------------------------------------------------------------------------------------------------------


@cached
def plain(x: int, *, base: str = "") -> str: ...


@cached(max_size=10, policy="LFU", ttl=60, typed=True, condition=lambda result: result is not None)
def with_options(x: int) -> list[int]: ...


@cached(cache, ttl=lambda result: timedelta(seconds=result), key_func=lambda x: ("n", x), single_flight=False)
def shared(x: int) -> int: ...


@cached()
async def later(x: int) -> str: ...


@cached(ignore="session", normalize=True, vary=(tenant, lambda: 1))
def chosen(x: int, session: object = None) -> str: ...


@cached(key_func=keys.combine("chosen", keys.array, path=keys.file, ignore="y"))
def by_file(x: object, path: str, y: int) -> str: ...


with disabled():
    assert_type(chosen(1, session=2), str)
cached(ignore=1)  # type: ignore[call-overload]
cached(vary="tenant")  # type: ignore[arg-type]
assert_type(plain(1, base="a"), str)
assert_type(with_options(1), list[int])
assert_type(shared(1), int)
assert_type(later(1), Coroutine[Any, Any, str])
assert_type(plain.cache, Cache[Any, Any])
assert_type(plain.cache_info(), CacheInfo)
assert_type(plain.cache_info().maxsize, int | None)
assert_type(plain.cache_parameters(), dict[str, Any])
assert_type(plain.cache_key(1, base="a"), Hashable)
assert_type(plain.invalidate(1), bool)
assert_type(plain.__wrapped__(1), str)
assert_type(plain.__name__, str)
assert_type(plain.peek(1), str | Missing)
assert_type(plain.refresh(1, base=""), str)
plain.set("a", 1, base="")
plain.set("a", "1")  # type: ignore[arg-type]
assert_type(later.peek(1), str | Missing)
assert_type(later.refresh(1), Coroutine[Any, Any, str])
later.set("a", 1)
plain.cache_clear()
as_callable: Callable[[int], str] = plain
inline = cached(len, max_size=3)
assert_type(inline("abc"), int)

plain("1")  # type: ignore[arg-type]
plain(1, bas="")  # type: ignore[call-arg]
plain.invalidate("1")  # type: ignore[arg-type]
plain.cache_key()  # type: ignore[call-arg]
cached(cache, max_size=10)  # type: ignore[call-overload]
cached(1)  # type: ignore[call-overload]


class Service:
    """Methods of every kind, in both orders of decorators."""

    @cached
    def method(self, x: int) -> str: ...

    @cached(ttl=1)
    async def coroutine(self, x: int) -> str: ...

    @classmethod
    @cached
    def class_method(cls, x: int) -> str: ...

    @cached(max_size=1)
    @classmethod
    def cached_class_method(cls, x: int) -> str: ...

    @staticmethod
    @cached
    def static_method(x: int) -> str: ...

    @cached
    @staticmethod
    def cached_static_method(x: int) -> str: ...

    @lru_cache(maxsize=5)
    def functools_like(self, x: int) -> str: ...

    def inside(self) -> None:
        assert_type(self.method(1), str)


class Derived(Service):
    """Inherits the wrappers."""


service = Derived()
bound: BoundFunction[[int], str] = service.method
assert_type(service.method(1), str)
assert_type(service.method.invalidate(1), bool)
assert_type(service.method.cache_key(1), Hashable)
assert_type(service.method.peek(1), str | Missing)
assert_type(service.method.refresh(1), str)
service.method.set("a", 1)
assert_type(service.coroutine.peek(1), str | Missing)
assert_type(Service.class_method.peek(1), str | Missing)
assert_type(service.method.cache_info(), CacheInfo)
assert_type(Service.method(service, 1), str)
assert_type(Service.method.invalidate(service, 1), bool)
assert_type(service.coroutine(1), Coroutine[Any, Any, str])
assert_type(Service.class_method(1), str)
assert_type(service.class_method(1), str)
assert_type(Service.class_method.invalidate(1), bool)
assert_type(Service.cached_class_method(1), str)
assert_type(service.cached_class_method(1), str)
assert_type(Service.static_method(1), str)
assert_type(service.static_method(1), str)
assert_type(service.static_method.invalidate(1), bool)
assert_type(Service.cached_static_method(1), str)
assert_type(service.cached_static_method(1), str)
assert_type(service.functools_like(1), str)
service.method("1")  # type: ignore[arg-type]
service.method(service, 1)  # type: ignore[call-arg, arg-type]
service.method.invalidate("1")  # type: ignore[arg-type]
Service.class_method("1")  # type: ignore[arg-type]


# --- cached_many ------------------------------------------------------------------------------------------------------


@cached_many
def users(ids: list[int]) -> dict[int, str]: ...


@cached_many(ttl=60, missing_ttl=timedelta(seconds=5), vary=tenant, max_size=10)
async def users_later(ids: Iterable[int]) -> Mapping[int, str]: ...


assert_type(users([1, 2]), dict[int, str])
assert_type(users({1}), dict[int, str])
assert_type(users.peek([1]), dict[int, str])
assert_type(users.invalidate([1]), int)
assert_type(users.cache_info(), CacheInfo)
assert_type(users_later([1]), Coroutine[Any, Any, dict[int, str]])
assert_type(users_later.refresh([1]), Coroutine[Any, Any, dict[int, str]])
assert_type(users_later.peek([1]), dict[int, str])
users.set({1: "a"})
users(["a"])  # type: ignore[list-item]
users.set({1: 1})  # type: ignore[dict-item]
cached_many(cache, max_size=1)  # type: ignore[call-overload]


class Repository:
    """Methods of many keys."""

    @cached_many(ttl=60)
    def users(self, ids: list[int]) -> dict[int, str]: ...


assert_type(Repository().users([1]), dict[int, str])
assert_type(Repository().users.invalidate([1]), int)


# --- lru_cache --------------------------------------------------------------------------------------------------------


@lru_cache
def bare(x: int) -> str: ...


@lru_cache(maxsize=None, typed=True)
def unlimited(x: int) -> str: ...


function: CachedFunction[[int], str] = bare
assert_type(bare(x=1), str)
assert_type(unlimited(1), str)
assert_type(unlimited.cache_info().hits, int)
bare("1")  # type: ignore[arg-type]
lru_cache("1")  # type: ignore[call-overload]


def takes_any_mapping(given: Mapping[str, int]) -> None: ...


takes_any_mapping(cache)


# --- the distributed tier ---------------------------------------------------------------------------------------------

tiers = DistributedCache("localhost", 6379, namespace="app", default_ttl=timedelta(minutes=1), on_unavailable="raise")
assert_type(tiers.delete("a"), bool)
assert_type(tiers.increment("a", 2), int)
assert_type(tiers.get_many(["a"]), dict[str, Any])
assert_type(tiers.ttl("a"), float | None)
assert_type("a" in tiers, bool)
assert_type(tiers.stats.local_hits, int)
assert_type(tiers.stats.breaker, str)
assert_type(BackendUnavailable("", keys=["a"]).keys, frozenset[str])
assert_type(tiers.warm(["a"], str.upper, workers=2).loaded, int)
assert_type(tiers.warm({"a": 1}, progress=True).first_error, Exception | None)
tiers.set("a", 1, ttl=timedelta(seconds=1), tags=["b"])
tiers.set(1, 1)  # type: ignore[arg-type]
tiers.set("a", 1, "b")  # type: ignore[arg-type]
assert_type(tiers.add("a", 1, 5, tags="b"), bool)
assert_type((tiers.stats.snapshot() - tiers.stats.snapshot()).misses, int)
tiers.stats.increment("misses", 2)

# --- what all caches have in common -----------------------------------------------------------------------------------


class Rows(dict[str, int]):
    def load(self, key: str) -> int: ...
    def save(self, key: str, value: int) -> None: ...
    def delete(self, key: str) -> None: ...


def common(cache: CacheLike[str, int]) -> None:
    assert_type(cache.add("a", 1, timedelta(1), tags=["t"]), bool)
    assert_type(cache.increment("a"), int)
    assert_type(cache.contains("a"), bool)
    assert_type(cache.stats.hit_rate(), float)
    cache.set(1, 1)  # type: ignore[arg-type]
    cache.set("a", "1")  # type: ignore[arg-type]


async def common_awaited(cache: AsyncCacheLike[str, int]) -> None:
    assert_type(await cache.add("a", 1), bool)
    assert_type(await cache.increment("a"), int)
    assert_type(await cache.get_many(["a"]), dict[Any, Any])


common(Cache[str, int]())
common(tiers)
common(WriteThrough(Cache(), Rows()))
common(WriteBehind(Cache(), Rows()))
common({})  # type: ignore[arg-type]
common(Cache[int, int]())  # type: ignore[arg-type]
later_tiers = AsyncDistributedCache()
common(later_tiers)  # type: ignore[arg-type]
one_of_both: list[AsyncCacheLike[str, int]] = [
    later_tiers, AsyncWriteThrough(Cache(), Rows()), AsyncWriteBehind(Cache(), Rows())
]


@cached(tiers, ttl=60)
def over_two_tiers(x: int) -> str: ...


assert_type(over_two_tiers(1), str)
assert_type(over_two_tiers.invalidate(1), bool)
over_two_tiers("1")  # type: ignore[arg-type]


@cached(tiers, name="later", version="code")
async def later_over_two_tiers(x: int) -> str: ...


async def awaited(tiers: AsyncDistributedCache) -> None:
    @cached(tiers, ttl=5)
    async def over(x: int) -> str: ...

    assert_type(await over.invalidate(1), bool)
    assert_type(later_over_two_tiers.invalidate(1), bool)
    assert_type(later_over_two_tiers.peek(1), str | Missing)

    @cached_many(tiers)
    async def many(keys: list[str]) -> dict[str, int]: ...

    assert_type(await many(["a"]), dict[str, int])
    assert_type(await many.peek(["a"]), dict[str, int])
    await many.set({"a": 1})
    assert_type(await later_over_two_tiers.refresh(1), str)
    assert_type(await over.peek(1), str | Missing)
    assert_type(await over.refresh(1), str)
    await over.set("a", 1)
    await over.set(1, 1)  # type: ignore[arg-type]
    assert_type(await over(1), str)
    await over.cache_clear()
    assert_type(await tiers.delete("a"), bool)
    assert_type((await tiers.warm(["a"], str.upper)).failed, int)
    assert_type(await tiers.get_many(["a"]), dict[str, Any])
    async with tiers as same:
        assert_type(same, AsyncDistributedCache)
