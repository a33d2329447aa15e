"""``python -m cachebox stats``: what it says of a folder."""

from __future__ import annotations

import json
import sys

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
        assert one["bytes"] == first.size > 2_000_000
        assert first.get("k7") == 7 and second.get("x") == 1
    assert main.main(["stats", str(tmp_path / "cache")]) == 0
    head, line, _ = capsys.readouterr().out.splitlines()
    assert head.split()[:3] == ["namespace", "bytes", "entries"]
    assert line.split()[0] == "a/b" and "1,501" in line


@pytest.mark.parametrize("made", [False, True])
def test_where_there_is_none_it_says_so(tmp_path, capsys, made):
    if made:
        (tmp_path / "cache").mkdir()
    assert main.main(["stats", str(tmp_path / "cache")]) == 1
    assert "cachebox: error: " in capsys.readouterr().err
