"""What a fork leaves in the child: locks of threads that are not there, and work that is the parent's to do."""

from __future__ import annotations

import os
from typing import Protocol
from weakref import WeakSet


class Renewable(Protocol):
    """What has something to put right in the child."""

    def _after_fork(self) -> None:
        """Called in the child, before anything else there runs, in its only thread: the one that forked."""


_known: WeakSet[Renewable] = WeakSet()


def renew_in_child(one: Renewable) -> None:
    """Have ``one._after_fork()`` called in the child of every fork, for as long as somebody else knows `one`."""
    _known.add(one)


def _after_fork_in_child() -> None:
    for one in list(_known):
        one._after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
