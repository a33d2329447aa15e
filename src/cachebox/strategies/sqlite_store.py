"""A store in a file: a table of keys and values, on the standard library's sqlite3."""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from types import TracebackType
from typing import Any
from weakref import WeakSet

from cachebox._files.serializer import JSON_KEYS, Encoding
from cachebox._platform.at_fork import renew_in_child
from cachebox._platform.section import Section
from cachebox.strategies.row_keys import row_key

_MOST_AT_ONCE = 500
"""The most keys of one SELECT; SQLite before 3.32 takes 999."""

_of_parents: list[_Connection] = []
"""Connections that earlier processes had open when they forked."""


class SQLiteStore:
    """A store that keeps keys and values in a table of an SQLite database.

    Args:
        path: the file; created for its owner alone if it does not exist. It is resolved now, once: a later change of
            the working directory has no effect.
        table: the name of the table; created if it does not exist.
        timeout: seconds to wait for another process that is writing.
        serializer, secret: how values are written, see `Cache.dump`. With a secret, a value is signed together with its
            key.

    **Keys** that are equal share a row, like keys of a dict: 1, 1.0 and True. With JSON a key is a str, a number or
    None. With another serializer it may also be bytes, a date, a time, a UUID, an enum, or a tuple or frozenset of
    these. Every method raises TypeError for other keys.

    Each thread has its own connection, with write-ahead logging, so that readers and a writer do not wait for each
    other. A write is in the file when the call returns, and survives the end of the process. Because of
    ``synchronous=NORMAL``, a power cut may cost the last writes, but never the file's consistency. Safe from any
    thread, and in the child of a fork.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder, SQLiteStore(f"{folder}/store.db") as store:
    ...     store.save("a", [1, 2])
    ...     store.save_many({"b": None, 1: "one"})
    ...     store.load("a"), store.load_many(["b", 1, "1"])
    ([1, 2], {'b': None, 1: 'one'})
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        table: str = "cachebox",
        *,
        timeout: float = 30.0,
        serializer: Any = "json",
        secret: bytes | str | None = None,
    ) -> None:
        if not isinstance(table, str) or not table.isidentifier():
            raise ValueError(f"table must be a name of letters, digits and underscores, not {table!r}")
        given = os.fsdecode(path)
        if given in ("", ":memory:"):
            raise ValueError(f"path must name a file, not {given!r}: each thread opens it for itself")
        self.path = os.path.realpath(given)
        _make(self.path)
        self._encoding = Encoding(serializer, secret)
        self._timeout = timeout
        self._local = threading.local()
        self._all: WeakSet[_Connection] = WeakSet()
        self._lock = Section()                  # guards that; re-entrant, because a finalizer may use the store
        self._closed = False
        renew_in_child(self)
        self._select = f"SELECT key, value FROM {table} WHERE key IN "
        self._upsert = f"INSERT INTO {table} VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET value = excluded.value"
        self._remove = f"DELETE FROM {table} WHERE key = ?"
        own = self._connection()
        with own.in_use, own.connection as connection:
            connection.execute(f"CREATE TABLE IF NOT EXISTS {table} (key BLOB PRIMARY KEY, value BLOB) WITHOUT ROWID")

    def load(self, key: Any) -> Any:
        """The value of a key. Raises KeyError if there is none."""
        row = self._key(key)
        rows = self._rows(f"{self._select}(?)", (row,))
        if not rows:
            raise KeyError(key)
        return self._value(row, rows[0][1])

    def load_many(self, keys: Iterable[Any]) -> dict[Any, Any]:
        """The values of the keys that have one."""
        written = {self._key(key): key for key in keys}
        found = {}
        wanted = list(written)
        for at in range(0, len(wanted), _MOST_AT_ONCE):
            some = wanted[at : at + _MOST_AT_ONCE]
            marks = ",".join("?" * len(some))
            for key, value in self._rows(f"{self._select}({marks})", some):
                found[written[key]] = self._value(key, value)
        return found

    def save(self, key: Any, value: Any) -> None:
        """Store a value under a key."""
        row, own = self._row(key, value), self._connection()
        with own.in_use, own.connection as connection:
            connection.execute(self._upsert, row)

    def save_many(self, items: Mapping[Any, Any]) -> None:
        """Store all items, or none of them."""
        rows = [self._row(key, value) for key, value in items.items()]
        own = self._connection()
        with own.in_use, own.connection as connection:
            connection.executemany(self._upsert, rows)

    def delete(self, key: Any) -> bool:
        """Delete a key. Returns whether it was there."""
        row, own = self._key(key), self._connection()
        with own.in_use, own.connection as connection:
            return connection.execute(self._remove, (row,)).rowcount > 0

    def delete_many(self, keys: Iterable[Any]) -> int:
        """Delete all of these keys, or none of them. Returns how many were there."""
        doomed = [(self._key(key),) for key in keys]
        own = self._connection()
        with own.in_use, own.connection as connection:
            return connection.executemany(self._remove, doomed).rowcount if doomed else 0

    def close(self) -> None:
        """Close the connections of all threads, each after the call that is using it."""
        self._closed = True
        with self._lock:
            connections = list(self._all)
        for connection in connections:
            connection.close()

    def __enter__(self) -> SQLiteStore:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"SQLiteStore({self.path!r})"

    def _key(self, key: Any) -> bytes:
        if self._encoding.is_json and type(key) not in JSON_KEYS:
            self._encoding.dumps(key)           # raises an error that says what is wrong with it
        return row_key(key)

    def _row(self, key: Any, value: Any) -> tuple[bytes, bytes]:
        row = self._key(key)
        return row, self._encoding.dump_value(value, row)

    def _value(self, row: bytes, data: Any) -> Any:
        try:
            return self._encoding.load_value(data, row)
        except ValueError as error:
            raise ValueError(f"{self.path!r}: the value of {row.decode()}: {error}") from error

    def _rows(self, select: str, keys: Sequence[bytes]) -> list[tuple[bytes, Any]]:
        own = self._connection()
        with own.in_use:
            return own.connection.execute(select, keys).fetchall()

    def _after_fork(self) -> None:
        """After a fork, in the child: another thread of the parent may have held the lock."""
        self._lock = Section()

    def _connection(self) -> _Connection:
        """This thread's connection."""
        own: _Connection | None = getattr(self._local, "own", None)
        if own is None or own.process != os.getpid():   # a connection must not be used in the child of a fork
            if self._closed:
                raise RuntimeError(f"{self!r} has been closed")
            if own is not None:
                _of_parents.append(own)         # nor closed there, which dropping the last reference would do
            own = self._local.own = _Connection(self.path, self._timeout)
            with self._lock:
                self._all.add(own)
            if self._closed:            # in between
                own.close()
        return own


def _make(path: str) -> None:
    """Create a file for its owner alone, if it does not exist. SQLite gives the files next to it the same
    permissions."""
    flags = os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0)
    with suppress(FileExistsError):
        os.close(os.open(path, os.O_RDWR | flags, 0o600))


class _Connection:
    """A connection that ends with its thread."""

    def __init__(self, path: str, timeout: float) -> None:
        self.process = os.getpid()
        # another thread may close it, but not while this one is using it: sqlite3 would crash
        self.in_use = Section()
        self.connection = sqlite3.connect(path, timeout=timeout, check_same_thread=False)
        self._to_close = [self.connection]
        self.connection.execute("PRAGMA journal_mode = WAL")
        self.connection.execute("PRAGMA synchronous = NORMAL")

    def close(self) -> None:
        if self.process == os.getpid():
            try:
                connection = self._to_close.pop()
            except IndexError:          # another thread has closed it, or is about to: sqlite3 allows one close
                return
            with self.in_use:
                connection.close()

    def __del__(self) -> None:
        if hasattr(self, "_to_close"):
            self.close()
