"""Folders for tests of `file://`, and processes that use them."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

MEMORY = "/dev/shm" if os.path.isdir("/dev/shm") else None


@pytest.fixture
def root():
    """A place for a folder, in memory if there is such a place, because these tests open many."""
    path = tempfile.mkdtemp(prefix="cachebox-test-", dir=MEMORY)
    yield Path(path)
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture
def at(root):
    return {"url": f"file://{root}/cache", "timeout": 5.0, "on_unavailable": "raise"}


@pytest.fixture
def folder(root):
    """The folder of the files."""
    return root / "cache" / "cachebox"


def start(code: str, *arguments) -> subprocess.Popen:
    """A process that runs some code, with the cache `cache` at the place that the first argument names."""
    head = "import json, os, signal, sys, time\nfrom cachebox import DistributedCache\n"
    head += "cache = DistributedCache(**json.loads(sys.argv[1]))\n"
    command = [sys.executable, "-c", head + code, *map(str, arguments)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


@contextlib.contextmanager
def running(code: str, *arguments):
    """A process that runs some code, ended whatever happens; it has printed a line."""
    process = start(code, *arguments)
    try:
        assert process.stdout.readline() == "ready\n"
        yield process
    finally:
        process.send_signal(signal.SIGCONT)
        process.kill()
        process.communicate()


def data_file(folder: Path) -> Path:
    (found,) = folder.glob("data-*.sqlite")
    return found


def work(cache) -> None:
    """All is well again."""
    cache.set("new", 1)
    assert cache.get("new") == 1 and cache.increment("n") == 1 and cache.delete("n")
    cache.clear()
    assert cache.get("new") is None
