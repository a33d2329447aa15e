"""The entries of one folder: reading them, and changing them by the protocol that keeps first tiers right.

A change runs under the writer lock, in this order: settle what a dead writer left, make room, make the counters of the
keys odd, run one transaction, make the counters even. A read is one look at the file; the near cache has noted the
counter before.

Errors are handled by kind. If something did not fit, the write is tried again with more room; on a full disk, an
operation that forgets entries forgets all of them. A damaged file is replaced by a new, empty one. Every other failure
leaves the page `dirty`, as a death does, and the next writer settles it.
"""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import sqlite3
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypeVar

from cachebox._platform.section import Section
from cachebox.distributed._embedded.database import (
    FAILURES,
    NEVER,
    SETTLED,
    Closing,
    Damaged,
    Database,
    is_damage,
    is_full,
)
from cachebox.distributed._embedded.folder import Folder
from cachebox.distributed._embedded.opened import Opened, data_name
from cachebox.distributed._embedded.page import Page
from cachebox.distributed._embedded.room import NOTHING, Cost, Room
from cachebox.distributed._embedded.rows import FIND, check
from cachebox.distributed._embedded.writer_lock import Busy, Retired

FORK_WAITS = 5.0                    # seconds that a fork waits for reads to end
CLOSE_WAITS = 2.0                   # seconds that `close` waits for the writer lock

T = TypeVar("T")
Execute = Callable[..., sqlite3.Cursor]

log = logging.getLogger("cachebox")


class DiskFull(Exception):
    """Nothing more fits on the disk."""


class _Gone(Exception):
    """The folder was removed."""


_left: list[Database] = []              # see `_leave`


class Store:
    """One handle of a folder. Thread-safe. In the child of a fork it opens the folder for itself.

    Args:
        folder: the folder.
        limit: the most bytes that the folder may take.
        is_durable: whether written entries survive a crash of the machine.
        patience: seconds that a call may wait for the writer lock.
        on_new_page: called with a page that replaces another: nothing that was read before holds any more.
        on_evict: called with the number of evicted entries.
        clock: returns the time in seconds, for the deadlines of entries and leases; None: the system's time.
    """

    def __init__(
        self,
        folder: Folder,
        limit: int,
        is_durable: bool,
        patience: float,
        on_new_page: Callable[[Any], object],
        on_evict: Callable[[int], object],
        clock: Callable[[], float] | None = None,
    ) -> None:
        self.folder = folder
        self.room = Room(limit)
        self.is_durable = is_durable
        self._patience = patience
        self._on_new_page = on_new_page
        self._on_evict = on_evict
        self._clock = clock
        self.has_own_clock = clock is not None
        self._opened: Opened | None = None
        self._database: tuple[int, Database] | None = None
        self._has_written = False
        self._lock = Section()
        self._held: Opened | None = None        # during a fork: what `pause` has locked
        self._is_torn_off = False               # during a fork: some thread went on reading
        # this process was forked in the middle of a read: the handle cannot go on
        self.is_torn = False
        self.is_closed = False
        with contextlib.suppress(Busy):         # a later call opens it
            self.opened(time.monotonic() + patience)

    def now_ms(self) -> int:
        """The time, in milliseconds."""
        return time.time_ns() // 1_000_000 if self._clock is None else int(self._clock() * 1000)

    def deadline_after(self, px: bytes) -> int:
        """The deadline, in milliseconds, of something that lives `px` milliseconds from now; empty: never."""
        return min(self.now_ms() + int(px), NEVER) if px else NEVER

    def opened(self, deadline: float) -> Opened:
        """The open folder; opens it if need be. Raises `Busy`, OSError, ValueError."""
        found = self._opened
        if found is None and not (self.is_torn or self.is_closed):
            made = Opened(self.folder, deadline)
            with self._lock:
                found = self._opened
                if found is None and not self.is_closed:
                    self._has_written = False
                    self._on_new_page(made.page)        # first: nothing older may be served once a write has returned
                    self._opened = found = made
            if found is not made:               # another thread was faster, or has closed the store
                made.close()
        if found is None:
            raise Busy("this process was forked in the middle of a read" if self.is_torn else "it is closed")
        return found

    @property
    def place(self) -> Any:
        """The place of this process, for a write that is under way. Raises `Busy`."""
        found = self._opened
        if found is None or found.place is None:
            raise Busy("it is being closed")
        return found.place

    # --- reading ------------------------------------------------------------------------------------------------------

    def database(self, opened: Opened) -> Database | None:
        """The file with the entries, or None if there is none. Raises `Damaged`, OSError."""
        data = opened.page.data
        found = self._database
        if found is not None and found[0] == data:
            return found[1]
        if data == 0:
            self._use(opened, found, None)
            return None
        name = data_name(data)
        is_there, *_ = [opened.folder.check_path(f"{name}{end}") for end in ("", "-wal", "-shm")]
        if not is_there:
            raise Damaged("the file with the entries is missing")
        made = data, self._new_database(opened, data)
        return made[1] if self._use(opened, found, made) else self.database(opened)

    def _use(self, opened: Opened, old: tuple[int, Database] | None, new: tuple[int, Database] | None) -> bool:
        """Replace the file in use. Returns False if another thread was faster. Raises `Closing`.

        Nobody writes to the old file: a writer, under the writer lock, uses the file that the page names.
        """
        with self._lock:
            if self._opened is not opened:
                raise Closing
            if self._database is not old:
                return False
            self._database = new
        if old is not None:
            old[1].close_readers(0.0)
            old[1].close_writer()
        return True

    def _new_database(self, opened: Opened, data: int) -> Database:
        return Database(
            opened.folder[data_name(data)], self.room.most_pages, self.is_durable, max(self._patience, 1.0)
        )

    def read(self, look: Callable[[Execute, Page], Any], deadline: float) -> Any:
        """Call `look(execute, page)` on a reader and return its result, or None if there is no file. Raises `Busy`,
        OSError.

        The entries may change between two of its statements.
        """
        while True:                             # the file may be replaced by another process each time
            opened = self.opened(deadline)
            data = opened.page.data
            try:
                database = self.database(opened)
                if database is None:
                    return None
                reader = database.lend()
                try:
                    result = look(reader.execute, opened.page)
                except BaseException:
                    database.drop(reader)
                    raise
                database.give_back(reader)
                return result
            except Closing:                     # closed for a fork, or replaced by another process
                time.sleep(0.0005)
            except (*FAILURES, Damaged, FileNotFoundError) as error:
                if isinstance(error, FAILURES) and not self._is_damage(opened, data, error):
                    raise Busy(f"SQLite cannot read now: {error}") from error
                self._start_again(opened, data, error, deadline)
            if time.monotonic() > deadline + 1.0:
                raise Busy("its file is replaced again and again")

    def find(self, execute: Execute, page: Page, key: bytes, now: int) -> tuple[bytes, int] | None:
        """The envelope of a live key and its deadline in milliseconds; None if there is none. Raises `Damaged`."""
        h = page.hash_of(key)
        row = execute(FIND, (h,)).fetchone()
        if row is not None:
            page.mark(h)
        return None if row is None or row[0] != key else check(execute, page, h, row, now)

    # --- writing ------------------------------------------------------------------------------------------------------

    def write(
        self,
        keys: Sequence[bytes] | None,
        run: Callable[[Execute, Page], T],
        deadline: float,
        *,
        tags: bool = False,
        cost: Cost | Callable[[Execute, Page], Cost] = NOTHING,
        forgets: T | None = None,
    ) -> T:
        """Call `run(execute, page)` in one transaction that changes these keys, and return its result.

        Args:
            keys: every key that may change; None: all keys.
            run: may be called again if its transaction was undone.
            deadline: monotonic seconds; in the past: do not wait at all.
            tags: whether entries that have a tag may change.
            cost: what is written, or a function that says it.
            forgets: the result if everything had to be forgotten instead; None: the operation does not forget entries.

        Raises `Busy`, `DiskFull`, `TooLarge`, OSError and what `run` raises; nothing has changed then.
        """
        for _ in range(8):
            opened = self.opened(deadline)
            try:
                result: T = opened.lock.run(partial(self._write, opened, keys, run, tags, cost, forgets), deadline)
                return result
            except (_Gone, Retired):
                self._let_go_of(opened)
        raise Busy("the folder is removed again and again")

    def _write(
        self,
        opened: Opened,
        keys: Sequence[bytes] | None,
        run: Callable[[Execute, Page], T],
        tags: bool,
        cost: Cost | Callable[[Execute, Page], Cost],
        forgets: T | None,
    ) -> T:
        if opened.is_gone or self._opened is not opened:
            raise _Gone
        page = opened.page
        hashes = None if keys is None else [page.hash_of(key) for key in keys]
        if page.clean or not self._has_written:
            self._begin_to_write(opened)
        tries = 0
        while True:
            tries += 1
            try:
                if page.dirty:
                    self._settle(opened)
                database = self._database_to_write(opened)
                needed = cost(database.writer.execute, page) if callable(cost) else cost
                if needed.size:
                    self._count(self.room.make(database, page, needed, self.now_ms(), tries > 1))
                page.open(hashes, tags)
                try:
                    result: T = database.transaction(lambda execute: run(execute, page))
                except BaseException:
                    if self._database is None or self._database[1].is_quiet:
                        page.close(hashes, tags)    # it was undone
                    raise
                if page.generation == 0:
                    page.generation = database.generation()
                page.close(hashes, tags)
                if page.leases and not database.has_leases():
                    page.leases = False
                return result
            except FAILURES as error:
                if is_full(error) and tries < 4:
                    self._make_way()
                    continue
                if is_full(error):
                    if forgets is None:
                        raise DiskFull("nothing more fits on the disk") from error
                    self._discard(opened, error)
                    return forgets
                if tries > 4 or not self._is_damage(opened, page.data, error):
                    raise Busy(f"SQLite cannot write now: {error}") from error
                self._discard(opened, error)
            except (Damaged, FileNotFoundError) as error:
                if tries > 4 or opened.is_gone:
                    raise _Gone from error
                self._discard(opened, error)

    def _is_damage(self, opened: Opened, data: int, error: Exception) -> bool:
        """Whether the file has to be replaced. One that cannot be opened may lack nothing but a free descriptor."""
        return is_damage(error) or not os.path.lexists(opened.folder[data_name(data)])

    def _make_way(self) -> None:
        """Give back the space of the log, because a write did not fit."""
        if self._database is not None:
            with contextlib.suppress(*FAILURES):
                self._database[1].shorten_log()

    def _count(self, evicted: int) -> None:
        if evicted:
            self._on_evict(evicted)

    def _begin_to_write(self, opened: Opened) -> None:
        """Before the first change: record that the folder is no longer cleanly closed, on the disk too."""
        page = opened.page
        changed = page.clean or (page.lossy == self.is_durable and not self.is_durable)
        if page.clean:
            page.clean = False
        if not self.is_durable and not page.lossy:
            page.lossy = True
        if changed:
            page.mapping.flush(0, 4096)
        self._has_written = True

    def _database_to_write(self, opened: Opened) -> Database:
        database = self.database(opened)
        if database is None:
            data = secrets.randbits(62) | 1
            database = self._new_database(opened, data)
            try:
                database.create(1 + secrets.randbelow(1 << 30))
            except BaseException:
                database.close_writer()
                _remove(opened.folder, data)
                raise
            self._database = data, database
            opened.page.leases = False
            opened.page.budget = 0
            opened.page.data = data
        return database

    def _settle(self, opened: Opened) -> None:
        """A writer has died: let SQLite decide what became of its transaction, and only then let hits be served."""
        database = self.database(opened)
        if database is not None:
            database.roll_back()
            database.transaction(lambda execute: execute("REPLACE INTO m VALUES(?, ?)", (SETTLED, new_number())))
        opened.page.leases = True
        opened.page.generation = 0
        opened.page.close(None, True)

    # --- starting again -----------------------------------------------------------------------------------------------

    def _start_again(self, opened: Opened, data: int, error: BaseException, deadline: float) -> None:
        """Discard a file in which a read found damage, unless another file has replaced it."""
        def discard() -> None:
            if opened.is_gone:
                raise _Gone
            if opened.page.data == data:
                self._discard(opened, error)

        try:
            opened.lock.run(discard, max(deadline, time.monotonic() + 0.05))
        except (_Gone, Retired):
            self._let_go_of(opened)

    def _discard(self, opened: Opened, error: BaseException) -> None:
        """Forget everything, for all processes: the next write makes a file of another name. Under the writer lock."""
        log.warning("the store %r is replaced by an empty one: %s", opened.folder, error)
        page = opened.page
        page.open(None, True)
        data = page.data
        page.data = page.generation = 0
        page.leases = False
        found, self._database = self._database, None
        if found is not None:
            found[1].close_readers(0.0)
            found[1].close_writer()
        _remove(opened.folder, data)
        page.close(None, True)

    def _let_go_of(self, opened: Opened) -> None:
        """Close a folder that was removed: the next call opens the folder in its place."""
        with self._lock:
            if self._opened is not opened:
                return
            self._opened = None
            found, self._database = self._database, None
        if found is not None:
            found[1].close_readers(0.0)
            found[1].close_writer()
        opened.close()

    # --- the end ------------------------------------------------------------------------------------------------------

    def close(self, wait: float = CLOSE_WAITS) -> None:
        """Close all files. The last process syncs the folder, so that a crash of the machine cannot undo anything."""
        with self._lock:
            self.is_closed = True
            opened, self._opened = self._opened, None
        if opened is None:
            return
        try:
            opened.lock.run(lambda: self._close(opened), time.monotonic() + wait)
        except (Busy, OSError, *FAILURES):
            found, self._database = self._database, None
            if found is not None:
                _leave(found[1])
        opened.close()

    def _close(self, opened: Opened) -> None:
        found, self._database = self._database, None
        page = opened.page
        is_last = opened.place.users == 1 and not opened.is_gone and opened.place.is_alone(page)
        if found is not None:
            found[1].close_readers(CLOSE_WAITS)
            if is_last and self._has_written and not page.dirty and page.data == found[0]:
                found[1].shorten_log()          # this writes it to the disk
            found[1].close_writer()
        if is_last and not page.dirty and not page.clean:
            page.clean = True
            page.mapping.flush()
        if is_last:
            opened.folder.remove()

    # --- forks --------------------------------------------------------------------------------------------------------

    def pause(self) -> None:
        """Before a fork: close every connection of SQLite, because none may be carried over."""
        self._held = None
        opened = self._opened
        if opened is None:
            return
        try:
            opened.lock.pause(self._close_database, time.monotonic() + min(self._patience, FORK_WAITS))
            self._held = opened
        except (Busy, OSError):                 # the lock's holder has the file open, too, so closing writes nothing
            self._close_database()

    def _close_database(self) -> None:
        found = self._database
        if found is not None:
            self._is_torn_off = not found[1].close_readers(FORK_WAITS)
            found[1].close_writer()

    def resume(self) -> None:
        """After a fork, in the parent."""
        found = self._database
        if found is not None:
            found[1].reopen()
        self._is_torn_off = False
        held, self._held = self._held, None
        if held is not None:
            held.lock.resume()

    def renew(self) -> None:
        """After a fork, in the child: drop everything; the next call opens the folder again."""
        self._lock = Section()
        opened, self._opened = self._opened, None
        self._database = self._held = None
        self.is_torn = self._is_torn_off
        if opened is not None:
            opened.leave_to_parent()


def new_number() -> int:
    """A random number that fits SQLite's integers and is never made twice."""
    return secrets.randbits(62)


def _remove(folder: Folder, data: int) -> None:
    for end in ("-wal", "-shm", ""):
        with contextlib.suppress(OSError):
            os.unlink(folder[data_name(data) + end])


def _leave(database: Database) -> None:
    """Keep a file that cannot be closed open for good: closing it would write without the writer lock."""
    _left.append(database)
