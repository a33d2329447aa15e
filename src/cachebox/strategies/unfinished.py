"""Unfinished writes: accepted ones that their callers have not brought to the cache yet.

Meanwhile the cache may have an older value of the key. And if several callers write a key at the same time, an older
write may reach the cache after a newer one. So the cache is not asked for a key until all of them are done.
"""

from __future__ import annotations

from typing import Any

UNKNOWN = object()
"""The value of a key about whose newest write nothing is known here: others must be asked."""


class Unfinished:
    """The unfinished writes of one key."""

    __slots__ = ("newest", "numbers", "value")

    def __init__(self) -> None:
        self.numbers: set[int] = set()  # of all of them
        self.newest = 0                 # the number of the newest accepted write, even if its caller is done
        self.value: Any = UNKNOWN       # its value, MISSING for a delete; UNKNOWN before it is accepted
