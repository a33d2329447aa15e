"""SQLite as it is used here: one connection writes, under the writer lock; as many as needed read.

Reading connections are read-only, so that closing one needs no lock: a connection that can write may move the log into
the file when it is closed. No connection is carried over a fork, because SQLite would take its locks for held in the
child.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import time
import weakref
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

PAGE = 4096
LOG_PAGES = 1000                    # pages of the log, after which SQLite moves it into the file
NEVER = 1 << 62                     # the deadline, in milliseconds, of what never expires

SCHEMA = (
    # entries: see `rows`
    "CREATE TABLE e(h INTEGER PRIMARY KEY, k BLOB NOT NULL, g INTEGER NOT NULL, x INTEGER NOT NULL, "
    "c INTEGER NOT NULL, b BLOB NOT NULL)",
    # tags: name, present version, and the generation in which it was set
    "CREATE TABLE t(k BLOB PRIMARY KEY, v BLOB NOT NULL, g INTEGER NOT NULL) WITHOUT ROWID",
    # leases: key, token, generation and tag epoch when it was taken, deadline, and the process that holds it
    "CREATE TABLE l(h INTEGER PRIMARY KEY, k BLOB NOT NULL, token BLOB NOT NULL, g INTEGER NOT NULL, "
    "epoch INTEGER NOT NULL, x INTEGER NOT NULL, place INTEGER NOT NULL, incarnation INTEGER NOT NULL)",
    # failed loads: the leader's token, until when waiters are given the error, and the error
    "CREATE TABLE f(token BLOB PRIMARY KEY, x INTEGER NOT NULL, b BLOB NOT NULL) WITHOUT ROWID",
    # numbers: 0 the generation, 1 changed by settling, 2 changed by every invalidation of a tag
    "CREATE TABLE m(id INTEGER PRIMARY KEY, v INTEGER NOT NULL)",
)
FULL = {sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR_SHMSIZE}
LATER = {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_NOMEM, sqlite3.SQLITE_INTERRUPT}
"""Errors that say nothing about the file, by the low byte of the code."""


def is_full(error: sqlite3.Error) -> bool:
    """Whether something did not fit, in the file or on the disk."""
    return getattr(error, "sqlite_errorcode", 0) in FULL or getattr(error, "sqlite_errorcode", 0) & 0xFF in FULL


def is_damage(error: sqlite3.Error) -> bool:
    """Whether the file, or the disk below it, is to blame."""
    code = getattr(error, "sqlite_errorcode", None)
    return isinstance(error, sqlite3.DatabaseError) and code is not None and not is_full(error) and (
        code & 0xFF not in LATER
    )


class Closing(Exception):
    """The file is being closed, for a fork or for good."""


class Reader:
    """A connection that can only read."""

    __slots__ = ("__weakref__", "_connection", "execute")

    def __init__(self) -> None:
        self._connection: sqlite3.Connection | None = None

    def open(self, path: str, patience: float) -> None:
        """Connect to the file. Raises sqlite3.Error."""
        self._connection = sqlite3.connect(
            f"file:{quote(path)}?mode=ro", uri=True, isolation_level=None, check_same_thread=False, timeout=patience,
            cached_statements=32,
        )
        self._connection.execute("PRAGMA cell_size_check=ON")
        self.execute = self._connection.cursor().execute

    def close(self) -> None:
        """Close the connection for good."""
        if self._connection is not None:
            self._connection.close()


class Database:
    """One file, as one handle of a folder has it open.

    Args:
        path: the path of the file.
        most_pages: the most pages that the file may have.
        is_durable: whether every transaction reaches the disk before it returns.
        patience: seconds to wait for SQLite's own locks, which are held for moments only.
    """

    def __init__(self, path: str, most_pages: int, is_durable: bool, patience: float) -> None:
        self.path = path
        self._most_pages = most_pages
        self._is_durable = is_durable
        self._patience = patience
        self._writer: sqlite3.Connection | None = None
        self._idle: list[Reader] = []
        self._living: weakref.WeakSet[Reader] = weakref.WeakSet()   # a lost reader closes itself
        self._opening = 0
        self._is_closing = False

    # --- reading ------------------------------------------------------------------------------------------------------

    def lend(self) -> Reader:
        """Lend a reader that nobody else uses until it is given back. Raises sqlite3.Error, `Closing`."""
        try:
            reader = self._idle.pop()
        except IndexError:
            reader = Reader()
            self._living.add(reader)        # before `_is_closing` is read: `close_readers` waits for it
            try:
                if self._is_closing:
                    raise Closing from None
                reader.open(self.path, self._patience)
            except BaseException:
                self._living.discard(reader)
                raise
        return reader

    def give_back(self, reader: Reader) -> None:
        """Take back a reader that is not in use any more."""
        self._idle.append(reader)

    def drop(self, reader: Reader) -> None:
        """Close a reader that failed, or stopped in the middle of something."""
        self._living.discard(reader)
        reader.close()

    # --- writing, all of it under the writer lock ---------------------------------------------------------------------

    def create(self, generation: int) -> None:
        """Create the file, which must not exist."""
        fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_CLOEXEC", 0), 0o600)
        os.fchmod(fd, 0o600)                # independent of the umask; SQLite gives the log and its index the same mode
        os.close(fd)
        writer = self.writer
        writer.execute("BEGIN IMMEDIATE")
        for statement in SCHEMA:
            writer.execute(statement)
        writer.executemany("INSERT INTO m VALUES(?, ?)", [(0, generation), (1, 0), (2, 0)])
        writer.execute("COMMIT")

    @property
    def writer(self) -> sqlite3.Connection:
        """The connection that writes."""
        found = self._writer
        if found is None:
            found = sqlite3.connect(
                f"file:{quote(self.path)}?mode=rw", uri=True, isolation_level=None, check_same_thread=False,
                timeout=self._patience, cached_statements=64,
            )
            try:
                found.execute("PRAGMA journal_mode=WAL")
                for pragma in (
                    f"synchronous={'FULL' if self._is_durable else 'NORMAL'}",
                    f"wal_autocheckpoint={LOG_PAGES}", f"journal_size_limit={LOG_PAGES * PAGE}",
                    f"max_page_count={self._most_pages}", "cell_size_check=ON", "trusted_schema=OFF", "mmap_size=0",
                ):
                    found.execute(f"PRAGMA {pragma}")
            except BaseException:
                found.close()
                raise
            self._writer = found
        return found

    def transaction(self, run: Callable[[Callable[..., sqlite3.Cursor]], Any]) -> Any:
        """Call `run(execute)` in one transaction, which is undone if it raises. Returns its result."""
        writer = self.writer
        writer.execute("BEGIN IMMEDIATE")
        try:
            result = run(writer.execute)
            writer.execute("COMMIT")
            return result
        except BaseException:
            self.roll_back()
            raise

    @property
    def is_quiet(self) -> bool:
        """Whether no transaction is under way."""
        return self._writer is None or not self._writer.in_transaction

    def roll_back(self) -> None:
        """Undo the transaction that is under way, if there is one."""
        if self._writer is not None and self._writer.in_transaction:
            self._writer.execute("ROLLBACK")

    def size(self) -> int:
        """Pages that hold something."""
        ((pages,),) = self.writer.execute("PRAGMA page_count").fetchall()
        ((free,),) = self.writer.execute("PRAGMA freelist_count").fetchall()
        return int(pages) - int(free)

    def generation(self) -> int:
        """The present generation."""
        ((found,),) = self.writer.execute("SELECT v FROM m WHERE id = 0").fetchall()
        return int(found)

    def has_leases(self) -> bool:
        """Whether any process holds a lease."""
        return bool(self.writer.execute("SELECT 1 FROM l LIMIT 1").fetchall())

    def shorten_log(self) -> None:
        """Move the log into the file, and give its space back."""
        self.writer.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()

    # --- the end ------------------------------------------------------------------------------------------------------

    def close_readers(self, seconds: float) -> bool:
        """Close all readers, and wait for those in use. Returns False if some still are."""
        until = time.monotonic() + seconds
        self._is_closing = True
        while True:
            while self._idle:
                with contextlib.suppress(IndexError):
                    self.drop(self._idle.pop())
            if not self._living or time.monotonic() >= until:
                return not self._living
            time.sleep(0.001)

    def close_writer(self) -> None:
        """Close the connection that writes."""
        writer, self._writer = self._writer, None
        if writer is not None:
            with contextlib.suppress(sqlite3.Error):
                writer.close()

    def reopen(self) -> None:
        """After `close_readers`, in the same process: allow reading again."""
        self._is_closing = False
