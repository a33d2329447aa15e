"""The methods of the strategies: blocking, and to await. `operations` has what they do."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from types import TracebackType
from typing import TYPE_CHECKING, Any

from cachebox.strategies.operations import Operations
from cachebox.strategies.steps import Steps, run, run_awaited

if TYPE_CHECKING:
    from typing import Self


class BlockingMethods(Operations):
    """The methods of `WriteThrough` and `WriteBehind`."""

    _is_async = False

    def _do(self, operation: Callable[..., Steps[Any]], *arguments: Any) -> Any:
        return run(operation(*arguments))

    def get(self, key: Any, default: Any = None) -> Any:
        """The newest value of a key, loaded from the store if the cache has none; `default` if there is none.

        One load per key at a time, as in `Cache.get_or_set`. Raises what the store raises, except KeyError.
        """
        return run(self._get(key, default))

    def set(self, key: Any, value: Any, ttl: Any = None, *, tags: Any = ()) -> None:
        """Write a value to the store, and set it in the cache. The arguments are those of `Cache.set`.

        Write-through: the store has the value when the cache gets it. Raises what the store raises.

        Write-behind: the write is accepted for the store, O(1). Raises RuntimeError after `close`, `QueueFull` if there
        is no room and writes do not wait, TypeError if the journal cannot hold the key or the value, and OSError if the
        journal cannot be written. Nothing has changed after an error.
        """
        run(self._set(key, value, ttl, tags))

    def delete(self, key: Any) -> bool:
        """Delete a key from the store and the cache. Returns whether one of them had it, as far as that is known.

        A KeyError of the store means that it has no such key, and is no failure. Raises TypeError if the store cannot
        delete, and what `set` raises.
        """
        return run(self._delete(key))

    def set_many(self, mapping: Any, ttl: Any = None, *, tags: Any = ()) -> None:
        """`set` for every item of a mapping, after all of them have been checked.

        Write-through: by one `save_many` of the store, if it has one; else one by one, and if one fails, those before
        it are done.
        """
        run(self._set_many(mapping, ttl, tags))

    def delete_many(self, keys: Any) -> int:
        """`delete` for every key. Returns how many the cache, or the queue, had.

        Write-through: by one `delete_many` of the store, if it has one.
        """
        return run(self._delete_many(keys))

    def get_many(self, keys: Any) -> dict[Any, Any]:
        """The values of the keys that have one, loaded from the store if the cache has none.

        Loads by one `load_many`, if the store has one.
        """
        return run(self._get_many(keys))

    def contains(self, key: Any) -> bool:
        """Whether the cache or the store has a key: ``key in strategy``. Counts nothing; may load."""
        return run(self._contains(key))

    def __contains__(self, key: Any) -> bool:
        return self.contains(key)

    def add(self, key: Any, value: Any, ttl: Any = None, *, tags: Any = ()) -> bool:
        """`set`, unless the store has the key, or the cache if the store cannot load. Returns whether it was set.

        One step, as seen by all callers that write through this object.
        """
        return run(self._add(key, value, ttl, tags))

    def increment(self, key: Any, amount: int = 1) -> int:
        """Add to the int in the store, or in the cache if the store cannot load; a missing one counts as 0. Returns the
        sum.

        One step, as seen by all callers that write through this object. The cache keeps lifetime and tags. Raises
        TypeError if the value or `amount` is no int.
        """
        return run(self._increment(key, amount))

    def get_or_set(self, key: Any, factory: Callable[[], Any], ttl: Any = None, *, tags: Any = ()) -> Any:
        """The value of a key, from the cache or the store; else the result of ``factory()``, written to both.

        One load or factory per key at a time, as in `Cache.get_or_set`. If the key is written meanwhile, that wins: the
        value is returned, and written nowhere.
        """
        return run(self._get_or_set(key, factory, ttl, tags))

    def ttl(self, key: Any) -> float | None:
        """Seconds for which the cache still keeps a value; None: no expiry. Raises KeyError if the cache has none."""
        return run(self._ttl(key))

    def touch(self, key: Any, ttl: Any = None) -> bool:
        """Give a value in the cache a new lifetime. Returns whether the cache has one."""
        return run(self._touch(key, ttl))

    def invalidate_tag(self, tag: Any) -> int:
        """Drop all entries with a tag from the cache; the store keeps them. Returns what the cache returns."""
        count: int = run(self._of_cache("invalidate_tag", tag))
        return count

    def invalidate_prefix(self, prefix: str) -> int:
        """Drop all entries whose key begins with a prefix from the cache; the store keeps them. Returns what the
        cache returns."""
        count: int = run(self._of_cache("invalidate_prefix", prefix))
        return count

    def clear(self) -> None:
        """Drop all entries from the cache; the store keeps them."""
        run(self._of_cache("clear"))

    def close(self, timeout: float | timedelta | None = None) -> bool:
        """Nothing to do: the store has everything. Returns True. The cache stays open, because its owner closes it."""
        return True

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


class AwaitedMethods(Operations):
    """`BlockingMethods`, to be awaited. The cache's methods may be plain or async."""

    _is_async = True

    async def _do(self, operation: Callable[..., Steps[Any]], *arguments: Any) -> Any:
        return await run_awaited(operation(*arguments))

    async def get(self, key: Any, default: Any = None) -> Any:
        """The newest value of a key, loaded from the store if the cache has none; `default` if there is none.

        One load per key at a time, as in `Cache.aget_or_set`.
        """
        return await run_awaited(self._get(key, default))

    async def set(self, key: Any, value: Any, ttl: Any = None, *, tags: Any = ()) -> None:
        """Write a value to the store, and set it in the cache. See `WriteThrough.set`."""
        await run_awaited(self._set(key, value, ttl, tags))

    async def delete(self, key: Any) -> bool:
        """Delete a key from the store and the cache. Returns whether one of them had it, as far as that is known."""
        return await run_awaited(self._delete(key))

    async def set_many(self, mapping: Any, ttl: Any = None, *, tags: Any = ()) -> None:
        """`set` for every item of a mapping, after all of them have been checked."""
        await run_awaited(self._set_many(mapping, ttl, tags))

    async def delete_many(self, keys: Any) -> int:
        """`delete` for every key. Returns how many the cache, or the queue, had."""
        return await run_awaited(self._delete_many(keys))

    async def get_many(self, keys: Any) -> dict[Any, Any]:
        """The values of the keys that have one, loaded from the store if the cache has none.

        Loads by one `load_many`, if the store has one.
        """
        return await run_awaited(self._get_many(keys))

    async def contains(self, key: Any) -> bool:
        """Whether the cache or the store has a key. Counts nothing; may load."""
        return await run_awaited(self._contains(key))

    def __contains__(self, key: object) -> bool:
        raise TypeError("`in` cannot wait for a store: use `await strategy.contains(key)`")

    async def add(self, key: Any, value: Any, ttl: Any = None, *, tags: Any = ()) -> bool:
        """`set`, unless the store has the key, or the cache if the store cannot load. Returns whether it was set."""
        return await run_awaited(self._add(key, value, ttl, tags))

    async def increment(self, key: Any, amount: int = 1) -> int:
        """Add to the int in the store, or in the cache if the store cannot load; a missing one counts as 0.

        Returns the sum.
        """
        return await run_awaited(self._increment(key, amount))

    async def get_or_set(self, key: Any, factory: Callable[[], Any], ttl: Any = None, *, tags: Any = ()) -> Any:
        """The value of a key, from the cache or the store; else the factory's result, awaited if need be.

        The result is written to the store and the cache. See `WriteThrough.get_or_set`.
        """
        return await run_awaited(self._get_or_set(key, factory, ttl, tags))

    async def ttl(self, key: Any) -> float | None:
        """Seconds for which the cache still keeps a value; None: no expiry. Raises KeyError if the cache has none."""
        return await run_awaited(self._ttl(key))

    async def touch(self, key: Any, ttl: Any = None) -> bool:
        """Give a value in the cache a new lifetime. Returns whether the cache has one."""
        return await run_awaited(self._touch(key, ttl))

    async def invalidate_tag(self, tag: Any) -> int:
        """Drop all entries with a tag from the cache; the store keeps them. Returns what the cache returns."""
        count: int = await run_awaited(self._of_cache("invalidate_tag", tag))
        return count

    async def invalidate_prefix(self, prefix: str) -> int:
        """Drop all entries whose key begins with a prefix from the cache; the store keeps them. Returns what the
        cache returns."""
        count: int = await run_awaited(self._of_cache("invalidate_prefix", prefix))
        return count

    async def clear(self) -> None:
        """Drop all entries from the cache; the store keeps them."""
        await run_awaited(self._of_cache("clear"))

    async def close(self, timeout: float | timedelta | None = None) -> bool:
        """Nothing to do: the store has everything. Returns True. The cache stays open, because its owner closes it."""
        return True

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()
