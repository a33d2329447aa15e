"""An open folder: its page, its writer lock, this process's place.

A process that opens a folder which no other has open checks whether it can be believed. If not, it starts empty.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import secrets
import struct
import subprocess
import sys
import time
from typing import Any

from cachebox.distributed._embedded import processes
from cachebox.distributed._embedded.folder import Folder
from cachebox.distributed._embedded.page import SIZE, START, VERSION, Page, version_of, whole_frames
from cachebox.distributed._embedded.writer_lock import Busy, WriterLock

PATIENCE = 0.2                      # seconds to wait for the writer lock: without the lock, reading works all the same
ASKED_EVERY = 0.002                 # seconds between tries to get the lock while there is no page to wait on


def boot_id() -> bytes:
    """16 bytes that differ from one start of the machine to the next."""
    if sys.platform == "darwin":
        command = ["/usr/sbin/sysctl", "-n", "kern.bootsessionuuid"]
        text = subprocess.run(command, capture_output=True, check=True).stdout
    else:
        with open("/proc/sys/kernel/random/boot_id", "rb") as file:
            text = file.read()
    return bytes.fromhex(text.decode().strip().replace("-", ""))


class Opened:
    """What a handle has of its folder, for as long as the folder exists.

    Args:
        folder: the folder.
        deadline: monotonic time after which `Busy` is raised.
    """

    def __init__(self, folder: Folder, deadline: float) -> None:
        self.folder = folder
        self._fds: list[int] = []
        self.place: Any = None
        self.lock: Any = None
        self._is_counted = False
        try:
            for _ in range(100):                # one turn for each time that the folder was removed meanwhile
                if self._opens(deadline):
                    return
            raise Busy(f"{folder.path!r} is removed again and again")
        except BaseException:
            self.close()
            raise

    def _opens(self, deadline: float) -> bool:
        folder = self.folder
        try:
            folder.make()
            lock_fd = self._keep(folder.open("lock", os.O_CREAT))
            is_mine = _take(lock_fd, min(deadline, time.monotonic() + PATIENCE))
            if not self._is_there("lock", lock_fd):
                raise FileNotFoundError
            self.place = processes.enter(folder["processes"], folder.check)
            self.page, page_fd = self._open_page(is_mine)
            self.page_fd = self._keep(page_fd)
            self.lock = WriterLock(lock_fd, self.page)
            is_unused = self.place.opened == 0 and self.place.is_alone(self.page)
            if not is_mine and (is_unused or self.page.is_new):     # the owner of the lock looks it over
                raise Busy("another process is opening it")
            self.place.take(self.page)
            if is_mine and is_unused:
                self._look_over()
            self._is_counted = True
            processes.count(self.place, 1)
            if is_mine:
                _let_go(lock_fd)
            return True
        except FileNotFoundError:
            self.close()
            return False

    def _keep(self, fd: int) -> int:
        self._fds.append(fd)
        return fd

    def _is_there(self, name: str, fd: int) -> bool:
        """Whether an open file is still the one of that name."""
        return os.path.samestat(os.lstat(self.folder[name]), os.fstat(fd))

    @property
    def is_gone(self) -> bool:
        """Whether the folder was removed, or another one was put in its place."""
        return os.fstat(self.page_fd).st_nlink == 0

    def close(self) -> None:
        """Let go of everything except the mapping, which lives until the last value noted in it is gone.

        Threads that write just now do so to the end. Those that wait for the lock get `Retired`.
        """
        if self.lock is None:
            self._let_go()
        else:
            self.lock.retire(self._let_go)

    def _let_go(self) -> None:
        for fd in self._fds:
            with contextlib.suppress(OSError):
                os.close(fd)
        self._fds = []
        if self.place is not None:
            if self._is_counted:
                self._is_counted = False
                processes.count(self.place, -1)
            processes.leave(self.place)
            self.place = None

    def leave_to_parent(self) -> None:
        """After a fork, in the child: let go of what belongs to the parent."""
        self.place = None               # `processes` has closed its file in the child
        self._let_go()

    # --- the page -----------------------------------------------------------------------------------------------------

    def _open_page(self, may_make: bool) -> tuple[Page, int]:
        """The page and its descriptor; makes the file if need be, under the writer lock."""
        folder = self.folder
        if folder.check_path("page"):
            fd = folder.open("page")
            version = version_of(os.pread(fd, START, 0))
            if version == VERSION and os.fstat(fd).st_size == SIZE:
                return _map(fd), fd
            os.close(fd)
            if version not in (None, VERSION):
                raise ValueError(f"{folder.path!r} was written by another version of cachebox: name another folder")
        if not may_make:
            raise Busy("another process has kept the writer lock all the time")
        name = f"page-{secrets.token_hex(8)}"
        fd = folder.open(name, os.O_CREAT | os.O_EXCL)
        try:
            _fill(fd)
            page = _map(fd)
            page.begin(secrets.token_bytes(16), boot_id())
            os.rename(folder[name], folder["page"])
        except BaseException:
            os.close(fd)
            with contextlib.suppress(OSError):
                os.unlink(folder[name])
            raise
        return page, fd

    # --- no other process has it open ---------------------------------------------------------------------------------

    def _look_over(self) -> None:
        """Check what others left, who have closed the folder or died. Under the writer lock."""
        page, boot = self.page, boot_id()
        page.is_new = True
        if not page.clean:
            if page.lossy if page.boot != boot else not self._has_whole_log(page.data):
                page.data = 0           # the machine has crashed, or the log was cut
        if page.data and not self._has_whole_file(page.data):
            page.data = 0
        page.restart(keeps_buckets=page.clean)
        if page.boot != boot:
            page.boot = boot
        for name in self.folder.names():
            if (name.startswith("data-") and not name.startswith(data_name(page.data))) or name.startswith("page-"):
                with contextlib.suppress(OSError):
                    os.unlink(self.folder[name])
        page.is_new = False

    def _has_whole_file(self, data: int) -> bool:
        """Whether the file is as long as it says. SQLite reads zeros after its end, and would write among them."""
        name = self.folder[data_name(data)]
        with contextlib.suppress(FileNotFoundError):
            if os.stat(f"{name}-wal").st_size:
                return True             # pages may still be in the log
        try:
            with open(name, "rb") as file:
                head = file.read(32)
                size = os.fstat(file.fileno()).st_size
        except FileNotFoundError:
            return True                 # a read finds that
        page_size = int.from_bytes(head[16:18], "big")
        return size >= int.from_bytes(head[28:32], "big") * (page_size if page_size > 1 else 1 << 16)

    def _has_whole_log(self, data: int) -> bool:
        """Whether SQLite's log has everything that was ever written to it. SQLite believes a log that has lost its end.

        The log's length stands in the index that its writers shared.
        """
        name = data_name(data)
        try:
            with open(self.folder[f"{name}-shm"], "rb") as file:
                index = file.read(48 + 48)
        except FileNotFoundError:
            index = b""
        try:
            with open(self.folder[f"{name}-wal"], "rb") as file:
                log = file.read()
        except FileNotFoundError:
            log = b""
        if len(index) < 96:
            return not log
        if index[:48] != index[48:]:
            return False
        _, _, _, is_made, _, _, frames, _, *sums = struct.unpack("=IIIBBHII2I", index[:32])
        salts = index[32:40]
        if not is_made or not frames:
            return True
        _, found = whole_frames(log, frames)
        return found is not None and found == tuple(sums) and salts == log[16:24]


def data_name(data: int) -> str:
    """The name of the file with the entries."""
    return f"data-{data:016x}.sqlite"


def _fill(fd: int) -> None:
    """Give a file all its space now: a hole that cannot be filled later would end the process."""
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(fd, 0, SIZE)
    else:
        left: int = SIZE
        while left:
            left -= os.write(fd, bytes(min(left, 1 << 20)))


def _map(fd: int) -> Page:
    return Page(mmap.mmap(fd, SIZE))


def _take(fd: int, deadline: float) -> bool:
    """Take the writer lock. Returns False if another process kept it until the deadline."""
    import fcntl

    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if time.monotonic() >= deadline:
                return False
        time.sleep(ASKED_EVERY)


def _let_go(fd: int) -> None:
    import fcntl

    fcntl.flock(fd, fcntl.LOCK_UN)
