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
    # tags: hash of the name (`rows.tag_hash`), name, present version, and the generation in which it was set
    "CREATE TABLE t(h INTEGER PRIMARY KEY, k BLOB NOT NULL, v BLOB NOT NULL, g INTEGER NOT NULL)",
    # leases: key, token, generation and tag epoch when it was taken, deadline, and the process that holds it
    "CREATE TABLE l(h INTEGER PRIMARY KEY, k BLOB NOT NULL, token BLOB NOT NULL, g INTEGER NOT NULL, "
    "epoch INTEGER NOT NULL, x INTEGER NOT NULL, place INTEGER NOT NULL, incarnation INTEGER NOT NULL)",
    # failed loads: the leader's token, until when waiters are given the error, its checksum, and the error
    "CREATE TABLE f(token BLOB PRIMARY KEY, x INTEGER NOT NULL, c INTEGER NOT NULL, b BLOB NOT NULL) WITHOUT ROWID",
    # numbers, by the names below
    "CREATE TABLE m(id INTEGER PRIMARY KEY, v INTEGER NOT NULL)",
)
GENERATION, SETTLED, TAG_EPOCH = range(3)
"""The first grows by one with each `clear`; the others change with each settling, and each invalidation of a tag."""
MOST = 1 << 31, 1 << 62, 1 << 62
FAILURES = sqlite3.Error, UnicodeDecodeError
"""What a call of SQLite raises; the second if the text of its error quotes damaged bytes."""
FULL = {
    sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR_SHMSIZE, sqlite3.SQLITE_IOERR_WRITE, sqlite3.SQLITE_IOERR_FSYNC,
    sqlite3.SQLITE_IOERR_DIR_FSYNC, sqlite3.SQLITE_IOERR_TRUNCATE,
}
"""Codes for what could not be written: the disk is full, or a quota or a limit of the process is reached."""
DAMAGE = {
    sqlite3.SQLITE_ERROR, sqlite3.SQLITE_INTERNAL, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CORRUPT,
    sqlite3.SQLITE_NOTFOUND, sqlite3.SQLITE_SCHEMA, sqlite3.SQLITE_TOOBIG, sqlite3.SQLITE_CONSTRAINT,
    sqlite3.SQLITE_MISMATCH, sqlite3.SQLITE_FORMAT, sqlite3.SQLITE_RANGE, sqlite3.SQLITE_NOTADB,
    sqlite3.SQLITE_IOERR_READ, sqlite3.SQLITE_IOERR_SHORT_READ, sqlite3.SQLITE_IOERR_DATA,
    sqlite3.SQLITE_IOERR_CORRUPTFS,
}
"""Codes that blame the file, or the disk below it. All others blame a lack of memory, of descriptors or of time."""


def is_full(error: Exception) -> bool:
    """Whether something could not be written because there is no room."""
    return _has_code_in(FULL, error)


def is_damage(error: Exception) -> bool:
    """Whether the file, or the disk below it, is to blame."""
    return isinstance(error, UnicodeDecodeError) or _has_code_in(DAMAGE, error)


def _has_code_in(codes: set[int], error: Exception) -> bool:
    code = getattr(error, "sqlite_errorcode", -1)       # an error of the module itself has none
    return code >= 0 and (code in codes or code & 0xFF in codes)


class Closing(Exception):
    """The file is being closed, for a fork or for good."""


class Damaged(Exception):
    """Stored data differs from what was written."""


def number(execute: Callable[..., Any], which: int) -> int:
    """One of the numbers in `m`. Raises `Damaged`."""
    found = execute("SELECT v FROM m WHERE id = ?", (which,)).fetchone()
    if found is None or type(found[0]) is not int or not 0 <= found[0] < MOST[which]:
        raise Damaged("a number is not what was written")
    return int(found[0])


def _connect(path: str, mode: str, patience: float, statements: int) -> sqlite3.Connection:
    found = sqlite3.connect(
        f"file:{quote(os.fsencode(path))}?mode={mode}", uri=True, isolation_level=None, check_same_thread=False,
        timeout=patience, cached_statements=statements,
    )
    found.text_factory = bytes          # no text is stored here, so it is damage: `rows` finds it
    return found


class Reader:
    """A connection that can only read."""

    __slots__ = ("__weakref__", "_connection", "execute")

    def __init__(self) -> None:
        self._connection: sqlite3.Connection | None = None

    def open(self, path: str, patience: float) -> None:
        """Connect to the file. Raises sqlite3.Error."""
        self._connection = _connect(path, "ro", patience, 32)
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
        self._execute: Any = None           # of the writer, with a cursor that is made once
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
        writer.executemany("INSERT INTO m VALUES(?, ?)", [(GENERATION, generation), (SETTLED, 0), (TAG_EPOCH, 0)])
        writer.execute("COMMIT")

    @property
    def writer(self) -> sqlite3.Connection:
        """The connection that writes."""
        found = self._writer
        if found is None:
            found = _connect(self.path, "rw", self._patience, 64)
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
            self._execute = found.cursor().execute
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
        return number(self.writer.execute, GENERATION)

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
        writer, self._writer, self._execute = self._writer, None, None
        if writer is not None:
            with contextlib.suppress(*FAILURES):
                writer.close()

    def reopen(self) -> None:
        """After `close_readers`, in the same process: allow reading again."""
        self._is_closing = False
