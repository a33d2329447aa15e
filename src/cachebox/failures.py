"""Negative caching: failures that are remembered, so that what has just failed is not tried again at once."""

from __future__ import annotations

from copy import copy

from cachebox.cache import Cache
from cachebox.options import check_failures

TYPE_CHECKING = False               # typing's own is slow to import
if TYPE_CHECKING:
    from collections.abc import Callable, Hashable
    from datetime import timedelta


class Failures:
    """The exceptions of one cache's loads, or of one function's calls, by key.

    Copies are kept, and copies raised: an exception holds its traceback, and that the arguments of all functions in it.
    """

    def __init__(
        self,
        kinds: tuple[type[Exception], ...] | type[Exception],
        ttl: float | timedelta | None,
        max_size: int | None,
        clock: Callable[[], float] | None,
    ) -> None:
        check_failures(kinds, ttl)
        self.kinds = kinds if isinstance(kinds, tuple) else (kinds,)
        self._kept: Cache[Hashable, Exception] = Cache(max_size, ttl, clock=clock)

    def find(self, key: Hashable) -> Exception | None:
        """What to raise for a key; None: nothing is known."""
        error = self._kept.get(key)
        return _copied(error) if error is not None else None

    def remember(self, key: Hashable, error: BaseException) -> bool:
        """Keep an exception, if it is one of those to keep. Returns whether it is."""
        if not isinstance(error, self.kinds):
            return False
        self._kept.set(key, _copied(error))
        return True

    def forget(self, key: Hashable) -> bool:
        """The key was written or deleted. Returns whether there was a failure."""
        return self._kept.delete(key)

    def clear(self) -> None:
        """Forget all."""
        self._kept.clear()


def _copied(error: Exception) -> Exception:
    """An exception like this one, without its traceback; the same one, if its class cannot be copied."""
    try:
        copied = copy(error)
    except Exception:               # whatever the class's constructor thinks of its own `args`
        return error
    return copied if type(copied) is type(error) else error
