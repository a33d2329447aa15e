"""``python -m cachebox doctor``: what it says of this place, and of second tiers that work and that do not."""

from __future__ import annotations

import json
import socket
import sys

import pytest

from cachebox.cli import doctor, main

on_posix = pytest.mark.skipif(sys.platform == "win32", reason="there are no folders on Windows yet")


@pytest.fixture
def examined(capsys):
    def examine(*urls, status=0):
        assert main.main(["doctor", "--json", *urls]) == status
        document = json.loads(capsys.readouterr().out)
        assert document["version"] == 1 and document["healthy"] is (status == 0)
        return {finding["about"]: finding for finding in document["findings"]}

    return examine


@on_posix
def test_here_all_is_well(examined):
    found = examined()
    assert {"python", "gil", "package", "folder", "build", "extras", doctor.LOCAL_SERVER} <= set(found)
    assert sys.version.split()[0] in found["python"]["text"]
    assert "Cython 3." in found["build"]["text"]
    (folder,) = (finding for about, finding in found.items() if about.startswith("file://"))
    assert folder["state"] == "good" and "can share" in folder["text"]


@on_posix
def test_a_folder_leaves_nothing_behind(examined, tmp_path):
    (tmp_path / "there").mkdir(mode=0o700)
    for path in (tmp_path / "there", tmp_path / "new" / "deep"):
        url = path.as_uri()
        assert examined(url)[url]["state"] == "good"
    assert [path.name for path in tmp_path.rglob("*")] == ["there"]


@on_posix
def test_a_folder_that_others_may_change_is_bad(examined, tmp_path):
    tmp_path.chmod(0o777)
    found = examined(tmp_path.as_uri(), status=1)[tmp_path.as_uri()]
    assert found["state"] == "bad" and "chmod go-w" in found["text"]


def test_a_server(examined, server):
    found = examined(f"redis://127.0.0.1:{server.port}")[f"redis://127.0.0.1:{server.port}"]
    assert found["state"] == "good" and "changes are heard of: up" in found["text"]


def test_no_server_is_bad_only_where_it_was_asked_for(examined, monkeypatch):
    pytest.importorskip("redis", reason="redis-py is not installed: it is in the extra `test`")
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))           # no program listens there
        url = f"redis://127.0.0.1:{nobody.getsockname()[1]}"
        assert examined(url, status=1)[url]["state"] == "bad"
        monkeypatch.setattr(doctor, "LOCAL_SERVER", url)
        assert doctor.about_second_tier(url, doctor.NOTE).state == "note"


@pytest.mark.parametrize(
    "url, shown",
    [
        ("redis://user:secret@host:1/2?password=x", "redis://user:***@host:1/2"),
        ("redis://:secret@host", "redis://***@host"),
        ("rediss://secret@host", "rediss://***@host"),
        ("redis://a:b@c@host", "redis://a:***@host"),
        ("file:///var/cache/a", "file:///var/cache/a"),
    ],
)
def test_no_password_is_shown(url, shown):
    assert doctor.without_password(url) == shown


@on_posix
@pytest.mark.parametrize("width", [40, 80, 120])
def test_the_text_fits_the_screen(width, monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("COLUMNS", str(width))
    assert main.main(["doctor", (tmp_path / "cache").as_uri()]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert any("can share" in line or "processes" in line for line in lines)
    unbreakable = max(len(word) for line in lines for word in line.split())
    assert max(map(len, lines)) <= max(width, unbreakable + 20)
