"""Threads of our own, and their end, which a fork must not come into.

`join` may return, and `is_alive` be False, a moment before the system's thread has ended. A fork in that moment counts
it, and warns. Worse: an ending thread takes a lock of the C library's (glibc's, about how names of hosts are looked
up), and the child would have it locked for ever. So a fork waits until the threads that have ended are gone.

Invariant: what steps aside before a fork imports this first, so that this comes last, when they have ended.
"""

from __future__ import annotations

import os
import threading
import time

TYPE_CHECKING = False               # typing's own is slow to import
if TYPE_CHECKING:
    from collections.abc import Callable

_started: set[Thread] = set()           # those of which it is not known that they are gone


class Thread(threading.Thread):
    """A daemon thread, as all here are: nobody but its owner waits for it."""

    def __init__(self, name: str, run: Callable[[], object]) -> None:
        super().__init__(target=run, name=name, daemon=True)

    def start(self) -> None:
        """RuntimeError where no thread is to be had, or the process is ending."""
        super().start()
        _started.difference_update([thread for thread in list(_started) if thread.is_gone()])
        _started.add(self)

    def is_gone(self) -> bool:
        """Whether the system's thread has ended, too."""
        return not self.is_alive() and not os.path.exists(f"/proc/self/task/{self.native_id}")


def _wait_for_the_ended() -> None:
    for thread in [thread for thread in list(_started) if not thread.is_alive()]:
        for _ in range(200):                # not for ever: its number may have gone to another thread
            if thread.is_gone():
                break
            time.sleep(0.0005)
        _started.discard(thread)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_wait_for_the_ended, after_in_child=_started.clear)
