"""The contents of a folder, for ``python -m cachebox stats``."""

from __future__ import annotations

import os
import time
from typing import Any
from urllib.parse import unquote

from cachebox.distributed._embedded.database import GENERATION, number
from cachebox.distributed._embedded.folder import Folder
from cachebox.distributed._embedded.room import LEAST
from cachebox.distributed._embedded.store import Execute, Store

TOTALS = ("local_hits", "remote_hits", "misses")
NO_ENTRIES = 0, 0, 0, 0, 0, None
PATIENCE = 1.0                      # seconds to wait for a folder that another process is opening


def survey(root: str) -> list[dict[str, Any]]:
    """What each namespace of a directory holds, sorted by name. Raises OSError and ValueError. O(entries).

    `oldest` is for how many seconds the oldest live entry has been there; None if there is none. Entries that have
    expired or were cleared, but are still on the disk, count as `dead`. Hits and misses are those of
    all processes since the folder was created. A process adds its hits in the first tier when it asks the folder, and
    at its end. Nothing is changed.
    """
    found = []
    for name in sorted(os.listdir(root)):
        if os.path.isfile(os.path.join(root, name, "page")):
            found.append(_look_at(Folder(root, unquote(name, errors="surrogatepass"), name)))
    return found


def _look_at(folder: Folder) -> dict[str, Any]:
    store = Store(folder, LEAST, False, PATIENCE, lambda page: None, lambda evicted: None)
    try:
        now = store.now_ms()
        counts = store.read(lambda execute, page: _count(execute, now), time.monotonic() + PATIENCE) or NO_ENTRIES
        opened = store.opened(time.monotonic() + PATIENCE)
        return {
            "namespace": folder.namespace,
            "bytes": folder.size(),
            "entries": counts[0],
            "dead": counts[1] - counts[0],
            "without_end": counts[2],
            "tags": counts[3],
            "leases": counts[4],
            "oldest": counts[5],
            "processes": opened.place.others(opened.page),
            **dict(zip(TOTALS, opened.page.totals, strict=True)),
        }
    finally:
        store.close()


def _count(execute: Execute, now: int) -> tuple[Any, ...]:
    generation = number(execute, GENERATION)
    ((every, live, endless, oldest),) = execute(
        "SELECT count(*), coalesce(sum(lives), 0), coalesce(sum(lives AND x = 0), 0), "
        "min(CASE WHEN lives THEN second END) "
        "FROM (SELECT x, g & 0xFFFFFFFF AS second, g >> 32 = ? AND (x > ? OR x = 0) AS lives FROM e)",
        (generation, now),
    ).fetchall()
    ((tags,),) = execute("SELECT count(*) FROM t WHERE g = ?", (generation,)).fetchall()
    ((leases,),) = execute("SELECT count(*) FROM l WHERE g = ? AND x > ?", (generation, now)).fetchall()
    return live, every, endless, tags, leases, None if oldest is None else max(0.0, time.time() - oldest)
