"""Write-through for asyncio."""

from __future__ import annotations

from typing import Any

from cachebox.strategies.key_locks import AsyncKeyLocks
from cachebox.strategies.methods import AwaitedMethods
from cachebox.strategies.write_through import WritingThrough


class AsyncWriteThrough(WritingThrough, AwaitedMethods):
    """`WriteThrough` with methods to await, for one event loop.

    Args:
        cache: a `Cache`, or one whose methods must be awaited.
        store: a store whose methods are coroutine functions, or plain functions that do not block for long.

    It keeps the promises of `WriteThrough`, with tasks instead of threads: writes of one key take turns, a reading task
    never waits for a writing one, and of all tasks that miss one key at the same time one loads it.
    """

    def __init__(self, cache: Any, store: Any) -> None:
        super().__init__(cache, store)
        self._locks = AsyncKeyLocks()
