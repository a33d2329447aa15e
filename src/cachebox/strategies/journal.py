"""The journal of a `WriteBehind`: a file with the accepted writes, until the store has them.

    header:  magic (16 bytes)   version   signed?   serializer                                    (32 bytes)
    record:  size   kind   number   checksum of these three   checksum of what follows   payload

A record says that a write was accepted (payload: key and value), that a key is to be deleted (payload: the key), which
writes the store has, or which were not accepted after all (payload: their numbers). What the store has stands for all
earlier writes of its key, too. Records are only added at the end.

Two checksums distinguish the two ways in which a file may be wrong. A record that was being written when the process or
the machine died is the last one and incomplete; it is dropped. Any other mismatch is damage: the file is refused as a
whole, unchanged.

Durability. A record is handed to the operating system before `set` returns. So it survives the end of the process, even
by ``kill -9``. At the level ``"power"``, `set` returns when the disk has the record, which survives a power cut. At the
default level, ``"process"``, the disk has it within about a second (`SYNC_EVERY`), so a power cut may cost the last
second.

Space. When the store has everything, the file shrinks to its header. Otherwise the file is rewritten once it is larger
than `COMPACT_AT` bytes and more than half of it is no longer needed. A file that could not be synced is rewritten, too,
because nobody knows how much of it the disk has. The old file stands until the new one takes over its name, so a
failure on the way loses nothing.

Nothing in a file is trusted: sizes, numbers and kinds are checked, and a mismatch is a ValueError.
"""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from struct import Struct
from typing import Any, NamedTuple
from zlib import crc32

from cachebox._files.dump import create_sibling, sync_folder
from cachebox._files.serializer import SIGNATURE, Encoding
from cachebox._platform.section import Section
from cachebox._platform.thread import Thread
from cachebox._platform.trouble import Trouble
from cachebox.cache import MISSING
from cachebox.strategies.file_lock import lock_file, unlock_file

MAGIC = b"\x93CacheBox\r\njrnl\x1a"
VERSION = 1
SYNC_EVERY = 1.0
"""Seconds after which the disk has a record, at the level ``"process"``."""
COMPACT_AT = 4 << 20
"""Bytes from which a file is worth rewriting."""
COMPACT_AGAIN = 5.0
"""Seconds after which a failed rewriting is tried again."""

_HEADER = Struct("<16sH?13s")
_START = Struct("<IBQ")
_CHECKS = Struct("<II")
_HEAD = _START.size + _CHECKS.size
_SET, _DELETE, _DONE, _TAKEN_BACK = 1, 2, 3, 4
_LAST_NUMBER = 1 << 62
"""The largest number of a record; then the numbers start from 0 again."""


class _Record(NamedTuple):
    """One record of a file, with correct checksums."""

    at: int
    kind: int
    number: int
    payload: memoryview
    end: int


class Journal:
    """An open journal. Its owner calls its methods one at a time; `sync` may be called by any thread.

    Args:
        path: the file; created for its owner alone if it does not exist. It is resolved now, once: a later change of
            the working directory or of a symbolic link has no effect.
        encoding: how keys and values are written.
        durability: ``"process"`` or ``"power"``.

    Raises ValueError, which names the file, if it is no journal, is damaged, or was written with another serializer;
    RuntimeError if another process, or another `WriteBehind`, has it open. The file is unchanged then.

    `replayed` has the writes that the store may lack, in their order: number, key, and value or MISSING.
    """

    def __init__(self, path: str | os.PathLike[str], encoding: Encoding, durability: str) -> None:
        self.path = os.path.realpath(os.fsdecode(path))
        self.encoding = encoding
        self.waits_for_disk = durability == "power"
        self._make_locks()
        self._syncer: Thread | None = None
        self._trouble = Trouble("the disk does not take a journal", "the disk takes the journal again")
        self._is_torn = False               # half a record may stand at the end
        self._is_doubtful = False           # a sync failed: the disk may lack earlier records
        self._writers = 0                   # more than 1 if a finalizer writes in the middle of a write
        self._undone: list[int] = []        # writes that the store has, which could not be recorded
        self._untaken: list[int] = []       # writes that were not accepted after all, which could not be recorded
        self._compact_after = 0.0           # monotonic seconds: no compaction before then
        self.number = 0
        self._size = 0
        self._file = _open_locked(self.path)
        try:
            self.replayed = self._read()
        except BaseException:
            os.close(self._file)
            self._file = -1
            raise

    def _make_locks(self) -> None:
        # re-entrant, because a signal handler or a finalizer may write in the middle of anything
        self._sync_lock = Section()
        self._wake_lock = Section()
        self._wake = self._wake_lock.condition()

    # --- reading ------------------------------------------------------------------------------------------------------

    def _read(self) -> list[tuple[int, Any, Any]]:
        """Read the whole file, drop a torn last record, and write the header of a new file."""
        content = _content(self._file)
        self._live: dict[int, int] = {}     # number: size of the record, for each write that the store may lack
        if not content or (len(content) < _HEADER.size and self._header().startswith(content)):
            os.ftruncate(self._file, 0)
            self._write(self._header())
            os.fsync(self._file)
            sync_folder(os.path.dirname(self.path))
            self._synced = self._size
            return []
        try:
            self._check_header(content)
            end, writes = self._replay(memoryview(content))
        except ValueError as error:
            raise ValueError(f"{self.path!r}: {error}; the file was left as it is") from error
        if end < len(content):
            os.ftruncate(self._file, end)
            os.fsync(self._file)
        self._size = self._synced = end
        return writes

    def _header(self) -> bytes:
        return _HEADER.pack(MAGIC, VERSION, self.encoding.secret is not None, self.encoding.name.encode())

    def _check_header(self, content: bytes) -> None:
        if len(content) < _HEADER.size or content[: len(MAGIC)] != MAGIC:
            raise ValueError("this is not a journal of WriteBehind")
        _, version, is_signed, name = _HEADER.unpack_from(content)
        if version != VERSION:
            raise ValueError(f"it has the format {version}, but this release reads format {VERSION}")
        if content[: _HEADER.size] != self._header():
            kind = f"the serializer {name.rstrip(bytes(1)).decode(errors='replace')!r}"
            raise ValueError(f"it was written with {kind}, {'signed' if is_signed else 'not signed'}")

    def _replay(self, content: memoryview) -> tuple[int, list[tuple[int, Any, Any]]]:
        """The end of the last complete record, and the writes that the store may lack."""
        writes: dict[Any, dict[int, Any]] = {}  # by key, in the order of first writes, like the queue; then by number
        keys: dict[int, Any] = {}
        sizes: dict[int, int] = {}
        end = _HEADER.size
        for record in _records(content):
            end = record.end
            if record.kind in (_DONE, _TAKEN_BACK):
                for number in record.payload.cast("Q"):
                    if number in keys:
                        _remove(writes, keys[number], number, record.kind == _DONE)
                continue
            if record.number in sizes:
                raise ValueError(f"two of its records have the number {record.number}")
            key, *value = self._decode(bytes(record.payload), 2 if record.kind == _SET else 1)
            keys[record.number] = key
            writes.setdefault(key, {})[record.number] = value[0] if value else MISSING
            sizes[record.number] = record.end - record.at
            self.number = max(self.number, record.number)
        newest = [(key, *of_key.popitem()) for key, of_key in writes.items()]
        self._live = {number: sizes[number] for _, number, _ in newest}
        return end, [(number, key, value) for key, number, value in newest]

    def _decode(self, payload: bytes, n: int) -> list[Any]:
        if self.encoding.secret is not None:
            payload, signature = payload[:-SIGNATURE], payload[-SIGNATURE:]
            if not self.encoding.verifies(payload, signature):
                raise ValueError("it was signed with another secret")
        return self.encoding.loads(payload, n)

    # --- writing ------------------------------------------------------------------------------------------------------

    def encode(self, key: Any, value: Any) -> bytes:
        """The payload of a write. Raises TypeError if it cannot be encoded. Needs no lock."""
        payload = self.encoding.dumps(key) if value is MISSING else self.encoding.dumps(key, value)
        return payload + self.encoding.sign(payload) if self.encoding.secret is not None else payload

    def append(self, payload: bytes, deletes: bool) -> int:
        """Record an accepted write. Returns its number. Raises OSError if the disk is full; nothing has changed
        then."""
        if self.number >= _LAST_NUMBER:             # after a write per nanosecond for a century
            self.compact()
            self.number = 0
        number = self.number + 1
        while number in self._live:
            number += 1
        self.number = number                        # at once, because a finalizer may write in the middle of this
        record = _record(_DELETE if deletes else _SET, number, payload)
        self._live[number] = len(record)
        size = self._size
        try:
            self._write(record)
        except BaseException:
            if self._size > size:                   # it was interrupted when the file had the record
                self.take_back(number)
            self._live.pop(number, None)
            raise
        return number

    def take_back(self, number: int) -> None:
        """Record that a write is not accepted after all, so that it is not replayed."""
        self._live.pop(number, None)
        try:
            self._record_numbers(_TAKEN_BACK, [number])
        except OSError:
            self._untaken.append(number)

    def done(self, numbers: Sequence[int]) -> None:
        """Record that the store has these writes, and shrink the file if that is worth it.

        Raises OSError if the disk does not take the record. It is written with the next one; until then the writes may
        be replayed.
        """
        self._undone = [*self._undone, *numbers]
        for number in numbers:
            self._live.pop(number, None)
        if self._live or not self._empty():
            self._record_rest()

    def _record_rest(self) -> None:
        """Record what is not live any more."""
        untaken, undone = self._untaken, self._undone
        if untaken:
            self._record_numbers(_TAKEN_BACK, untaken)
            self._untaken = self._untaken[len(untaken) :]
        if undone:
            self._record_numbers(_DONE, undone)
            self._undone = self._undone[len(undone) :]

    def _empty(self) -> bool:
        """Cut off all records. Returns False if there is a live one by now."""
        with self._sync_lock:
            surplus, untaken = self._size - _HEADER.size, self._untaken
            if self._live:
                return False
            os.ftruncate(self._file, _HEADER.size)
            self._size -= surplus               # a finalizer may have added a record in between
            self._synced = _HEADER.size
            self._undone, self._untaken = [], self._untaken[len(untaken) :]
            if self.waits_for_disk:
                self._sync_now()                # else the next record might reach the disk before this
        return True

    def _record_numbers(self, kind: int, numbers: Sequence[int]) -> None:
        self._write(_record(kind, 0, b"".join([number.to_bytes(8, "little") for number in numbers])))

    def drop(self, numbers: Sequence[int]) -> None:
        """Forget writes that a later write of their key replaces."""
        for number in numbers:
            self._live.pop(number, None)

    def wants_compaction(self) -> bool:
        """Whether more than half of a large file is useless, or a sync has failed."""
        if os.name == "nt" or time.monotonic() < self._compact_after:   # Windows does not replace open files
            return False
        return self._is_doubtful or (self._size > COMPACT_AT and self._size > 2 * sum(list(self._live.values())))

    def compact(self) -> None:
        """Rewrite the file without what the store has, in one step. If it raises, nothing has changed."""
        self._compact_after = time.monotonic() + COMPACT_AGAIN
        copied = self._size
        content = bytearray(self._header())
        missing = set(self._live)
        for record in _records(memoryview(_content(self._file)[:copied])):
            if record.kind != _DONE and record.number in missing:
                content += _record(record.kind, record.number, record.payload)
                missing.remove(record.number)
        if missing:
            raise OSError(f"{self.path!r} has lost records")
        beside, written = create_sibling(self.path, os.O_RDWR | os.O_APPEND)
        try:
            lock_file(written)                  # before it has the name, so that it is locked at every moment
            _write_all(written, bytes(content))
            os.fsync(written)
            with self._sync_lock:
                while self._size > copied:      # a finalizer has added records in the middle of this
                    added = _content(self._file)[copied : self._size]
                    copied += len(added)
                    content += added
                    _write_all(written, added)
                    os.fsync(written)
                os.replace(beside, self.path)
                self._use(written, len(content), copied)
        except BaseException:
            if self._file != written:
                if _is_at(self.path, written):  # the interruption came right after the rename
                    with self._sync_lock:
                        self._use(written, len(content), copied)
                else:
                    os.close(written)
                    os.unlink(beside)
            raise
        self._compact_after = 0.0
        sync_folder(os.path.dirname(self.path))

    def _use(self, file: int, size: int, copied: int) -> None:
        """Switch to another file that is locked, has the name, and is on the disk. Needs `_sync_lock`.

        `copied`: up to which byte of this file the other one has it.
        """
        before, end = self._file, self._size
        self._file = file
        self._size = self._synced = size
        self._is_torn = self._is_doubtful = False
        self._undone, self._untaken = [], []
        try:
            if end > copied:                    # a finalizer has added records during the renaming
                self._write(_content(before)[copied:end])
        finally:
            os.close(before)

    def _write(self, record: bytes) -> None:
        if self._is_torn:
            os.ftruncate(self._file, self._size)
            self._is_torn = False
        self._writers += 1
        size = len(record)
        try:
            _write_all(self._file, record)
            self._size += size
        except BaseException:
            if self._writers == 1:              # half a record is harmless only at the end
                self._is_torn = True
                os.ftruncate(self._file, self._size)
                self._is_torn = False
            raise
        finally:
            self._writers -= 1

    # --- the disk -----------------------------------------------------------------------------------------------------

    def sync(self) -> None:
        """Wait until the disk has what was recorded so far. Raises OSError if it does not take it.

        After a failure, only a rewritten file is trusted, see `compact`.
        """
        wanted = self._size
        with self._sync_lock:
            if self._is_doubtful:
                raise OSError(f"{self.path!r} could not be brought to the disk, and was not rewritten yet")
            # otherwise `close` synced it, another thread did, or the file has shrunk
            if self._file >= 0 and self._synced < wanted <= self._size:
                self._sync_now()

    def _sync_now(self) -> None:
        """Sync the file. Needs `_sync_lock`."""
        reached = self._size
        try:
            os.fsync(self._file)
        except BaseException:
            self._is_doubtful = True
            raise
        self._synced = reached

    @property
    def is_doubtful(self) -> bool:
        """Whether a sync has failed, and the file was not rewritten since."""
        return self._is_doubtful

    def sync_soon(self) -> None:
        """Make sure that the disk has what was recorded so far within about a second."""
        if self._syncer is not None and self._syncer.runs():
            return
        with self._wake_lock:
            if self._file < 0 or (self._syncer is not None and self._syncer.runs()):
                return
            syncer = self._syncer = Thread("cachebox-journal", self._sync_later)
        try:
            syncer.start()
        except RuntimeError:                    # no thread can be started, or the process is ending
            self._syncer = None

    def _sync_later(self) -> None:
        """Sync once, in a thread of its own."""
        with self._wake_lock:
            self._wake.wait_for(lambda: self._file < 0, SYNC_EVERY)
            self._syncer = None                 # later records need another thread
        with self._sync_lock:
            file = os.dup(self._file) if self._file >= 0 else -1
        if file < 0:
            return
        try:
            os.fsync(file)                      # without a lock, because it may take a while
        except OSError as error:
            self._is_doubtful = True
            self._trouble.begin(error)
        else:
            self._trouble.end()
        finally:
            os.close(file)

    def close(self) -> None:
        """Close and unlock the file. What the store lacks stays in it."""
        with self._wake_lock, self._sync_lock:
            if self._file >= 0:
                with suppress(OSError):
                    self.done(())
                file, self._file = self._file, -1
                try:
                    os.fsync(file)
                except BaseException:
                    self._is_doubtful = True
                    raise
                finally:
                    try:
                        unlock_file(file)       # a thread may still sync a duplicate
                    finally:
                        os.close(file)
            self._wake.notify_all()

    def abandon(self) -> None:
        """After a fork, in the child: let go of the file, which is the parent's."""
        self._make_locks()
        self._syncer = None
        if self._file >= 0:
            os.close(self._file)                # the parent's lock stays
            self._file = -1

    def __del__(self) -> None:
        if getattr(self, "_file", -1) >= 0:
            os.close(self._file)


def _records(content: memoryview) -> Iterator[_Record]:
    """The complete records of a file; a torn last one is left out. Raises ValueError if the file is damaged."""
    at = _HEADER.size
    while at < len(content):
        if len(content) - at < _HEAD:
            return                                      # torn within its head
        size, kind, number = _START.unpack_from(content, at)
        head_check, check = _CHECKS.unpack_from(content, at + _START.size)
        if crc32(content[at : at + _START.size]) != head_check:
            if len(bytes(content[at:]).rstrip(b"\0")) < _HEAD:
                return                                  # torn: the disk has the space, but not its content
            raise ValueError(f"it is damaged at byte {at}")
        payload = content[at + _HEAD : at + _HEAD + size]
        end = at + _HEAD + size
        if len(payload) < size or (crc32(payload) != check and end == len(content)):
            return                                      # torn: it is the last one
        if crc32(payload) != check:
            raise ValueError(f"it is damaged at byte {at}")
        if kind in (_DONE, _TAKEN_BACK):
            fits = number == 0 and size % 8 == 0
        else:
            fits = kind in (_SET, _DELETE) and 0 < number <= _LAST_NUMBER
        if not fits:
            raise ValueError(f"it has a record that no journal has, at byte {at}")
        yield _Record(at, kind, number, payload, end)
        at = end


def _remove(writes: dict[Any, dict[int, Any]], key: Any, number: int, earlier: bool) -> None:
    """Remove one write of a key, and, if asked to, those before it."""
    of_key = writes.get(key, {})
    if number in of_key:
        numbers = list(of_key)
        for gone in numbers[: numbers.index(number) + 1] if earlier else [number]:
            del of_key[gone]
        if not of_key:
            del writes[key]


def _record(kind: int, number: int, payload: bytes | memoryview) -> bytes:
    start = _START.pack(len(payload), kind, number)
    return start + _CHECKS.pack(crc32(start), crc32(payload)) + payload


def _write_all(file: int, data: bytes) -> None:
    written = os.write(file, data)
    while written < len(data):
        written += os.write(file, data[written:])


def _open_locked(path: str) -> int:
    """Open or create a file for this process alone. Raises RuntimeError if another process has it."""
    how = os.O_RDWR | os.O_APPEND | getattr(os, "O_BINARY", 0) | getattr(os, "O_NOFOLLOW", 0)
    while True:
        try:
            file = os.open(path, how)
        except FileNotFoundError:
            try:
                file = os.open(path, how | os.O_CREAT | os.O_EXCL, 0o600)
            except FileExistsError:
                continue                        # another process was faster
        try:
            if not stat.S_ISREG(os.fstat(file).st_mode):
                raise ValueError(f"{path!r} is not a regular file: it cannot be a journal")
            if not lock_file(file):
                raise RuntimeError(f"{path!r} is open already: a journal serves one WriteBehind at a time")
            if _is_at(path, file):
                return file                     # else it was replaced after the opening: try again
        except BaseException:
            os.close(file)
            raise
        os.close(file)


def _content(file: int) -> bytes:
    os.lseek(file, 0, os.SEEK_SET)
    with open(os.dup(file), "rb") as duplicate:
        return duplicate.read()


def _is_at(path: str, file: int) -> bool:
    try:
        return os.path.samestat(os.lstat(path), os.fstat(file))
    except FileNotFoundError:
        return False
