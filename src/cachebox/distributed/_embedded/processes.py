"""Which of the processes that use a folder live.

Each process has a *place*: a byte of a file that the process keeps locked as long as it lives. The lock belongs to the
process alone, not to its forks. So the kernel knows which processes have died, however they died, across containers,
and even if a later process gets the same number. Closing any descriptor of the file would drop the lock, so a process
has one descriptor for all its handles of the folder.
"""

from __future__ import annotations

import contextlib
import os
import struct
import sys
from typing import Any

from cachebox._platform.section import Section
from cachebox.distributed._embedded.page import PROCESSES, Page

if sys.platform != "win32":
    import fcntl

_known: dict[tuple[int, int], Place] = {}
_lock = Section()


class Place:
    """The place of this process in one folder."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self.users = 0                  # handles that have the file open
        self.opened = 0                 # those of them that have opened the folder
        self.number = -1                # -1: all places were taken
        self.incarnation = 0

    def lives(self, number: int, incarnation: int, page: Page) -> bool:
        """Whether the process that took the place `number` as `incarnation` is alive."""
        if (number, incarnation) == (self.number, self.incarnation):
            return True
        if not 0 <= number < PROCESSES or page.incarnation(number) != incarnation:
            return False
        return number != self.number and _is_locked(self.fd, number)

    def is_alone(self, page: Page) -> bool:
        """Whether no other process uses the folder."""
        return self.others(page) == 0

    def others(self, page: Page) -> int:
        """How many other processes use the folder."""
        return sum(
            number != self.number and page.incarnation(number) != 0 and _is_locked(self.fd, number)
            for number in range(PROCESSES)
        )

    def take(self, page: Page) -> None:
        """Take a free place, unless it has one. Under the writer lock."""
        for number in range(PROCESSES) if self.number < 0 else ():
            with contextlib.suppress(OSError):  # another process has it
                fcntl.lockf(self.fd, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, number)
                self.number = number
                break
        if self.number >= 0:
            self.incarnation = self.incarnation or int.from_bytes(os.urandom(7), "little") | 1
            page.occupy(self.number, self.incarnation)


def enter(path: str, check: Any) -> Place:
    """This process's place in a folder, by the path of the file; `check` is called with a new descriptor of it.

    Every call needs one call of `leave`.
    """
    with _lock:
        found = os.lstat(path) if os.path.lexists(path) else None
        place = _known.get((found.st_dev, found.st_ino)) if found is not None else None
        if place is None:
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | getattr(os, "O_NOFOLLOW", 0), 0o600)
            try:
                check(fd)
            except BaseException:
                os.close(fd)
                raise
            found = os.fstat(fd)
            place = _known[found.st_dev, found.st_ino] = Place(fd)
        place.users += 1
        return place


def leave(place: Place) -> None:
    """Give up one use of the place."""
    with _lock:
        place.users -= 1
        if place.users == 0:
            for name in [name for name, other in _known.items() if other is place]:
                del _known[name]
            os.close(place.fd)


def count(place: Place, n: int) -> None:
    """Count handles that have opened the folder, or closed it."""
    with _lock:
        place.opened += n


def is_used(path: str) -> bool:
    """Whether some process has a place in a folder, by the path of the file."""
    with _lock:
        found = os.stat(path)
        if (found.st_dev, found.st_ino) in _known:
            return True
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        try:
            return _is_locked(fd, 0, 0)
        finally:
            os.close(fd)


# struct flock, and the index of its field for the kind of lock
_FORMAT, _KIND_AT = ("=qqihh", 3) if sys.platform == "darwin" else ("hhqqi4x", 0)


def _is_locked(fd: int, number: int, length: int = 1) -> bool:
    """Whether another process has locked one of `length` bytes from `number` on; 0: of all that follow."""
    kind, whence, start, pid = fcntl.F_WRLCK, os.SEEK_SET, number, 0
    asked = (start, length, pid, kind, whence) if _KIND_AT else (kind, whence, start, length, pid)
    found = fcntl.fcntl(fd, fcntl.F_GETLK, struct.pack(_FORMAT, *asked))
    return bool(struct.unpack(_FORMAT, found)[_KIND_AT] != fcntl.F_UNLCK)


def _forget_all() -> None:
    """After a fork, in the child: it has no place yet. The descriptors that it inherited lock nothing."""
    global _lock
    _lock = Section()
    for place in list(_known.values()):
        with contextlib.suppress(OSError):
            os.close(place.fd)
    _known.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_all)
