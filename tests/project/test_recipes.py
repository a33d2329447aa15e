"""The programs of the recipes, as files in an empty folder, run the way their pages say."""

from __future__ import annotations

import contextlib
import json
import os
import re
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from importlib.util import find_spec
from pathlib import Path

import pytest

RECIPES = Path(__file__).resolve().parents[2] / "docs" / "recipes"
FILE = re.compile(r"^```python\n# (\w+\.py)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
STARTS_IN = 60.0                        # seconds

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="there are no folders on Windows yet")


def unpack(page, folder):
    """Write the files of a recipe."""
    files = FILE.findall((RECIPES / f"{page}.md").read_text(encoding="utf-8"))
    assert files, page
    for name, text in files:
        (folder / name).write_text(text, encoding="utf-8")


def need(*modules):
    for module in modules:
        if find_spec(module) is None:
            pytest.skip(f"{module} is not installed: it is in the dependency group `frameworks` or `surroundings`")


def free_port():
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


@contextlib.contextmanager
def serving(command, folder, port, **environment):
    """A web server in a folder, once it answers."""
    env = {**os.environ, **environment}
    process = subprocess.Popen(command, cwd=folder, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + STARTS_IN
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1.0):
                break
            assert process.poll() is None and time.monotonic() < deadline, "the server does not start"
            time.sleep(0.05)
        yield
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def ask(port, path, method="GET"):
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", method=method)
    deadline = time.monotonic() + STARTS_IN
    while True:
        try:
            with urllib.request.urlopen(request, timeout=30) as response:
                return response.read().decode()
        except ConnectionError:         # its workers have not begun yet
            assert time.monotonic() < deadline
            time.sleep(0.05)


@pytest.mark.parametrize("tier", ["server", "folder"])
def test_fastapi(tier, request, tmp_path):
    need("fastapi", "uvicorn", "prometheus_client")
    if tier == "server":
        url = f"redis://127.0.0.1:{request.getfixturevalue('server').port}"
    else:
        url = (tmp_path / "cache").as_uri()
    unpack("fastapi", tmp_path)
    port = free_port()
    command = [sys.executable, "-m", "uvicorn", "app:app", "--workers", "2", "--port", str(port)]
    with serving(command, tmp_path, port, CACHE_URL=url):
        found = [json.loads(ask(port, "/prices/tea")) for _ in range(6)]
        assert found == [found[0]] * 6 and found[0]["price"] == 3
        assert json.loads(ask(port, "/prices/tea/5", "PUT")) == {"changed": "tea"}
        assert json.loads(ask(port, "/prices/tea"))["article"] == "tea"
        assert "cachebox_hits_total" in ask(port, "/metrics/")


def test_fastapi_responses(tmp_path):
    need("fastapi", "uvicorn")
    unpack("fastapi", tmp_path)
    port = free_port()
    with serving([sys.executable, "-m", "uvicorn", "responses:app", "--port", str(port)], tmp_path, port):
        assert [json.loads(ask(port, "/articles"))["calls"] for _ in range(3)] == [1, 1, 1]
        url = f"http://127.0.0.1:{port}/articles"
        with urllib.request.urlopen(url, timeout=30) as response:
            known = urllib.request.Request(url, headers={"If-None-Match": response.headers["ETag"]})
        with pytest.raises(urllib.error.HTTPError) as answer:
            urllib.request.urlopen(known, timeout=30)
        answer.value.close()
        assert answer.value.code == 304


def test_gunicorn(tmp_path):
    need("gunicorn")
    unpack("gunicorn", tmp_path)
    port = free_port()
    command = [sys.executable, "-m", "gunicorn", "--workers", "3", "--preload", "-b", f"127.0.0.1:{port}", "wsgi:app"]
    with serving(command, tmp_path, port):
        found = [json.loads(ask(port, "/report")) for _ in range(12)]
        assert len({each["computed_by"] for each in found}) == 1
        anew = json.loads(ask(port, "/report", "DELETE"))
        assert all(json.loads(ask(port, "/report"))["computed_by"] == anew["computed_by"] for _ in range(6))


def test_command_line(tmp_path):
    unpack("command_line", tmp_path)
    (tmp_path / "text").write_text("one two three")

    def tool(*arguments):
        env = {**os.environ, "XDG_CACHE_HOME": str(tmp_path / "home")}
        done = subprocess.run(
            [sys.executable, "tool.py", *arguments], cwd=tmp_path, env=env, capture_output=True, text=True, timeout=60
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout.split() == ["3", "text"]
        return done.stderr

    assert tool("text") == "reading text\n"
    assert tool("text") == ""
    assert tool("--clear", "text") == "reading text\n"
    (tmp_path / "text").write_text("three other  words")
    assert tool("text") == "reading text\n"
