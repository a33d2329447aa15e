"""A cache backend for Django: `CacheBoxCache`, in the process, or in two tiers over a folder or a server.

It needs Django (``pip install "cachebox-cython[django]"``). See ``docs/adapters.md``.
"""

from __future__ import annotations

import math
import pickle
from collections.abc import Callable, Iterable, Mapping
from importlib import import_module
from typing import Any

from cachebox.cache import MISSING, Cache


class _WithoutDjango:
    """The base class if Django is not installed."""

    def __init__(self, params: Any) -> None:
        """Say what to install."""
        raise ImportError('cachebox.contrib.django needs Django: pip install "cachebox-cython[django]"')


BaseCache: Any = _WithoutDjango
DEFAULT_TIMEOUT: Any = object()
try:
    _django: Any = import_module("django.core.cache.backends.base")     # by name, because it has no types
except ImportError:
    pass
else:
    BaseCache, DEFAULT_TIMEOUT = _django.BaseCache, _django.DEFAULT_TIMEOUT

_UNCHANGING = frozenset({bool, bytes, float, int, str, type(None)})

# Django makes a backend for each thread; those with the same location and options must share their entries.
_shared: dict[tuple[str, str], Any] = {}


def _copied(value: Any) -> Any:
    """The value for a lookup: a copy made by pickle, as in Django's other backends.

    >>> rows = [1, 2]
    >>> _copied(rows) == rows, _copied(rows) is rows
    (True, False)
    """
    return value if type(value) in _UNCHANGING else pickle.loads(pickle.dumps(value, pickle.HIGHEST_PROTOCOL))


def _made(location: str, options: dict[str, Any]) -> Any:
    """A new cache for a location."""
    options["max_size"] = options.pop("MAX_ENTRIES", 1000)
    options.pop("CULL_FREQUENCY", None)
    if not location:
        return Cache(isolate=_copied, **options)
    from cachebox.distributed import DistributedCache

    if options.setdefault("serializer", "pickle") == "pickle" and options.get("secret") is None:
        options["secret"] = import_module("django.conf").settings.SECRET_KEY
    return DistributedCache(url=location, **{"namespace": "django", "isolate": True, **options})


def _cache_for(location: str, options: Mapping[str, Any]) -> Any:
    """The cache of a location and its options, created if there is none yet."""
    which = location, repr(sorted(options.items()))
    if which not in _shared:
        made = _made(location, dict(options))
        if _shared.setdefault(which, made) is not made:         # another thread was faster; without a lock nobody waits
            made.close()
    return _shared[which]


class CacheBoxCache(BaseCache):
    """A cache backend for Django: ``"BACKEND": "cachebox.contrib.django.CacheBoxCache"`` in the setting ``CACHES``.

    Args:
        location: ``LOCATION``, a str. Empty: a `Cache` in the process. ``file:///directory``, ``redis://host:6379`` or
            any other `url` of `DistributedCache`: two tiers.
        params: the other settings, a dict. ``OPTIONS["MAX_ENTRIES"]`` is the `max_size` of the first tier, by default
            1000; further options go to `Cache` or `DistributedCache` unchanged.

    Values are pickled, so each lookup returns its own copy. In two tiers they are signed as well, with
    ``OPTIONS["secret"]``, or else with ``SECRET_KEY``. Raises ImportError without Django, and what the cache raises for
    invalid options. Each operation costs what it costs in that cache. Safe from any thread.
    """

    def __init__(self, location: str | None, params: dict[str, Any]) -> None:
        super().__init__(params)
        self._cache = _cache_for(location or "", params.get("OPTIONS") or {})
        self._in_process = isinstance(self._cache, Cache)

    def _lifetime(self, timeout: Any) -> float:
        """Seconds to live: infinity: no expiry; 0 or less: do not store."""
        if timeout is DEFAULT_TIMEOUT:
            timeout = self.default_timeout
        return math.inf if timeout is None else timeout

    def get(self, key: Any, default: Any = None, version: int | None = None) -> Any:
        """The value of a key, or the default."""
        return self._cache.get(self.make_and_validate_key(key, version=version), default)

    def set(self, key: Any, value: Any, timeout: Any = DEFAULT_TIMEOUT, version: int | None = None) -> None:
        """Store a value."""
        key = self.make_and_validate_key(key, version=version)
        lifetime = self._lifetime(timeout)
        if lifetime > 0:
            self._cache.set(key, value, lifetime)
        else:
            self._cache.delete(key)

    def add(self, key: Any, value: Any, timeout: Any = DEFAULT_TIMEOUT, version: int | None = None) -> bool:
        """Store a value unless the key has one. Returns whether it had none."""
        key = self.make_and_validate_key(key, version=version)
        lifetime = self._lifetime(timeout)
        if lifetime > 0:
            return bool(self._cache.add(key, value, lifetime))
        return not self._cache.contains(key)

    def touch(self, key: Any, timeout: Any = DEFAULT_TIMEOUT, version: int | None = None) -> bool:
        """Give a key a new lifetime. Returns whether it has a value."""
        key = self.make_and_validate_key(key, version=version)
        lifetime = self._lifetime(timeout)
        return bool(self._cache.touch(key, lifetime) if lifetime > 0 else self._cache.delete(key))

    def delete(self, key: Any, version: int | None = None) -> bool:
        """Remove a key. Returns whether it had a value."""
        return bool(self._cache.delete(self.make_and_validate_key(key, version=version)))

    def has_key(self, key: Any, version: int | None = None) -> bool:
        """Whether a key has a value."""
        return bool(self._cache.contains(self.make_and_validate_key(key, version=version)))

    def incr(self, key: Any, delta: int = 1, version: int | None = None) -> Any:
        """Add to a value, as one step across all threads and processes, and return the sum; the lifetime stays.

        Raises ValueError if the key has no value. `decr` is `incr` with the sign changed.
        """

        def added(value: Any) -> Any:
            if value is MISSING:
                raise ValueError(f"Key {key!r} not found")
            return value + delta

        return self._cache.compute(self.make_and_validate_key(key, version=version), added)

    def get_many(self, keys: Iterable[Any], version: int | None = None) -> dict[Any, Any]:
        """The values of the keys that have one."""
        names = {self.make_and_validate_key(key, version=version): key for key in keys}
        return {names[name]: value for name, value in self._cache.get_many(names).items()}

    def set_many(
        self, data: Mapping[Any, Any], timeout: Any = DEFAULT_TIMEOUT, version: int | None = None
    ) -> list[Any]:
        """Store many values. Returns the keys that could not be stored: always none."""
        named = {self.make_and_validate_key(key, version=version): value for key, value in data.items()}
        lifetime = self._lifetime(timeout)
        if lifetime > 0:
            self._cache.set_many(named, lifetime)
        else:
            self._cache.delete_many(named)
        return []

    def delete_many(self, keys: Iterable[Any], version: int | None = None) -> None:
        """Remove many keys."""
        self._cache.delete_many([self.make_and_validate_key(key, version=version) for key in keys])

    def get_or_set(self, key: Any, default: Any, timeout: Any = DEFAULT_TIMEOUT, version: int | None = None) -> Any:
        """The value of a key; if it has none, the default, called if it is callable, and stored.

        Of all threads (in two tiers, of all processes) that miss the key at the same time, one calls it.
        """
        factory: Callable[[], Any] = default if callable(default) else lambda: default
        name = self.make_and_validate_key(key, version=version)
        lifetime = self._lifetime(timeout)
        if lifetime > 0:
            return self._cache.get_or_set(name, factory, lifetime)
        found = self._cache.get(name, MISSING)
        return factory() if found is MISSING else found

    def clear(self) -> None:
        """Remove everything: all of the cache in the process, or of the namespace for all processes."""
        self._cache.clear()

    # A cache in the process never waits, so its methods run in the event loop; others run in a thread, like
    # BaseCache's.

    async def _asynchronously(self, method: Callable[..., Any], *arguments: Any) -> Any:
        if self._in_process:
            return method(*arguments)
        return await import_module("asgiref.sync").sync_to_async(method, thread_sensitive=True)(*arguments)

    async def aget(self, key: Any, default: Any = None, version: int | None = None) -> Any:
        """`get`, for coroutines."""
        return await self._asynchronously(self.get, key, default, version)

    async def aset(self, key: Any, value: Any, timeout: Any = DEFAULT_TIMEOUT, version: int | None = None) -> None:
        """`set`, for coroutines."""
        await self._asynchronously(self.set, key, value, timeout, version)

    async def aadd(self, key: Any, value: Any, timeout: Any = DEFAULT_TIMEOUT, version: int | None = None) -> bool:
        """`add`, for coroutines."""
        return bool(await self._asynchronously(self.add, key, value, timeout, version))

    async def atouch(self, key: Any, timeout: Any = DEFAULT_TIMEOUT, version: int | None = None) -> bool:
        """`touch`, for coroutines."""
        return bool(await self._asynchronously(self.touch, key, timeout, version))

    async def adelete(self, key: Any, version: int | None = None) -> bool:
        """`delete`, for coroutines."""
        return bool(await self._asynchronously(self.delete, key, version))

    async def ahas_key(self, key: Any, version: int | None = None) -> bool:
        """`has_key`, for coroutines."""
        return bool(await self._asynchronously(self.has_key, key, version))

    async def aincr(self, key: Any, delta: int = 1, version: int | None = None) -> Any:
        """`incr`, for coroutines: one step, too. `adecr` is `aincr` with the sign changed."""
        return await self._asynchronously(self.incr, key, delta, version)

    async def adecr(self, key: Any, delta: int = 1, version: int | None = None) -> Any:
        """`decr`, for coroutines."""
        return await self.aincr(key, -delta, version)

    async def aget_many(self, keys: Iterable[Any], version: int | None = None) -> dict[Any, Any]:
        """`get_many`, for coroutines."""
        found: dict[Any, Any] = await self._asynchronously(self.get_many, keys, version)
        return found

    async def aset_many(
        self, data: Mapping[Any, Any], timeout: Any = DEFAULT_TIMEOUT, version: int | None = None
    ) -> list[Any]:
        """`set_many`, for coroutines."""
        await self._asynchronously(self.set_many, data, timeout, version)
        return []

    async def adelete_many(self, keys: Iterable[Any], version: int | None = None) -> None:
        """`delete_many`, for coroutines."""
        await self._asynchronously(self.delete_many, keys, version)

    async def aclear(self) -> None:
        """`clear`, for coroutines."""
        await self._asynchronously(self.clear)
