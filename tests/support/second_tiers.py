"""A folder in the place of a server, so that one test serves both.

A module whose tests concern both says so (``SECOND_TIERS = BOTH``), and passes the address as ``**server.at``. A test
that needs more of its server (a client, its port, stalling) concerns servers only: with a folder it is skipped.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
import time

import pytest

BOTH = ("server", "folder") if sys.platform != "win32" else ("server",)


class Folder:
    """A second tier without a server."""

    def __init__(self):
        self.root = tempfile.mkdtemp(prefix="cachebox-test-")
        self.at = {"url": f"file://{self.root}"}

    def __getattr__(self, name):
        if name.startswith("_"):
            raise AttributeError(name)
        pytest.skip(f"this is about servers: a folder has no {name}")

    def set_left(self, key: str, milliseconds: int) -> None:
        """Set an entry's remaining time to live."""
        from cachebox import DistributedCache
        from cachebox.distributed._embedded.operations import Transaction

        def run(execute, page):
            change = Transaction(execute, page, store.now_ms())
            envelope, _ = change.find(name)
            change.put(name, envelope, change.now + milliseconds)

        name = key.encode()
        with DistributedCache(**self.at) as cache:
            store = cache._core.topology.store
            store.write([name], run, time.monotonic() + 10)

    def close(self) -> None:
        shutil.rmtree(self.root, ignore_errors=True)
