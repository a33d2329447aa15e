"""A lock for every key that is being written, and none for other keys.

A lock stays in the dict while it is held or waited for. After a wait, the caller checks that the lock is still in the
dict. If not, the key has another lock by now, or will get one, and the caller waits for that. Nothing is locked while
keys are compared, because comparing may run any code, including this. `thread_locks` has the locks of threads.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from contextvars import ContextVar
from typing import Any, Protocol
from weakref import ref

from cachebox._platform.at_fork import renew_in_child
from cachebox.strategies.thread_locks import Held, KeyLocks

__all__ = ["AsyncHeld", "AsyncKeyLocks", "Held", "KeyLocks", "Locks"]


class Locks(Protocol):
    """Locks by key: `KeyLocks` and `AsyncKeyLocks`."""

    def of(self, keys: Iterable[Any]) -> Held | AsyncHeld:
        """The locks of some different keys: a context manager; the locks are taken inside of it."""


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
