"""What pyright sees of cached functions. Checked by it (`tests/project/test_typing.py`), never run.

Each ``pyright: ignore`` asserts that the line is refused, and why: one that is not needed is an error.
"""

from __future__ import annotations

from contextvars import ContextVar
from typing import Self, TypeVar, assert_type

from cachebox import AsyncDistributedCache, Cache, DistributedCache, cached, cached_many, disabled, keys, lru_cache
from cachebox.cache import Missing

T = TypeVar("T")
tenant = ContextVar[str]("tenant")


@cached
def plain(x: int, *, y: str = "") -> str: ...


@cached(Cache(), name="other", version=2)
def shared(x: int) -> int: ...


@cached(clock=lambda: 0.0)
async def later(x: int) -> str: ...


@cached(ignore=("session",), normalize=True, vary=(tenant, lambda: 1))
def chosen(x: int, session: object = None) -> str: ...


@cached(key_func=keys.combine("chosen", keys.array, path=keys.file))
def by_file(x: object, path: str) -> str: ...


assert_type(chosen(1, session=2), str)
assert_type(plain(1, y=""), str)
assert_type(plain.invalidate(1), bool)
assert_type(shared(1), int)
plain("1")  # pyright: ignore[reportArgumentType]
plain.invalidate("1")  # pyright: ignore[reportArgumentType]
cached(Cache(), clock=lambda: 0.0)  # pyright: ignore[reportCallIssue, reportArgumentType]
cached(maxsize=1)  # pyright: ignore[reportCallIssue]


class Node:
    """Methods of every kind."""

    @cached
    def fluent(self) -> Self:
        return self

    @lru_cache
    def fluent_as_functools(self) -> Self:
        return self

    @cached(ttl=5)
    async def fluent_later(self) -> Self:
        return self

    @classmethod
    @cached
    def make(cls, x: int) -> Self:
        return cls()

    @cached
    @classmethod
    def make_too(cls, x: int) -> Self:
        return cls()

    @cached
    def generic(self, x: T) -> T:
        return x

    @cached
    def old(self: T) -> T:
        return self

    @staticmethod
    @cached
    def static(x: int) -> str: ...

    @property
    @cached
    def value(self) -> int:
        return 1


class Derived(Node):
    """Inherits them."""


async def use(node: Derived) -> None:
    assert_type(node.fluent(), Derived)
    assert_type(node.fluent_as_functools(), Derived)
    assert_type(await node.fluent_later(), Derived)
    assert_type(Derived.make(1), Derived)
    assert_type(node.make(1), Derived)
    assert_type(node.generic("a"), str)
    assert_type(node.old(), Derived)
    assert_type(node.static(1), str)
    assert_type(Node.static(1), str)
    assert_type(node.value, int)
    assert_type(await later(1), str)
    assert_type(node.generic.invalidate(1), bool)
    assert_type(plain.peek(1, y=""), str | Missing)
    assert_type(plain.refresh(1), str)
    assert_type(later.peek(1), str | Missing)
    assert_type(await later.refresh(1), str)
    plain.set("a", 1)
    later.set("a", 1)
    later.set(1, 1)  # pyright: ignore[reportCallIssue, reportArgumentType]
    plain.peek("1")  # pyright: ignore[reportArgumentType]
    assert_type(node.fluent_later.peek(), Derived | Missing)
    with disabled():
        pass
    node.fluent(1)  # pyright: ignore[reportCallIssue]


@cached_many(ttl=5, missing_ttl=1)
def users(ids: list[int]) -> dict[int, str]: ...


@cached_many
async def users_later(ids: list[int]) -> dict[int, str]: ...


class Repository:
    @cached_many
    def users(self, ids: list[int]) -> dict[int, str]: ...


async def use_many(repository: Repository) -> None:
    assert_type(users([1]), dict[int, str])
    assert_type(await users_later([1]), dict[int, str])
    assert_type(users_later.peek([1]), dict[int, str])
    assert_type(repository.users([1]), dict[int, str])
    assert_type(repository.users.invalidate([1]), int)
    users(["a"])  # pyright: ignore[reportArgumentType]


# --- over two tiers ---------------------------------------------------------------------------------------------------

blocking = DistributedCache()
awaited = AsyncDistributedCache()


@cached(blocking, ttl=5)
def over_blocking(x: int) -> str: ...


@cached(blocking)
async def later_over_blocking(x: int) -> str: ...


@cached(awaited, ttl=5, name="prices", tags="prices")
async def over_awaited(x: int) -> str: ...


@cached_many(awaited)
async def many_over_awaited(keys: list[str]) -> dict[str, int]: ...


class Service:
    @cached(awaited, key_func=lambda self, x: str(x))
    async def method(self, x: int) -> str: ...


async def forget(service: Service) -> None:
    assert_type(over_blocking.invalidate(1), bool)
    assert_type(later_over_blocking.invalidate(1), bool)
    assert_type(over_blocking.peek(1), str | Missing)
    assert_type(later_over_blocking.peek(1), str | Missing)
    assert_type(await over_awaited.peek(1), str | Missing)
    assert_type(over_blocking.refresh(1), str)
    assert_type(await later_over_blocking.refresh(1), str)
    assert_type(await over_awaited.refresh(1), str)
    later_over_blocking.set("a", 1)
    assert_type(await many_over_awaited(["a"]), dict[str, int])
    assert_type(await many_over_awaited.peek(["a"]), dict[str, int])
    await over_awaited.set("a", 1)
    await over_awaited.set(b"", 1)  # pyright: ignore[reportArgumentType]
    over_awaited.peek(1)  # pyright: ignore[reportUnusedCoroutine]
    assert_type(await service.method.peek(1), str | Missing)
    assert_type(await service.method.refresh(1), str)
    assert_type(await over_awaited.invalidate(1), bool)
    assert_type(await over_awaited(1), str)
    assert_type(await service.method(1), str)
    assert_type(await service.method.invalidate(1), bool)
    await over_awaited.cache_clear(timeout=1)
    over_awaited.invalidate(1)  # pyright: ignore[reportUnusedCoroutine]
    over_awaited.cache_clear()  # pyright: ignore[reportUnusedCoroutine]
    await over_awaited.invalidate("1")  # pyright: ignore[reportArgumentType]
