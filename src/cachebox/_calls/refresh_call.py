"""A cached call that is refreshed in the background while its older result is served."""

from __future__ import annotations

from _contextvars import copy_context

from cachebox._loading.flight import led
from cachebox._loading.refresh_pool import submit
from cachebox._platform.awaitables import called
from cachebox._platform.guard import report

TYPE_CHECKING = False               # typing's own is slow to import
if TYPE_CHECKING:
    from typing import Any

    from cachebox._calls.cached_function import CachedFunction
    from cachebox._loading.refresh import Refresh


class RefreshCall:
    """The refresh of a call, with its arguments, in the context of the call that found the result due.

    Args:
        wrapper: the cached function.
        refresh: the refresh of the result's key, not begun yet.
        args, kwargs: the arguments of the call, including ignored ones.
        receiver: the Receiver in the key, or None.
    """

    def __init__(
        self,
        wrapper: CachedFunction[..., Any],
        refresh: Refresh,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        receiver: object,
    ) -> None:
        self._wrapper = wrapper
        self._refresh = refresh
        self._args = args
        self._kwargs = kwargs
        self._receiver = receiver
        self._context = copy_context()

    def start(self, is_async: bool) -> bool:
        """Run it in a task, or in a thread of the pool. False: there is none, so a later call has to try again."""
        if not is_async:
            return submit(self)
        from cachebox._loading.awaited import run_in_task

        return run_in_task(self._refresh, self._run_in_task)

    def run(self) -> None:
        """Make the call in a thread of the pool, and store its result unless the key was written meanwhile."""
        try:
            self._context.run(self._run)
        except BaseException as error:          # of a weigher or a callback: no caller waits for it, so it is reported
            report(error, self.run)
        finally:
            self._refresh.end()

    def give_up(self) -> None:
        """End it without running it."""
        self._refresh.end()

    def _run(self) -> None:
        led.set(())                             # the call that started this does not wait for it
        if self._refresh.begin():
            try:
                value = self._wrapper.__wrapped__(*self._args, **self._kwargs)
            except Exception as error:
                self._refresh.failed(error)
            else:
                self._succeeded(value)

    async def _run_in_task(self) -> None:
        led.set(())
        try:
            if self._refresh.begin():
                value = await called(self._wrapper.__wrapped__, self._args, self._kwargs)
                self._succeeded(value)
        except Exception as error:
            self._refresh.failed(error)
        finally:
            self._refresh.end()

    def _succeeded(self, value: Any) -> None:
        if hasattr(type(value), "__await__"):   # a plain function that is async after all: a later call finds that out
            getattr(value, "close", int)()
            return
        self._wrapper._complete_refreshed(self._refresh, value, self._args, self._kwargs, self._receiver)
        self._refresh.succeeded()
