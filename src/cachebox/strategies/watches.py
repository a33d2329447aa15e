"""Watches: they detect a write of a key between reading it and writing it, or filling a cache."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from cachebox._platform.at_fork import renew_in_child
from cachebox._platform.section import Section


class Watch:
    """Whether a key was written since the watch began."""

    __slots__ = ("was_written",)

    def __init__(self) -> None:
        self.was_written = False


class Watches:
    """The watches of keys. Safe from any thread.

    A writer calls `note` when readers see its write, and before it changes the cache. So a reader whose watch began
    after that has read the new value, and one whose watch began before learns of it. Called earlier, `note` would miss
    a reader that begins in between and reads the old value.
    """

    def __init__(self) -> None:
        self.watched: dict[Any, list[Watch]] = {}       # by key
        # re-entrant, because comparing keys or a collection may run code that writes
        self._lock = Section()
        renew_in_child(self)

    @contextmanager
    def over(self, keys: Iterable[Any]) -> Iterator[Watch]:
        """Watch keys, all of them by one watch."""
        keys = list(keys)
        watch = Watch()
        try:
            with self._lock:
                for key in keys:
                    self.watched.setdefault(key, []).append(watch)
            yield watch
        finally:
            with self._lock:
                for key in keys:
                    watching = self.watched.get(key, [])
                    if watch in watching:
                        watching.remove(watch)
                    if not watching:
                        self.watched.pop(key, None)

    def note(self, keys: Iterable[Any]) -> None:
        """Mark the watches of keys that were written, the writer's own, too. O(1) per key."""
        if self.watched:
            with self._lock:
                for key in keys:
                    for watch in self.watched.get(key, ()):
                        watch.was_written = True

    def _after_fork(self) -> None:
        """After a fork, in the child: another thread of the parent may have held the lock."""
        self._lock = Section()
