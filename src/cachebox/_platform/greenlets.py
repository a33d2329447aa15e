"""Waiting in a hub: how a greenlet of gevent or eventlet waits, while the others go on.

Imported only where greenlet is loaded. A hub switches to the greenlets whose parent it is, and to the main greenlet of
its thread; whoever waits in it is switched to again by what the hub watches. Other greenlets (plain ones, SQLAlchemy's
under asyncio) are switched to by code that nobody else knows.
"""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False               # typing's own is slow to import
if TYPE_CHECKING:
    from typing import Any


def waiter_in_hub(current: Any) -> GeventWaiter | EventletWaiter | None:
    """What the greenlet that runs can wait for in a hub; None: no hub switches to it."""
    for module, hub_of, make in (
        ("gevent._hub_local", _hub_of_gevent, GeventWaiter),
        ("eventlet.hubs", _hub_of_eventlet, EventletWaiter),
    ):
        if module in sys.modules:
            hub, greenlet = hub_of(sys.modules[module])
            if hub is not None and current is not greenlet and _is_driven(current, greenlet):
                return make(hub, greenlet, current)
    return None


def _hub_of_gevent(module: Any) -> tuple[Any, Any]:
    hub = module.get_hub_if_exists()
    return hub, hub


def _hub_of_eventlet(module: Any) -> tuple[Any, Any]:
    hub = getattr(module._threadlocal, "hub", None)
    return hub, getattr(hub, "greenlet", None)


def _is_driven(greenlet: Any, hub: Any) -> bool:
    """Whether a hub switches to a greenlet that waits: its children, and the main one."""
    return greenlet.parent is None or greenlet.parent is hub


class _InHub:
    is_green = True
    task = None

    def __init__(self, hub: Any, greenlet: Any, waiting: Any) -> None:
        self._hub = hub
        self._greenlet = greenlet               # the hub's own
        self._waiting = waiting
        self._woken = False

    def drives(self, greenlet: Any) -> bool:
        """Whether the hub can go on with another greenlet, given by a weak reference (None: nobody knows which)."""
        other = greenlet() if greenlet is not None else None
        if other is None or other.dead or other is self._waiting or other is self._greenlet:
            return False
        return _is_driven(other, self._greenlet)


class GeventWaiter(_InHub):
    """Waits in gevent's hub, which may be woken from any thread."""

    def __init__(self, hub: Any, greenlet: Any, waiting: Any) -> None:
        super().__init__(hub, greenlet, waiting)
        self._bell = hub.loop.async_()

    def wake(self) -> None:
        """Wake who waits. May be called more than once, and from any thread."""
        self._woken = True
        try:
            self._bell.send()
        except Exception:                       # the hub or the wait has ended: there is nobody to wake
            pass

    def wait(self, seconds: float | None = None) -> bool:
        """Until it is woken: True; or the seconds are over: False."""
        switch = sys.modules["gevent._waiter"].Waiter(self._hub)
        timer = self._hub.loop.timer(max(seconds, 0.0)) if seconds is not None else None
        try:
            self._bell.start(switch.switch, None)
            if timer is not None:
                timer.start(switch.switch, None)
            if not self._woken:
                switch.get()
        finally:
            self._bell.stop()
            if timer is not None:
                timer.stop()
                timer.close()
        return self._woken

    def close(self) -> None:
        """Nobody waits any more."""
        self._bell.close()


class EventletWaiter(_InHub):
    """Waits in eventlet's hub, for a byte that comes through a pipe."""

    def __init__(self, hub: Any, greenlet: Any, waiting: Any) -> None:
        super().__init__(hub, greenlet, waiting)
        self._ear, self._mouth = os.pipe()

    def wake(self) -> None:
        """Wake who waits. May be called more than once, and from any thread."""
        if not self._woken:
            self._woken = True
            os.write(self._mouth, b".")

    def wait(self, seconds: float | None = None) -> bool:
        """Until it is woken: True; or the seconds are over: False."""
        trampoline = sys.modules["eventlet.hubs"].trampoline
        try:
            if not self._woken:
                trampoline(self._ear, read=True, timeout=seconds, timeout_exc=_Late)
        except _Late:
            pass
        return self._woken

    def close(self) -> None:
        """Nobody waits any more; the pipe stays as long as somebody may call `wake`."""

    def __del__(self) -> None:
        os.close(self._ear)
        os.close(self._mouth)


class _Late(BaseException):
    """The time to wait is over."""
