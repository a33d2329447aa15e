"""What a fork leaves in the child: locks of threads that do not exist there, and work that belongs to the parent."""

from __future__ import annotations

import os
from typing import Protocol
from weakref import WeakSet


class Renewable(Protocol):
    """An object that has something to put right in the child."""

    def _after_fork(self) -> None:
        """Put it right. Called in the child before other code, in its only thread: the one that forked."""


_known: WeakSet[Renewable] = WeakSet()


def renew_in_child(one: Renewable) -> None:
    """Have ``one._after_fork()`` called in the child of every fork, as long as `one` is alive."""
    _known.add(one)


def _after_fork_in_child() -> None:
    for one in list(_known):
        one._after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
