"""`disabled()`: a block in which decorated calls only run their functions.

A context variable says whether a call is in such a block; a mark says so of threads that were started in one. Most
calls are spared that question: `BLOCKS` has an item for each block that a context or thread can still be in. If it is
empty, no call is in a block. A context that was copied in a block holds the block's object, whose end removes the item.
"""

from __future__ import annotations

import os
from _contextvars import ContextVar
from _thread import get_ident
from sys import modules

TYPE_CHECKING = False               # typing's own is slow to import
if TYPE_CHECKING:
    from contextvars import Token
    from types import TracebackType


BLOCKS: list[None] = []
"""Empty: no call can be in a block."""


class _Block:
    """A block. It lives as long as a context or a thread that is in it."""

    __slots__ = ()

    def __init__(self) -> None:
        BLOCKS.append(None)

    def __del__(self, blocks: list[None] = BLOCKS) -> None:
        if blocks:
            blocks.pop()


_block: ContextVar[_Block | None] = ContextVar("cachebox_disabled", default=None)
_process = _Block() if os.environ.get("CACHEBOX_DISABLED", "") not in ("", "0") else None
_marks_threads = False


class disabled:
    """A context in which decorated calls run their functions, and neither read, store nor count.

    It applies to the code in the block, to the tasks that it creates, and to the threads that it starts, until they
    end; to the threads of a pool, if they were started in the block. Calls elsewhere are not affected. `peek`, `set`
    and `invalidate` of a decorated function, and the methods of caches, work as usual, too. Blocks may be nested. O(1).

    The environment variable ``CACHEBOX_DISABLED=1`` does the same for a whole process. It is read at the import.

    >>> from cachebox import cached, disabled
    >>> @cached
    ... def square(x):
    ...     print("computing")
    ...     return x * x
    >>> with disabled():
    ...     square(2), square(2)
    computing
    computing
    (4, 4)
    >>> square.cache_info().misses
    0
    """

    __slots__ = ("_tokens",)

    def __init__(self) -> None:
        self._tokens: list[Token[_Block | None]] = []

    def __enter__(self) -> None:
        _mark_threads()
        self._tokens.append(_block.set(_Block()))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            _block.reset(self._tokens.pop())
        except ValueError:                      # the block was left in another context, which is not in it
            pass


def is_disabled() -> bool:
    """Whether calls in this context or thread only run their functions."""
    return _current_block() is not None


def _current_block() -> _Block | None:
    block = _block.get()
    if block is None and _marks_threads:
        # `threading.current_thread` would make an object for a thread that `threading` did not start.
        thread = modules["threading"]._active.get(get_ident())
        block = getattr(thread, "_cachebox_disabled", None)
    return block if block is not None else _process


def _mark_threads() -> None:
    """Have threads that are started in a block carry its mark, from now on."""
    global _marks_threads
    if _marks_threads:
        return
    from functools import wraps
    from threading import Thread

    start = Thread.start

    @wraps(start)
    def start_marked(self: Thread) -> None:
        block = _current_block()
        if block is not None:
            self._cachebox_disabled = block  # type: ignore[attr-defined]
        start(self)

    _marks_threads = True
    Thread.start = start_marked  # type: ignore[method-assign]
