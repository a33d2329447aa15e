"""The methods of a store, and how strategies call it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from inspect import iscoroutinefunction
from typing import Any

_METHODS = ("load", "load_many", "save", "save_many", "delete", "delete_many")


class Store:
    """A store for strategies: all six methods, built from those that the given store has.

    Args:
        given: the user's store.
        may_be_async: whether its methods may be coroutine functions.

    Raises TypeError if it lacks `save`, or its methods are of the wrong kind.
    """

    def __init__(self, given: Any, may_be_async: bool) -> None:
        methods: dict[str, Any] = {name: getattr(given, name, None) for name in _METHODS}
        for name, method in methods.items():
            if method is not None and not callable(method):
                raise TypeError(f"store.{name} must be callable, not {type(method).__name__}")
        if methods["save"] is None:
            raise TypeError(f"store must have a method save(key, value) to be written to, which {given!r} has not")
        is_async = [iscoroutinefunction(method) for method in methods.values() if method is not None]
        if not may_be_async and any(is_async):
            raise TypeError("store has coroutine functions for methods: use the strategy whose name begins with Async")
        self.given = given
        self.load = methods["load"]
        self.load_many = methods["load_many"]
        self.save = methods["save"]
        self.save_many = methods["save_many"]
        self._delete = methods["delete"]
        self._delete_many = methods["delete_many"]

    @property
    def delete(self) -> Any:
        """The store's method for deleting one key. Raises TypeError if it has none."""
        if self._delete is not None:
            return self._delete
        if self._delete_many is not None:
            return lambda key: self._delete_many([key])
        raise TypeError(f"store must have a method delete(key) to delete from it, which {self.given!r} has not")

    @property
    def delete_many(self) -> Any:
        """The store's method for deleting many keys at once, or None."""
        return self._delete_many


def checked_items(cache: Any, mapping: Any, ttl: Any, tags: Any) -> dict[Any, Any]:
    """The items for `set_many`, checked as `cache.set` would."""
    if not isinstance(mapping, Mapping) and not hasattr(mapping, "items"):
        raise TypeError(f"mapping must be a mapping, not {type(mapping).__name__}")
    items = dict(mapping.items())
    for key, value in items.items():
        check_entry(cache, key, value, ttl, tags)
    if not items:
        check_lifetime(cache, ttl)
    return items


def checked_keys(cache: Any, keys: Any) -> list[Any]:
    """The keys for a method of many, checked and without repetitions."""
    if not isinstance(keys, Iterable):
        raise TypeError(f"keys must be an iterable of keys, not {type(keys).__name__}")
    return list(dict.fromkeys([check_key(cache, key) for key in keys]))


def check_cache(cache: Any, is_awaited: bool) -> Any:
    """Raise TypeError unless it has the methods of a cache. `is_awaited`: it must be able to wait for coroutines."""
    for name in ("get", "set", "delete", "get_or_set"):
        if not callable(getattr(cache, name, None)):
            raise TypeError(f"cache must have the methods of a Cache, but {type(cache).__name__} has no {name}")
    if is_awaited and not (hasattr(cache, "aget_or_set") or iscoroutinefunction(cache.get_or_set)):
        raise TypeError(
            f"cache must be a Cache, or have methods to await, as AsyncDistributedCache has: {type(cache).__name__} "
            "would wait in the event loop"
        )
    return cache


def check_entry(cache: Any, key: Any, value: Any, ttl: Any, tags: Any) -> None:
    """Raise what `cache.set` would raise for these arguments, before anything is changed."""
    check = getattr(cache, "_check_entry", None)
    if check is not None:
        check(key, value, ttl, tags)
    else:
        hash(key)


def check_lifetime(cache: Any, ttl: Any) -> None:
    """Raise what `cache.set` would raise for this lifetime."""
    check = getattr(cache, "_check_ttl", None)
    if check is not None:
        check(ttl)


def check_key(cache: Any, key: Any) -> Any:
    """Raise what `cache.delete` would raise for this key, before anything is changed."""
    check = getattr(cache, "_check_key", None)
    if check is not None:
        check(key)
    else:
        hash(key)
    return key


def with_tags(tags: Any) -> dict[str, Any]:
    """Tags as a keyword argument, if there are any, because not every cache takes tags."""
    return {"tags": tags} if tags else {}


def contained(cache: Any, key: Any) -> Any:
    """Whether a cache has a key, or an awaitable for that."""
    contains = getattr(cache, "contains", None)
    return key in cache if contains is None else contains(key)
