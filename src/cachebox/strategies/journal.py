"""The journal of a `WriteBehind`: what was accepted, in a file, until the store has it.

    header:  magic (16 bytes)   version   signed?   serializer                                    (32 bytes)
    record:  size   kind   number   checksum of these three   checksum of what follows   payload

A record says that a write was accepted (its payload: key and value), or that a key is to be deleted (the key), or which
writes the store has by now (their numbers). Records are only ever added at the end. Two checksums tell the two ways in
which a file may be wrong apart: a record that was being written when the process or the machine died is the last one
and incomplete, and is dropped; anything else that does not check is damage, and the file is refused as a whole,
unchanged.

Durability. A record is given to the operating system before `set` returns: so it survives the end of the process, by
``kill -9`` too. At the level ``"power"``, `set` returns when the disk has it: it survives a loss of power. At the
default level, ``"process"``, the disk has it within about a second (`SYNC_EVERY`), so a loss of power may cost the last
second.

Space. When the store has everything, the file shrinks to its header. If that never happens, it is rewritten without
what the store has once it has grown to `COMPACT_AT` and more than half of it is that.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterable, Sequence
from struct import Struct
from typing import Any
from zlib import crc32

from cachebox.cache import MISSING
from cachebox.dumps import sync_folder
from cachebox.encoding import SIGNATURE, Encoding
from cachebox.strategies.file_lock import lock_file
from cachebox.threads import Thread

MAGIC = b"\x93CacheBox\r\njrnl\x1a"
VERSION = 1
SYNC_EVERY = 1.0
"""Seconds after which the disk has a record, at the level ``"process"``."""
COMPACT_AT = 4 << 20
"""Bytes of a file that is worth rewriting."""

_HEADER = Struct("<16sH?13s")
_START = Struct("<IBQ")
_CHECKS = Struct("<II")
_HEAD = _START.size + _CHECKS.size
_SET, _DELETE, _DONE = 1, 2, 3


class Journal:
    """An open journal. Its owner calls `append` and `done` one at a time; `sync` may be called by any thread.

    Args:
        path: the file, which is made if there is none.
        encoding: how keys and values are written.
        durability: ``"process"`` or ``"power"``.

    Raises ValueError, which names the file, where it is no journal, or damaged, or written with another serializer; and
    RuntimeError where another process, or another `WriteBehind`, has it open. The file stays as it was then.

    `replayed` holds the writes that the store may lack, in their order: number, key, and value or MISSING.
    """

    def __init__(self, path: str | os.PathLike[str], encoding: Encoding, durability: str) -> None:
        self.path = os.fspath(path)
        self.encoding = encoding
        self.durability = durability
        self.dropped_bytes = 0
        """Of a torn last record, when the file was opened."""
        self._sync_turn = threading.RLock()     # re-entrant: a signal handler or a finalizer may write
        self._wake = threading.Condition()
        self._syncer: Thread | None = None
        self._broken: OSError | None = None
        self._file = _open_locked(self.path)
        try:
            self.replayed = self._read()
        except BaseException:
            os.close(self._file)
            self._file = -1
            raise
        self._live = {number: self._size_of(key, value) for number, key, value in self.replayed}

    # --- reading ----------------------------------------------------------------------------------------------------

    def _read(self) -> list[tuple[int, Any, Any]]:
        """Read the whole file, drop a torn last record, and write the header of a new file."""
        content = b""
        with open(self.path, "rb") as file:
            content = file.read()
        self.number = 0
        self._size = 0
        if not content or (len(content) < _HEADER.size and self._header().startswith(content)):
            os.ftruncate(self._file, 0)
            self._write(self._header())
            os.fsync(self._file)
            sync_folder(os.path.dirname(os.path.abspath(self.path)))
            self._synced = self._size
            return []
        try:
            self._check_header(content)
            end, writes = self._records(content)
        except ValueError as error:
            raise ValueError(f"{self.path!r}: {error}; the file was left as it is") from error
        if end < len(content):
            self.dropped_bytes = len(content) - end
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

    def _records(self, content: bytes) -> tuple[int, list[tuple[int, Any, Any]]]:
        """Where the last whole record ends, and the writes that were not done."""
        last: dict[Any, tuple[int, Any, Any]] = {}      # by key; in the order of first writes, as the queue has it
        keys: dict[int, Any] = {}
        at = _HEADER.size
        while at < len(content):
            if len(content) - at < _HEAD:
                break                                   # torn within its head
            size, kind, number = _START.unpack_from(content, at)
            head_check, check = _CHECKS.unpack_from(content, at + _START.size)
            if crc32(content[at : at + _START.size]) != head_check:
                if len(content[at:].rstrip(b"\0")) < _HEAD:
                    break                               # torn: the disk has the space, but not what was to stand there
                raise ValueError(f"it is damaged at byte {at}")
            payload = content[at + _HEAD : at + _HEAD + size]
            end = at + _HEAD + size
            if len(payload) < size or (crc32(payload) != check and end == len(content)):
                break                                   # torn: it is the last one
            if crc32(payload) != check:
                raise ValueError(f"it is damaged at byte {at}")
            if kind == _DONE:
                for done in memoryview(payload).cast("Q"):
                    if done in keys:
                        key = keys.pop(done)
                        if key in last and last[key][0] == done:
                            del last[key]
            elif kind in (_SET, _DELETE):
                key, *value = self._decode(payload, 2 if kind == _SET else 1)
                keys[number] = key
                last[key] = (number, key, value[0] if value else MISSING)
                self.number = max(self.number, number)
            else:
                raise ValueError(f"it has a record of an unknown kind at byte {at}")
            at = end
        return at, list(last.values())

    def _decode(self, payload: bytes, n: int) -> list[Any]:
        if self.encoding.secret is not None:
            payload, signature = payload[:-SIGNATURE], payload[-SIGNATURE:]
            if not self.encoding.verifies(payload, signature):
                raise ValueError("it was signed with another secret")
        return self.encoding.loads(payload, n)

    # --- writing ------------------------------------------------------------------------------------------------------

    def encode(self, key: Any, value: Any) -> bytes:
        """The payload of a write; TypeError where it cannot be written down. Needs no lock."""
        payload = self.encoding.dumps(key) if value is MISSING else self.encoding.dumps(key, value)
        return payload + self.encoding.sign(payload) if self.encoding.secret is not None else payload

    def append(self, payload: bytes, deletes: bool) -> int:
        """Record that a write was accepted. Returns its number. OSError where the disk is full: nothing has changed."""
        self.number = number = self.number + 1      # first: a finalizer may write in the middle of this
        self._write(_record(_DELETE if deletes else _SET, number, payload))
        self._live[number] = _HEAD + len(payload)
        return number

    def done(self, numbers: Sequence[int]) -> None:
        """Record that the store has these writes, and shrink the file if that is worth it."""
        for number in numbers:
            self._live.pop(number, None)
        if not self._live:
            with self._sync_turn:
                os.ftruncate(self._file, _HEADER.size)
                self._size = self._synced = _HEADER.size
                if self.durability == "power":
                    os.fsync(self._file)        # else what comes next might reach the disk first
            return
        self._write(_record(_DONE, 0, b"".join(number.to_bytes(8, "little") for number in numbers)))

    def drop(self, number: int) -> None:
        """A write was replaced by a later one of its key, which stands for both."""
        self._live.pop(number, None)

    def wants_compaction(self) -> bool:
        """Whether more than half of a large file is of no use any more."""
        return self._size > COMPACT_AT and self._size > 2 * sum(self._live.values()) and os.name != "nt"

    def compact(self, writes: Iterable[tuple[int, Any, Any]]) -> None:
        """Rewrite the file with just these writes, in one step."""
        beside = f"{self.path}.{os.getpid()}.tmp"
        content = bytearray(self._header())
        self._live = {}
        for number, key, value in writes:
            payload = self.encode(key, value)
            content += _record(_DELETE if value is MISSING else _SET, number, payload)
            self._live[number] = _HEAD + len(payload)
        written = os.open(beside, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND, 0o600)
        try:
            lock_file(written)                  # before it has the name: there is no moment without a lock
            _write_all(written, bytes(content))
            os.fsync(written)
            os.replace(beside, self.path)
        except BaseException:
            os.close(written)
            os.unlink(beside)
            raise
        with self._sync_turn:
            os.close(self._file)
            self._file = written
            self._size = self._synced = len(content)
        sync_folder(os.path.dirname(os.path.abspath(self.path)))

    def _write(self, record: bytes) -> None:
        if self._broken is not None:
            raise OSError(f"{self.path!r} cannot be written any more") from self._broken
        try:
            _write_all(self._file, record)
        except OSError as error:
            try:
                os.ftruncate(self._file, self._size)    # a half record is as good as none only at the end
            except OSError:
                self._broken = error
            raise
        self._size += len(record)

    # --- the disk -----------------------------------------------------------------------------------------------------

    def sync(self) -> None:
        """Return when the disk has what was recorded so far. At the level ``"process"``, see that it soon will."""
        if self.durability != "power":
            if self._syncer is None:
                self._start_syncer()
            return
        wanted = self._size
        with self._sync_turn:
            if self._synced < wanted <= self._size:     # else another thread's call did it, or the file has shrunk
                reached = self._size
                os.fsync(self._file)
                self._synced = reached

    def _start_syncer(self) -> None:
        """Have a thread sync now and then, as long as there is something to sync."""
        with self._wake:
            if self._syncer is None and self._file >= 0:
                self._syncer = Thread("cachebox-journal", self._sync_soon)
                try:
                    self._syncer.start()
                except RuntimeError:            # no thread to be had, or the process is ending
                    self._syncer = None

    def _sync_soon(self) -> None:
        with self._wake:
            self._wake.wait_for(lambda: self._file < 0, SYNC_EVERY)
            self._syncer = None                 # what comes from now on needs another
        with self._sync_turn:
            file = os.dup(self._file) if self._file >= 0 else -1
        if file >= 0:
            try:
                os.fsync(file)                  # without a lock: it may take a while
            finally:
                os.close(file)

    def close(self) -> None:
        """Close the file and let others have it. What the store lacks stays in it."""
        with self._wake, self._sync_turn:
            if self._file >= 0:
                try:
                    os.fsync(self._file)
                finally:
                    os.close(self._file)
                    self._file = -1
            self._wake.notify_all()

    def abandon(self) -> None:
        """In a process that was forked: the file is the parent's."""
        self._sync_turn = threading.RLock()
        self._wake = threading.Condition()
        self._syncer = None
        if self._file >= 0:
            os.close(self._file)                # the parent's lock stays
            self._file = -1

    def _size_of(self, key: Any, value: Any) -> int:
        return _HEAD + len(self.encode(key, value))

    def __del__(self) -> None:
        if getattr(self, "_file", -1) >= 0:
            os.close(self._file)


def _record(kind: int, number: int, payload: bytes) -> bytes:
    start = _START.pack(len(payload), kind, number)
    return start + _CHECKS.pack(crc32(start), crc32(payload)) + payload


def _write_all(file: int, data: bytes) -> None:
    written = os.write(file, data)
    while written < len(data):
        written += os.write(file, data[written:])


def _open_locked(path: str) -> int:
    """Open a file for nobody else; RuntimeError where somebody else has it."""
    while True:
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | getattr(os, "O_BINARY", 0), 0o600)
        try:
            if not lock_file(file):
                raise RuntimeError(f"{path!r} is open already: a journal serves one WriteBehind at a time")
            if _is_at(path, file):
                return file                     # else it was replaced after we opened it: look again
        except BaseException:
            os.close(file)
            raise
        os.close(file)
        time.sleep(0)


def _is_at(path: str, file: int) -> bool:
    try:
        return os.path.samestat(os.stat(path), os.fstat(file))
    except FileNotFoundError:
        return False
