"""A lock for every key that somebody is writing, and none for the others.

A turn stands in the dict for as long as somebody has it or waits for it. Whoever has waited for one has to look whether
it still stands there: if not, the key has another by now, or will get one, and that is the one to wait for. Nothing is
locked while keys are compared, which may run any code, this included.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, contextmanager, suppress
from contextvars import ContextVar
from itertools import count
from threading import get_ident
from typing import Any
from weakref import ref

from cachebox._platform.at_fork import renew_in_child
from cachebox._platform.callers import Turn


class _Turn:
    """The lock of one key."""

    __slots__ = ("depth", "lock", "number", "owner", "stands", "waiting")

    def __init__(self, number: int) -> None:
        self.lock = Turn()              # re-entrant: a callback of the cache may write the same key
        self.number = number
        self.owner = 0                  # the thread that has it
        self.depth = 0                  # how often it has it
        self.waiting: list[None] = []   # one for each that waits: such a list changes in one step
        self.stands: list[None] = [None]    # whoever takes that out takes the turn out of the dict


class KeyLocks:
    """Locks by key. Whoever takes several takes them in the order in which they came into being, so nobody waits in a
    circle. Memory follows the writes that are under way."""

    def __init__(self) -> None:
        self._turns: dict[Any, _Turn] = {}
        self._numbers = count()
        renew_in_child(self)

    @contextmanager
    def hold(self, keys: Iterable[Any]) -> Iterator[None]:
        """Hold the locks of some keys, which are all different."""
        keys = list(keys)
        with ExitStack() as held:
            while not self._take(keys, held):
                held.close()
            yield

    def _take(self, keys: list[Any], held: ExitStack) -> bool:
        """Wait for the turns of these keys. False: one of them is no longer its key's."""
        for key, turn in sorted([(key, self._turn_of(key)) for key in keys], key=lambda pair: pair[1].number):
            turn.waiting.append(None)
            try:
                turn.lock.acquire()
            finally:
                turn.waiting.pop()
            turn.owner = get_ident()
            turn.depth += 1
            held.callback(self._give_back, key, turn)
            if self._turns.get(key) is not turn:
                return False
        return True

    def _turn_of(self, key: Any) -> _Turn:
        turn = self._turns.get(key)
        return self._turns.setdefault(key, _Turn(next(self._numbers))) if turn is None else turn

    def _give_back(self, key: Any, turn: _Turn) -> None:
        try:
            turn.depth -= 1
            if turn.depth == 0:
                turn.owner = 0
                if not turn.waiting:
                    with suppress(IndexError):          # taken out before: by a collection that wrote the key just now
                        turn.stands.pop()
                        self._turns.pop(key, None)
        finally:
            turn.lock.release()

    def _after_fork(self) -> None:
        """In the child of a fork: what other threads held, nobody will give back here."""
        this = get_ident()
        self._turns = {key: turn for key, turn in self._turns.items() if turn.owner == this}
        for turn in self._turns.values():
            turn.waiting.clear()


held: ContextVar[tuple[_AsyncTurn, ...]] = ContextVar("cachebox_held", default=())
"""The turns that the code that runs acts under: tasks that were started under one carry it along."""


class _AsyncTurn:
    """The lock of one key, for the tasks of the event loop that runs."""

    __slots__ = ("lock", "loop", "users")

    def __init__(self) -> None:
        self.lock = asyncio.Lock()
        self.loop = ref(asyncio.get_running_loop())
        self.users = 0                  # those who have it or wait for it


class AsyncKeyLocks:
    """`KeyLocks` for the tasks of one event loop at a time. They are taken in the order of their addresses.

    What is written while a turn is held, by the store or by a task of its own, needs no turn: it would wait for itself.
    """

    def __init__(self) -> None:
        self._turns: dict[Any, _AsyncTurn] = {}
        renew_in_child(self)

    @asynccontextmanager
    async def hold(self, keys: Iterable[Any]) -> AsyncIterator[None]:
        """Hold the locks of some keys, which are all different."""
        turns: list[tuple[Any, _AsyncTurn]] = []
        mine = held.get()
        try:
            for key in keys:
                turn = self._turn_of(key)
                if turn not in mine:
                    turn.users += 1
                    turns.append((key, turn))
            async with AsyncExitStack() as taken:
                for _, turn in sorted(turns, key=lambda pair: id(pair[1])):
                    await taken.enter_async_context(turn.lock)
                held.set((*mine, *[turn for _, turn in turns]))
                yield
        finally:
            held.set(mine)
            for key, turn in turns:
                turn.users -= 1
                if turn.users == 0 and self._turns.get(key) is turn:
                    del self._turns[key]

    def _turn_of(self, key: Any) -> _AsyncTurn:
        """The turn of a key; a new one where an event loop has it that was left."""
        turn = self._turns.setdefault(key, _AsyncTurn())
        if turn.loop() is not asyncio.get_running_loop():
            turn = self._turns[key] = _AsyncTurn()
        return turn

    def _after_fork(self) -> None:
        """In the child of a fork, where the parent's event loop does not run."""
        self._turns = {}
