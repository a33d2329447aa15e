"""Waiting in a hub: how a greenlet of gevent or eventlet waits while other greenlets run.

Imported only if greenlet is loaded. A hub switches to its child greenlets and to the main greenlet of its thread. When
something that the hub watches happens, the hub switches back to the waiter. Other greenlets (plain ones, SQLAlchemy's
under asyncio) are switched to by code that only its author knows.
"""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False               # typing's own is slow to import
if TYPE_CHECKING:
    from typing import Any


def waiter_in_hub(current: Any) -> GeventWaiter | EventletWaiter | None:
    """A waiter for the running greenlet, in the hub that switches to it; None: no hub does."""
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
    """Whether the hub switches to a waiting greenlet: to its children and to the main one."""
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
        """Whether the hub can run another greenlet, given by a weak reference; None: an unknown one, so False."""
        other = greenlet() if greenlet is not None else None
        if other is None or other.dead or other is self._waiting or other is self._greenlet:
            return False
        return _is_driven(other, self._greenlet)


class GeventWaiter(_InHub):
    """Waits in gevent's hub. Any thread may wake it."""

    def __init__(self, hub: Any, greenlet: Any, waiting: Any) -> None:
        super().__init__(hub, greenlet, waiting)
        self._bell = hub.loop.async_()

    def wake(self) -> None:
        """End the wait. May be called more than once, and from any thread."""
        self._woken = True
        try:
            self._bell.send()
        except Exception:                       # the hub or the wait has ended: there is nothing to wake
            pass

    def wait(self, seconds: float | None = None) -> bool:
        """Wait until `wake` is called: True; or until the seconds have passed: False."""
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
        """The wait will not be used any more."""
        self._bell.close()


class EventletWaiter(_InHub):
    """Waits in eventlet's hub, for a byte that comes through a pipe."""

    def __init__(self, hub: Any, greenlet: Any, waiting: Any) -> None:
        super().__init__(hub, greenlet, waiting)
        self._ear, self._mouth = os.pipe()

    def wake(self) -> None:
        """End the wait. May be called more than once, and from any thread."""
        if not self._woken:
            self._woken = True
            os.write(self._mouth, b".")

    def wait(self, seconds: float | None = None) -> bool:
        """Wait until `wake` is called: True; or until the seconds have passed: False."""
        trampoline = sys.modules["eventlet.hubs"].trampoline
        try:
            if not self._woken:
                trampoline(self._ear, read=True, timeout=seconds, timeout_exc=_Late)
        except _Late:
            pass
        return self._woken

    def close(self) -> None:
        """The wait will not be used any more. The pipe stays open as long as another thread may call `wake`."""

    def __del__(self) -> None:
        os.close(self._ear)
        os.close(self._mouth)


class _Late(BaseException):
    """The time to wait has passed."""
