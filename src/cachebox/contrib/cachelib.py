"""A cache for cachelib, and so for Flask-Caching and Flask-Session: `CacheBoxCache`."""

from __future__ import annotations

import math
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from cachebox.cache import Cache

if TYPE_CHECKING:
    from collections.abc import Mapping

    _BaseCache: Any         # installed or not
else:
    try:
        from cachelib import BaseCache as _BaseCache
    except ImportError:
        _BaseCache = object

__all__ = ["CacheBoxCache"]


class CacheBoxCache(_BaseCache):  # type: ignore[misc]      # of a library that may be missing
    """A cache of cachelib: in the process, in a folder that processes share, or on a server.

    Args:
        location: ``""``: in the process; ``"file:///directory"``: in a folder; ``"redis://host:port/db"``, or another
            URL that `DistributedCache` takes: on a server.
        default_timeout: how long an entry lives unless `set` says otherwise, whole seconds or a `timedelta`; 0: no
            expiry.
        threshold: the most entries that the process holds, an int from 1 on; None: no bound.
        ignore_delete_many_errors: whether `delete_many` returns if it could not reach the server; False: it raises
            RuntimeError.
        options: further arguments of `Cache`, or of `DistributedCache` with a `location`: `serializer` and `secret`,
            `namespace`, `size_limit`, and so on.

    Raises ImportError without cachelib; TypeError or ValueError for invalid arguments.

    In the process, lookups return copies of the stored values, like cachelib's own caches. With a `location`, values
    must come back equal from the serializer (JSON, unless `options` name another one); others raise TypeError. If the
    server is not reached, lookups miss, and writes return False or None. Safe from any thread.

    >>> cache = CacheBoxCache(threshold=100)                    # doctest: +SKIP
    >>> cache.set("a", [1], timeout=60), cache.get("a")         # doctest: +SKIP
    (True, [1])
    """

    def __init__(
        self,
        location: str = "",
        default_timeout: int | timedelta = 300,
        threshold: int | None = 500,
        ignore_delete_many_errors: bool = True,
        **options: Any,
    ) -> None:
        if _BaseCache is object:
            raise ImportError("CacheBoxCache needs cachelib: pip install cachelib")
        if not isinstance(location, str):
            raise TypeError(f"location must be a str, not {type(location).__name__}")
        if isinstance(default_timeout, timedelta):      # allowed by cachelib from 0.17 on
            default_timeout = math.ceil(default_timeout.total_seconds())
        super().__init__(default_timeout)
        self.ignore_delete_many_errors = ignore_delete_many_errors
        lifetime = self.default_timeout or None
        self._cache: Any
        self._unreached: tuple[type[Exception], ...] = ()
        if location:
            from cachebox.distributed import BackendUnavailable, DistributedCache

            self._cache = DistributedCache(url=location, max_size=threshold, default_ttl=lifetime, **options)
            self._unreached = (BackendUnavailable,)
        else:
            self._cache = Cache(threshold, lifetime, **{"isolate": True, **options})

    def _lifetime(self, timeout: int | timedelta | None) -> float:
        """Seconds, from cachelib's timeout. Infinity: no expiry; negative: expired already."""
        if isinstance(timeout, timedelta):
            timeout = math.ceil(timeout.total_seconds())
        return self._normalize_timeout(timeout) or math.inf

    def get(self, key: str) -> Any:
        """The value of `key`; None if there is none, or the server was not reached."""
        try:
            return self._cache.get(key)
        except self._unreached:
            return None

    def get_many(self, *keys: str) -> list[Any]:
        """The values of the keys in their order, None for those without. One round trip."""
        try:
            found = self._cache.get_many(keys)
        except self._unreached:
            found = {}
        return [found.get(key) for key in keys]

    def get_dict(self, *keys: str) -> dict[str, Any]:
        """The values by key, None for those without. One round trip."""
        return dict(zip(keys, self.get_many(*keys), strict=True))

    def set(self, key: str, value: Any, timeout: int | timedelta | None = None) -> bool:
        """Store a value. Returns False if the server was not reached.

        `timeout` is in whole seconds or a `timedelta`: 0: no expiry; None: the default; negative: expired already.
        """
        return bool(self.set_many({key: value}, timeout))

    def add(self, key: str, value: Any, timeout: int | timedelta | None = None) -> bool:
        """Store a value unless the key has one, as one step. Returns whether it was stored. See `set`."""
        seconds = self._lifetime(timeout)
        try:
            if seconds < 0:
                return not self._cache.contains(key)
            return bool(self._cache.add(key, value, seconds))
        except self._unreached:
            return False

    def set_many(self, mapping: Mapping[str, Any], timeout: int | timedelta | None = None) -> list[str]:
        """Store many values. Returns the keys that were stored: all, or none if the server was not reached."""
        seconds = self._lifetime(timeout)
        try:
            if seconds < 0:
                self._cache.delete_many(mapping)
            else:
                self._cache.set_many(mapping, seconds)
        except self._unreached:
            return []
        return list(mapping)

    def delete(self, key: str) -> bool:
        """Remove a key. Returns whether it was there."""
        try:
            return bool(self._cache.delete(key))
        except self._unreached:
            return False

    def delete_many(self, *keys: str) -> list[str]:
        """Remove many keys. Returns those that are gone: all, or none if the server was not reached."""
        try:
            self._cache.delete_many(keys)
        except self._unreached as error:
            if not self.ignore_delete_many_errors:
                raise RuntimeError(f"the keys could not be deleted: {list(keys)}") from error
            return []
        return list(keys)

    def has(self, key: str) -> bool:
        """Whether the key has a value. Counts neither as a hit nor as a use."""
        try:
            return bool(self._cache.contains(key))
        except self._unreached:
            return False

    def clear(self) -> bool:
        """Remove all entries. Returns False if the server was not reached."""
        try:
            self._cache.clear()
        except self._unreached:
            return False
        return True

    def inc(self, key: str, delta: int = 1) -> int | None:
        """Add to the int under `key`, as one step, and return the sum. None if the server was not reached.

        A missing key starts at 0 and lives for the default timeout; an existing entry keeps its lifetime. Raises
        TypeError if the value is not an int.
        """
        try:
            return int(self._cache.increment(key, delta))
        except self._unreached:
            return None

    def dec(self, key: str, delta: int = 1) -> int | None:
        """Subtract from the int under `key`. See `inc`."""
        return self.inc(key, -delta)

    def close(self) -> None:
        """Stop using the folder or the server. The cache must not be used any more."""
        self._cache.close()
