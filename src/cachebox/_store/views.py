"""`keys()`, `values()` and `items()` of a cache.

Each iteration runs over a snapshot, next victim first. Nothing here counts as a use.
"""

from __future__ import annotations

from collections.abc import ItemsView, KeysView, ValuesView

TYPE_CHECKING = False               # typing's own is slow to import
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from cachebox.cache import Cache


class CacheKeys(KeysView[object]):
    """`Cache.keys()`."""

    __slots__ = ()


class CacheValues(ValuesView[object]):
    """`Cache.values()`."""

    __slots__ = ()
    _mapping: Cache[Any, Any]

    def __iter__(self) -> Iterator[object]:
        return iter(self._mapping._snapshot(False, True))

    def __contains__(self, value: object) -> bool:
        return any(found is value or found == value for found in self)


class CacheItems(ItemsView[object, object]):
    """`Cache.items()`."""

    __slots__ = ()
    _mapping: Cache[Any, Any]

    def __iter__(self) -> Iterator[tuple[object, object]]:
        return iter(self._mapping._snapshot(True, True))

    def __contains__(self, item: Any) -> bool:
        if not isinstance(item, tuple) or len(item) != 2:
            return False
        key, value = item
        absent = object()
        found = self._mapping.peek(key, absent)
        return found is not absent and (found is value or found == value)
