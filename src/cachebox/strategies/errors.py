"""The exceptions of strategies."""

from __future__ import annotations


class QueueFull(Exception):
    """A `WriteBehind` with ``on_full="raise"`` has no room for another write. The refused write left no trace."""


class Absent(KeyError):
    """A store has nothing under a key. Never reaches users."""
