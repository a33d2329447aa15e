"""Folders of ``memory://``: each belongs to one cache, lies in memory if the system has files there, and goes with it.

What a killed process leaves is removed by the next process that makes such a folder.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
import tempfile
import time

from cachebox.distributed._embedded import processes
from cachebox.distributed._embedded.folder import Folder

IN_MEMORY = "/dev/shm"
YOUNG = 60.0                        # seconds for which a folder may have no living process, because it is being made


class PrivateFolder(Folder):
    """A folder that is removed with the last process that uses it."""

    is_private = True

    def __repr__(self) -> str:
        return "memory://"

    def remove(self) -> None:
        """Remove the folder with everything in it."""
        shutil.rmtree(self.root, ignore_errors=True)


def private_folder(url: str, namespace: str) -> PrivateFolder:
    """A new folder. Raises ValueError for any URL other than ``memory://``."""
    if url.lower() != "memory://":
        raise ValueError(f"url must be 'memory://' alone, because each cache has its own folder, not {url!r}")
    has_memory = os.path.isdir(IN_MEMORY) and os.access(IN_MEMORY, os.W_OK | os.X_OK)
    above = IN_MEMORY if has_memory else tempfile.gettempdir()
    prefix = f"cachebox-{os.geteuid()}-"
    _sweep(above, prefix)
    return PrivateFolder(os.path.realpath(tempfile.mkdtemp(prefix=prefix, dir=above)), namespace)


def _sweep(above: str, prefix: str) -> None:
    """Remove the folders that no process uses any more."""
    for path in [os.path.join(above, name) for name in os.listdir(above) if name.startswith(prefix)]:
        with contextlib.suppress(OSError):
            found = os.lstat(path)
            is_ours = found.st_uid == os.geteuid() and stat.S_ISDIR(found.st_mode)
            if not is_ours or time.time() - found.st_mtime < YOUNG:
                continue
            if not any(_is_used(os.path.join(path, name)) for name in os.listdir(path)):
                shutil.rmtree(path, ignore_errors=True)


def _is_used(path: str) -> bool:
    try:
        return processes.is_used(os.path.join(path, "processes"))
    except FileNotFoundError:               # its process was killed while making it
        return False
