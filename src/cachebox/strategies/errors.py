"""What strategies raise."""

from __future__ import annotations


class QueueFull(Exception):
    """A `WriteBehind` with ``on_full="raise"`` has no room for another write. The write that was refused left no
    trace."""


class Absent(KeyError):
    """A store says that there is nothing under a key. It never reaches users."""
