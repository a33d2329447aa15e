"""A lock for every key that somebody is writing, and none for the others.

A lock stands in the dict for as long as somebody holds it or waits for it. After a wait for one it has to be looked
whether it still stands there: if not, the key has another by now, or will get one, and that is the one to wait for.
Nothing is locked while keys are compared, which may run any code, this included.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from contextlib import suppress
from contextvars import ContextVar
from itertools import count
from threading import get_ident
from typing import Any, Protocol
from weakref import ref

from cachebox._platform.at_fork import renew_in_child
from cachebox._platform.callers import Turn


class Locks(Protocol):
    """Locks by key: `KeyLocks` and `AsyncKeyLocks`."""

    def of(self, keys: Iterable[Any]) -> Held | AsyncHeld:
        """The locks of some keys, which are all different: a context manager, to be taken inside of it."""


# --- for threads ------------------------------------------------------------------------------------------------------


class _KeyLock:
    """The lock of one key."""

    __slots__ = ("depth", "lock", "number", "owner", "stands", "waiting")

    def __init__(self, number: int) -> None:
        self.lock = Turn()              # re-entrant: a callback of the cache may write the same key
        self.number = number
        self.owner = 0                  # the thread that holds it
        self.depth = 0                  # how often it holds it
        self.waiting: list[None] = []   # one for each that waits: such a list changes in one step
        self.stands: list[None] = [None]    # whoever takes that out takes the lock out of the dict


class KeyLocks:
    """Locks by key. Several are taken in the order in which they came into being, so no wait closes a circle. Memory
    follows the writes that are under way."""

    def __init__(self) -> None:
        self._locks: dict[Any, _KeyLock] = {}
        self._numbers = count()
        renew_in_child(self)

    def of(self, keys: Iterable[Any]) -> Held:
        """The locks of some keys, which are all different."""
        return Held(self, list(keys))

    def _lock_of(self, key: Any) -> _KeyLock:
        lock = self._locks.get(key)
        return self._locks.setdefault(key, _KeyLock(next(self._numbers))) if lock is None else lock

    def _take(self, keys: list[Any], taken: list[tuple[Any, _KeyLock]]) -> bool:
        """Wait for the locks of these keys. False: one of them is no longer its key's."""
        for key, lock in sorted([(key, self._lock_of(key)) for key in keys], key=lambda pair: pair[1].number):
            lock.waiting.append(None)
            try:
                lock.lock.acquire()
            finally:
                lock.waiting.pop()
            lock.owner = get_ident()
            lock.depth += 1
            taken.append((key, lock))
            if self._locks.get(key) is not lock:
                return False
        return True

    def _give_back(self, key: Any, lock: _KeyLock) -> None:
        try:
            lock.depth -= 1
            if lock.depth == 0:
                lock.owner = 0
                if not lock.waiting:
                    with suppress(IndexError):          # taken out before: by a collection that wrote the key just now
                        lock.stands.pop()
                        self._locks.pop(key, None)
        finally:
            lock.lock.release()

    def _after_fork(self) -> None:
        """In the child of a fork: what other threads held, nobody will give back here."""
        this = get_ident()
        self._locks = {key: lock for key, lock in self._locks.items() if lock.owner == this}
        for lock in self._locks.values():
            lock.waiting.clear()


class Held:
    """The locks of some keys, for a thread: taken by `take`, and given back at the end of the ``with`` block."""

    __slots__ = ("_keys", "_locks", "_taken")

    def __init__(self, locks: KeyLocks, keys: list[Any]) -> None:
        self._locks = locks
        self._keys = keys
        self._taken: list[tuple[Any, _KeyLock]] = []

    def take(self) -> None:
        """Wait for all of them."""
        while not self._locks._take(self._keys, self._taken):
            self._give_back()

    def __enter__(self) -> Held:
        return self

    def __exit__(self, *raised: object) -> None:
        self._give_back()

    def _give_back(self) -> None:
        try:
            while self._taken:
                self._locks._give_back(*self._taken.pop())
        finally:
            if self._taken:             # comparing a key has raised something
                self._give_back()


# --- for tasks --------------------------------------------------------------------------------------------------------

_acting: ContextVar[tuple[_AsyncKeyLock, ...]] = ContextVar("cachebox_held", default=())
"""The locks that the code that runs acts under: tasks that were started under one carry it along."""


class _AsyncKeyLock:
    """The lock of one key, for the tasks of the event loop that runs."""

    __slots__ = ("lock", "loop", "users")

    def __init__(self) -> None:
        self.lock = asyncio.Lock()
        self.loop = ref(asyncio.get_running_loop())
        self.users = 0                  # those who hold it or wait for it


class AsyncKeyLocks:
    """`KeyLocks` for the tasks of one event loop at a time. They are taken in the order of their addresses.

    What is written while a lock is held, by the store or by a task of its own, needs no lock: it would wait for itself.
    """

    def __init__(self) -> None:
        self._locks: dict[Any, _AsyncKeyLock] = {}
        renew_in_child(self)

    def of(self, keys: Iterable[Any]) -> AsyncHeld:
        """The locks of some keys, which are all different."""
        return AsyncHeld(self, list(keys))

    def _lock_of(self, key: Any) -> _AsyncKeyLock:
        """The lock of a key; a new one where an event loop holds it that was left."""
        lock = self._locks.setdefault(key, _AsyncKeyLock())
        if lock.loop() is not asyncio.get_running_loop():
            lock = self._locks[key] = _AsyncKeyLock()
        return lock

    def _after_fork(self) -> None:
        """In the child of a fork, where the parent's event loop does not run."""
        self._locks = {}


class AsyncHeld:
    """`Held` for a task, with ``await take()``."""

    __slots__ = ("_before", "_keys", "_locks", "_taken", "_used")

    def __init__(self, locks: AsyncKeyLocks, keys: list[Any]) -> None:
        self._locks = locks
        self._keys = keys
        self._before = _acting.get()
        self._used: list[tuple[Any, _AsyncKeyLock]] = []
        self._taken: list[_AsyncKeyLock] = []

    async def take(self) -> None:
        """Wait for all of them."""
        for key in self._keys:
            lock = self._locks._lock_of(key)
            if lock not in self._before:
                lock.users += 1
                self._used.append((key, lock))
        for _, lock in sorted(self._used, key=lambda pair: id(pair[1])):
            await lock.lock.acquire()
            self._taken.append(lock)
        _acting.set((*self._before, *self._taken))

    def __enter__(self) -> AsyncHeld:
        return self

    def __exit__(self, *raised: object) -> None:
        _acting.set(self._before)
        try:
            while self._taken:
                self._taken.pop().lock.release()
        finally:
            while self._used:
                key, lock = self._used.pop()
                lock.users -= 1
                if lock.users == 0 and self._locks._locks.get(key) is lock:
                    del self._locks._locks[key]
