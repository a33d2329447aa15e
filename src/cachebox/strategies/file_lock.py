"""A lock on an open file that other processes see, and that ends with the process, however it ends."""

from __future__ import annotations

import os
import sys

if sys.platform == "win32":
    import msvcrt

    _AT = 1 << 40
    """The offset of the locked byte: behind everything, because others cannot read a locked byte."""

    def lock_file(file: int) -> bool:
        """Lock an open file. Returns False if another process has it."""
        os.lseek(file, _AT, os.SEEK_SET)
        try:
            msvcrt.locking(file, msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        return True

    def unlock_file(file: int) -> None:
        """Unlock an open file that is locked, for its duplicates, too."""
        os.lseek(file, _AT, os.SEEK_SET)
        msvcrt.locking(file, msvcrt.LK_UNLCK, 1)

else:
    import fcntl

    def lock_file(file: int) -> bool:
        """Lock an open file. Returns False if another process has it."""
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def unlock_file(file: int) -> None:
        """Unlock an open file that is locked, for its duplicates, too."""
        fcntl.flock(file, fcntl.LOCK_UN)
