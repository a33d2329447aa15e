"""Strategies: a cache together with the store that it caches.

A *store* is any object with ``load(key)``, which raises KeyError for an absent key. Optional methods are
``load_many(keys)``, which returns a dict of the present keys, ``save(key, value)``, ``save_many(dict)``,
``delete(key)`` and ``delete_many(keys)``; writing needs ``save``. The methods may be coroutine functions, for
`AsyncWriteThrough` and `AsyncWriteBehind`.

- `WriteThrough`: a write is in the store before the cache shows it.
- `WriteBehind`: a write is accepted at once, and reaches the store soon; with a journal, even after ``kill -9``.
- `SQLiteStore`: a store in a file, on the standard library's sqlite3.

Read-through and refresh-ahead are options of the cache itself: ``Cache(loader=store, refresh_ahead=0.2)``.
"""

from __future__ import annotations

import cachebox._platform  # noqa: F401 (it checks whose files are in this folder)

TYPE_CHECKING = False               # typing's own is slow to import
if TYPE_CHECKING:
    from cachebox.strategies.async_write_behind import AsyncWriteBehind
    from cachebox.strategies.async_write_through import AsyncWriteThrough
    from cachebox.strategies.dead_letters import DeadLetter
    from cachebox.strategies.errors import QueueFull
    from cachebox.strategies.sigterm import drain_on_sigterm
    from cachebox.strategies.sqlite_store import SQLiteStore
    from cachebox.strategies.write_behind import WriteBehind
    from cachebox.strategies.write_through import WriteThrough

__all__ = [
    "AsyncWriteBehind",
    "AsyncWriteThrough",
    "DeadLetter",
    "QueueFull",
    "SQLiteStore",
    "WriteBehind",
    "WriteThrough",
    "drain_on_sigterm",
]

_MODULES = {
    "AsyncWriteBehind": "async_write_behind",
    "AsyncWriteThrough": "async_write_through",
    "DeadLetter": "dead_letters",
    "QueueFull": "errors",
    "SQLiteStore": "sqlite_store",
    "WriteBehind": "write_behind",
    "WriteThrough": "write_through",
    "drain_on_sigterm": "sigterm",
}

if not TYPE_CHECKING:

    def __getattr__(name: str) -> object:
        """Import a name when it is first used."""
        if name not in _MODULES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from importlib import import_module

        found = getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
        globals()[name] = found
        return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


del TYPE_CHECKING
