"""A lock for every key that is being written, and none for other keys.

A lock stays in the dict while it is held or waited for. After a wait, the caller checks that the lock is still in the
dict. If not, the key has another lock by now, or will get one, and the caller waits for that. Nothing is locked while
keys are compared, because comparing may run any code, including this.
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
        """The locks of some different keys: a context manager; the locks are taken inside of it."""


# --- for threads ------------------------------------------------------------------------------------------------------


class _KeyLock:
    """The lock of one key."""

    __slots__ = ("depth", "lock", "number", "owner", "stands", "waiting")

    def __init__(self, number: int) -> None:
        self.lock = Turn()              # re-entrant, because a callback of the cache may write the same key
        self.number = number
        self.owner = 0                  # the thread that holds it
        self.depth = 0                  # how often that thread holds it
        self.waiting: list[None] = []   # one item per waiter, because a list changes in one step
        self.stands: list[None] = [None]    # the caller that pops the item removes the lock from the dict


class KeyLocks:
    """Locks by key. Memory is bounded by the writes under way.

    Several locks are taken in the order of their creation, so no wait closes a cycle.
    """

    def __init__(self) -> None:
        self._locks: dict[Any, _KeyLock] = {}
        self._numbers = count()
        renew_in_child(self)

    def of(self, keys: Iterable[Any]) -> Held:
        """The locks of some different keys."""
        return Held(self, list(keys))

    def _lock_of(self, key: Any) -> _KeyLock:
        lock = self._locks.get(key)
        return self._locks.setdefault(key, _KeyLock(next(self._numbers))) if lock is None else lock

    def _take(self, keys: list[Any], taken: list[tuple[Any, _KeyLock]]) -> bool:
        """Wait for the locks of these keys. Returns False if one of them is no longer its key's."""
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
                    with suppress(IndexError):          # a finalizer that wrote the key has popped it
                        lock.stands.pop()
                        self._locks.pop(key, None)
        finally:
            lock.lock.release()

    def _after_fork(self) -> None:
        """After a fork, in the child: drop the locks of the parent's other threads, which nobody would release."""
        this = get_ident()
        self._locks = {key: lock for key, lock in self._locks.items() if lock.owner == this}
        for lock in self._locks.values():
            lock.waiting.clear()


class Held:
    """The locks of some keys, for a thread: taken by `take`, and released at the end of the ``with`` block."""

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
            if self._taken:             # comparing a key has raised
                self._give_back()


# --- for tasks --------------------------------------------------------------------------------------------------------

_acting: ContextVar[tuple[_AsyncKeyLock, ...]] = ContextVar("cachebox_held", default=())
"""The locks that the running code holds, or inherited from the task that started it."""


class _AsyncKeyLock:
    """The lock of one key, for the tasks of the running event loop."""

    __slots__ = ("lock", "loop", "users")

    def __init__(self) -> None:
        self.lock = asyncio.Lock()
        self.loop = ref(asyncio.get_running_loop())
        self.users = 0                  # tasks that hold it or wait for it


class AsyncKeyLocks:
    """`KeyLocks` for the tasks of one event loop at a time. Several are taken in the order of their addresses.

    A write by the store, or by a task that it started, takes no lock that its caller holds: it would wait for itself.
    """

    def __init__(self) -> None:
        self._locks: dict[Any, _AsyncKeyLock] = {}
        renew_in_child(self)

    def of(self, keys: Iterable[Any]) -> AsyncHeld:
        """The locks of some different keys."""
        return AsyncHeld(self, list(keys))

    def _lock_of(self, key: Any) -> _AsyncKeyLock:
        """The lock of a key; a new one if the old one belongs to an event loop that was left."""
        lock = self._locks.setdefault(key, _AsyncKeyLock())
        if lock.loop() is not asyncio.get_running_loop():
            lock = self._locks[key] = _AsyncKeyLock()
        return lock

    def _after_fork(self) -> None:
        """After a fork, in the child: the parent's event loop does not run here."""
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
