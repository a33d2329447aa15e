"""Asynchronous stores for other libraries over a cache in two tiers: `LitestarStore`, `KeyValueStore`.

They have the methods that those libraries expect, and import neither library. The cache's owner closes it. See
``docs/adapters.md``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta
from math import inf
from typing import Any, SupportsFloat

from cachebox.distributed import AsyncDistributedCache


class LitestarStore:
    """A store for Litestar: ``Litestar(stores={"sessions": LitestarStore(cache)})``.

    Args:
        cache: the cache for the values; `delete_all` empties its namespace.
    """

    def __init__(self, cache: AsyncDistributedCache) -> None:
        self.cache = cache

    async def set(self, key: str, value: str | bytes, expires_in: int | timedelta | None = None) -> None:
        data = value.encode() if isinstance(value, str) else value
        await self.cache.set(key, data, inf if expires_in is None else expires_in)

    async def get(self, key: str, renew_for: int | timedelta | None = None) -> bytes | None:
        found: bytes | None = await self.cache.get(key)
        if found is not None and renew_for is not None and await self._ttl(key) is not None:
            await self.cache.touch(key, renew_for)
        return found

    async def delete(self, key: str) -> None:
        await self.cache.delete(key)

    async def delete_all(self) -> None:
        await self.cache.clear()

    async def exists(self, key: str) -> bool:
        return await self.cache.contains(key)

    async def expires_in(self, key: str) -> int | None:
        left = await self._ttl(key)
        return None if left is None else int(left)

    async def _ttl(self, key: str) -> float | None:
        try:
            return await self.cache.ttl(key)
        except KeyError:
            return None

    async def __aenter__(self) -> None:
        pass

    async def __aexit__(self, *exception: object) -> None:
        pass


class KeyValueStore:
    """A store for py-key-value, by its protocol `AsyncKeyValue`. Collections are parts of the keys.

    Args:
        cache: the cache for the values: dicts that its serializer can restore.
    """

    def __init__(self, cache: AsyncDistributedCache) -> None:
        self.cache = cache

    async def get(self, key: str, *, collection: str | None = None) -> dict[str, Any] | None:
        return (await self.get_many([key], collection=collection))[0]

    async def ttl(self, key: str, *, collection: str | None = None) -> tuple[dict[str, Any] | None, float | None]:
        return (await self.ttl_many([key], collection=collection))[0]

    async def put(
        self, key: str, value: Mapping[str, Any], *, collection: str | None = None, ttl: SupportsFloat | None = None
    ) -> None:
        await self.put_many([key], [value], collection=collection, ttl=ttl)

    async def delete(self, key: str, *, collection: str | None = None) -> bool:
        return await self.delete_many([key], collection=collection) > 0

    async def get_many(self, keys: Sequence[str], *, collection: str | None = None) -> list[dict[str, Any] | None]:
        found = await self.cache.get_many([_name(key, collection) for key in keys])
        return [found.get(_name(key, collection)) for key in keys]

    async def ttl_many(
        self, keys: Sequence[str], *, collection: str | None = None
    ) -> list[tuple[dict[str, Any] | None, float | None]]:
        lifetimes: list[float | None] = []
        for key in keys:
            try:
                lifetimes.append(await self.cache.ttl(_name(key, collection)))
            except KeyError:
                lifetimes.append(None)
        return list(zip(await self.get_many(keys, collection=collection), lifetimes, strict=True))

    async def put_many(
        self,
        keys: Sequence[str],
        values: Sequence[Mapping[str, Any]],
        *,
        collection: str | None = None,
        ttl: SupportsFloat | None = None,
    ) -> None:
        items = {_name(key, collection): dict(value) for key, value in zip(keys, values, strict=True)}
        await self.cache.set_many(items, inf if ttl is None else float(ttl))

    async def delete_many(self, keys: Sequence[str], *, collection: str | None = None) -> int:
        return await self.cache.delete_many([_name(key, collection) for key in keys])


def _name(key: str, collection: str | None) -> str:
    """The key in the cache, unique for each pair.

    >>> _name("a", None), _name("a", "x"), _name("b:a", "x"), _name("a", "x:b")
    ('0::a', '1:x:a', '1:x:b:a', '3:x:b:a')
    """
    part = collection or ""
    return f"{len(part)}:{part}:{key}"
