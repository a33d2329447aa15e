"""A lock for every key that somebody is writing, and none for the others."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from itertools import count
from threading import Lock, RLock
from typing import Any


class _Turn:
    """The lock of one key."""

    __slots__ = ("lock", "number", "users")

    def __init__(self, number: int) -> None:
        self.lock = RLock()             # re-entrant: a callback of the cache may write the same key
        self.number = number
        self.users = 0


class KeyLocks:
    """Locks by key. Whoever takes several takes them in the order in which they came into being, so nobody waits in a
    circle. A lock goes when nobody uses it: memory follows the writes that are under way."""

    def __init__(self) -> None:
        self._guard = Lock()
        self._turns: dict[Any, _Turn] = {}
        self._numbers = count()

    @contextmanager
    def hold(self, keys: Iterable[Any]) -> Iterator[None]:
        """Hold the locks of some keys, which are all different."""
        keys = list(keys)
        with self._guard:
            turns = []
            for key in keys:
                turn = self._turns.get(key)
                if turn is None:
                    turn = self._turns[key] = _Turn(next(self._numbers))
                turn.users += 1
                turns.append(turn)
        try:
            with ExitStack() as held:
                for turn in sorted(turns, key=lambda turn: turn.number):
                    held.enter_context(turn.lock)
                yield
        finally:
            with self._guard:
                for key, turn in zip(keys, turns, strict=True):
                    turn.users -= 1
                    if turn.users == 0:
                        del self._turns[key]
