"""Guesses whether a caller that others have long waited for is itself waiting for another thread, task or greenlet.

A factory may hand its key to another thread and wait for it; that thread then waits for the factory. No lock or context
shows such a circle. But the place where the factory's thread stands shows it: in a call that waits for a caller of this
process (`acquire`, `join`, `result`), and not for the network or a disk. A wrong guess costs a second computation, so
it is made only after a long wait.
"""

from __future__ import annotations

import dis
import sys

TYPE_CHECKING = False               # typing's own is slow to import
if TYPE_CHECKING:
    from types import FrameType
    from typing import Any

MODULES = ("threading", "queue", "concurrent.futures", "multiprocessing", "gevent.threadpool", "gevent.event")
"""Modules in which a thread stands that waits for another thread."""
CALLS = {"acquire", "join", "wait", "result", "get", "put", "__enter__"}
"""Functions of compiled modules that a waiting thread may have called."""


def is_gone(thread: int) -> bool:
    """Whether a thread has ended."""
    return thread not in sys._current_frames()


def standing(thread: int, greenlet: Any) -> tuple[object, int] | None:
    """The place where a caller waits for another caller of this process; None: it does not.

    The caller is a thread, or its greenlet (a weak reference, or None). If it is at the same place twice, it may be
    taken for stuck.
    """
    current = greenlet() if greenlet is not None else None
    for frame in (sys._current_frames().get(thread), getattr(current, "gr_frame", None)):   # None while it runs
        if frame is not None and (_is_waiting(frame) or _is_idle_loop(frame)):
            return frame.f_code, frame.f_lasti
    return None


def standing_of_task(thread: int, task: Any) -> tuple[object, int] | None:
    """The same for an asyncio task: its thread waits, or the task waits for an executor of which this is a thread."""
    frame: FrameType | None = sys._current_frames().get(thread)
    if frame is not None and _is_waiting(frame):
        return frame.f_code, frame.f_lasti
    frame = sys._getframe()
    while frame is not None and frame.f_globals.get("__name__") != "concurrent.futures.thread":
        frame = frame.f_back
    if frame is None:
        return None
    ahead, seen = [getattr(task, "_fut_waiter", None)], set()
    while ahead:
        at = ahead.pop()
        if at is None or id(at) in seen:
            continue
        seen.add(id(at))
        calls = getattr(at, "_callbacks", None) or ()
        if any("_chain_future" in getattr(call[0], "__qualname__", "") for call in calls):
            return task, id(at)
        ahead += [getattr(at, "_fut_waiter", None), *getattr(at, "_children", ())]
    return None


def _is_waiting(frame: FrameType) -> bool:
    module = frame.f_globals.get("__name__", "")
    if any(module == name or module.startswith(f"{name}.") for name in MODULES):
        return True
    if module == "cachebox._platform.greenlets":          # it waits for a flight, about which the flight knows
        return False
    return _callee(frame) in CALLS


def _callee(frame: FrameType) -> str:
    """The name of what a frame is calling, as far as its byte code tells."""
    name = ""
    for step in dis.get_instructions(frame.f_code):
        if step.offset > frame.f_lasti:
            break
        if step.opname in ("LOAD_ATTR", "LOAD_METHOD"):
            name = str(step.argval)
        elif step.opname in ("BEFORE_WITH", "LOAD_SPECIAL"):
            name = "__enter__"
    return name


def _is_idle_loop(frame: FrameType) -> bool:
    """Whether an event loop runs there that only another thread can wake."""
    if not frame.f_globals.get("__name__", "").startswith(("selectors", "asyncio")):
        return False
    at: FrameType | None = frame
    while at is not None:
        loop: Any = at.f_locals.get("self")
        if hasattr(loop, "_scheduled") and hasattr(loop, "_selector"):
            return not loop._scheduled and len(loop._selector.get_map() or ()) <= 1
        at = at.f_back
    return False
