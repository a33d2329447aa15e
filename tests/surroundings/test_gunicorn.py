"""Workers of gunicorn that serve with gevent, under load, whether the program is loaded before the fork or after it."""

from __future__ import annotations

import concurrent.futures
import http.client
import socket
import subprocess
import sys
import textwrap
import time

import pytest

from in_threads import LIMIT

pytest.importorskip("gunicorn", reason="needs gunicorn, which is not installed")
pytest.importorskip("gevent", reason="needs gevent, which is not installed")

APP = """
    import os, time
    from cachebox import Cache, cached
    from cachebox.strategies import WriteThrough

    runs = {}

    def load(key):
        runs[key] = runs.get(key, 0) + 1
        time.sleep(0.05)
        return key * 2

    class Rows(dict):
        def load(self, key): return load(key)
        def save(self, key, value):
            time.sleep(0.01)
            self[key] = value

    slow = cached(max_size=100, ttl=60)(load)
    through = WriteThrough(Cache(), Rows())
    short = Cache(default_ttl=0.01, on_removal=lambda *left: None)
    short["a"] = 1

    def app(environ, start_response):
        kind, key = environ["PATH_INFO"].strip("/").split("/")
        if kind == "write":
            through.set(key, key)
        short[key] = key
        value = slow(key) if kind == "function" else through.get(key)
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [f"{os.getpid()} {runs.get(key, 0)} {value}".encode()]
"""


@pytest.mark.parametrize("options", [[], ["--preload"]], ids=["", "preload"])
def test_a_gevent_worker_under_load(tmp_path, options):
    (tmp_path / "served.py").write_text(textwrap.dedent(APP))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "gunicorn", "-k", "gevent", "-w", "2", "-b", f"127.0.0.1:{port}"]
    command += [*options, "served:app"]
    with open(tmp_path / "log", "wb") as log, subprocess.Popen(command, cwd=tmp_path, stdout=log, stderr=log) as server:
        try:
            results = ask_all(port, server)
        except BaseException:
            print((tmp_path / "log").read_text())
            raise
        finally:
            server.terminate()
            server.wait(LIMIT)
    assert {value for _, _, value in results} == {f"{key}{key}" for key in range(4)} | {f"w{key}" for key in range(4)}
    assert {runs for pid, runs, value in results if not value.startswith("w")} == {"1"}, "each worker loads a key once"
    assert "Segmentation" not in (tmp_path / "log").read_text()


def ask_all(port, server):
    """Ask for few keys many times, by many at once."""
    deadline = time.monotonic() + LIMIT
    while True:
        try:
            ask(port, "function/0")
            break
        except OSError:
            assert server.poll() is None and time.monotonic() < deadline, "it does not serve"
            time.sleep(0.05)
    paths = [f"{kind}/{'w' * (kind == 'write')}{key}" for kind in ("function", "write") for key in range(4)] * 25
    with concurrent.futures.ThreadPoolExecutor(32) as pool:
        return list(pool.map(lambda path: ask(port, path), paths))


def ask(port, path):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=LIMIT)
    try:
        connection.request("GET", f"/{path}")
        reply = connection.getresponse()
        assert reply.status == 200
        return reply.read().decode().split()
    finally:
        connection.close()
