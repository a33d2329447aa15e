"""``python -m cachebox stats``: what it says of a folder."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
import time

import pytest

from cachebox import DistributedCache
from cachebox.cli import main

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="there are no folders on Windows yet")


def test_it_tells_of_every_namespace(tmp_path, capsys):
    at = {"url": f"file://{tmp_path}/cache"}
    with DistributedCache(**at, namespace="a/b") as first, DistributedCache(**at) as second:
        first.set_many({f"k{i}": i for i in range(1500)})
        first.set("ends", 1, ttl=1000, tags=["t", "u"])
        second.set("x", 1)
        second.set("y", 1, ttl=0.001)
        assert main.main(["stats", str(tmp_path / "cache"), "--json"]) == 0
        told = json.loads(capsys.readouterr().out)
        one, two = sorted(told["namespaces"], key=lambda each: each["namespace"])
        assert (one["namespace"], two["namespace"]) == ("a/b", "cachebox")
        assert (one["entries"], one["dead"], one["without_end"], one["tags"]) == (1501, 0, 1500, 2)
        assert (two["entries"], two["dead"], two["tags"], two["leases"]) == (1, 1, 0, 0)
        assert 0 <= one["oldest"] < 100 and 0 <= two["oldest"] < 100
        assert one["bytes"] == first.size > 2_000_000
        assert first.get("k7") == 7 and second.get("x") == 1
    assert main.main(["stats", str(tmp_path / "cache")]) == 0
    head, line, _ = capsys.readouterr().out.splitlines()
    assert head.split()[:3] == ["namespace", "bytes", "entries"]
    assert line.split()[0] == "a/b" and "1,501" in line


def test_it_tells_how_old_the_oldest_entry_is(tmp_path, capsys, monkeypatch):
    def oldest():
        assert main.main(["stats", str(tmp_path / "cache"), "--json"]) == 0
        return json.loads(capsys.readouterr().out)["namespaces"][0]["oldest"]

    real = time.time
    with DistributedCache(url=f"file://{tmp_path}/cache") as cache:
        monkeypatch.setattr(time, "time", lambda: real() - 7200)
        cache.set_many({"a": 1, "b": 2})
        monkeypatch.undo()
        cache.set("c", 3)
        assert 7199 < oldest() < 7300
        assert main.main(["stats", str(tmp_path / "cache")]) == 0
        assert "  2 h  " in capsys.readouterr().out
        cache.delete("a")
        cache.set("b", 2)
        assert oldest() < 100
        cache.clear()
        assert oldest() is None
    assert main.main(["stats", str(tmp_path / "cache")]) == 0
    assert "  -  " in capsys.readouterr().out


def test_hits_and_misses_are_those_of_all_processes_so_far(tmp_path, capsys):
    """Each process adds what it has counted: once, whether it closes the cache, drops it, or forks."""
    code = """
        import os, sys
        from cachebox import DistributedCache
        cache = DistributedCache(url=sys.argv[1])
        cache.set_many({f"k{i}": i for i in range(10)})
        for _ in range(3):
            cache.get("k1"), cache.get("absent"), cache.get_many(["k2", "k3", "none"])
        if sys.argv[2] == "fork":
            child = os.fork()
            cache.get("k1"), cache.get("k4")
            cache.close()
            if child:
                os.waitpid(child, 0)
        elif sys.argv[2] == "close":
            cache.close()
    """
    url = f"file://{tmp_path}/cache"

    def totals():
        assert main.main(["stats", str(tmp_path / "cache"), "--json"]) == 0
        (told,) = json.loads(capsys.readouterr().out)["namespaces"]
        return told["local_hits"], told["remote_hits"], told["misses"]

    local, remote, misses = 0, 0, 0
    for way, more in (("close", (6, 3, 6)), ("drop", (6, 3, 6)), ("fork", (7, 6, 6)), ("close", (6, 3, 6))):
        subprocess.run([sys.executable, "-c", textwrap.dedent(code), url, way], check=True, timeout=60)
        local, remote, misses = local + more[0], remote + more[1], misses + more[2]
        assert totals() == (local, remote, misses), way
    with DistributedCache(url=url) as cache:
        for _ in range(5):
            cache.get("k1")
        counted = cache.stats.local_hits, cache.stats.remote_hits, cache.stats.misses
        cache.stats.reset()
    assert totals() == (local + counted[0], remote + counted[1], misses + counted[2])


@pytest.mark.parametrize("made", [False, True])
def test_where_there_is_none_it_says_so(tmp_path, capsys, made):
    if made:
        (tmp_path / "cache").mkdir()
    assert main.main(["stats", str(tmp_path / "cache")]) == 1
    assert "cachebox: error: " in capsys.readouterr().err
