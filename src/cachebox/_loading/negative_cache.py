"""Negative caching: failures are remembered, so that what has just failed is not tried again at once."""

from __future__ import annotations

from cachebox._platform.exceptions import HAS_GIL, copy_exception

TYPE_CHECKING = False               # typing's own is slow to import
if TYPE_CHECKING:
    from collections.abc import Hashable

    from cachebox.cache import Cache


class Failures:
    """The remembered exceptions of one cache's loads, or of one function's calls, by key.

    Copies are kept, and copies are raised, because an exception holds its traceback, and that the arguments of all
    functions in it. If a class does not allow copies, the exception itself is kept; without the GIL it is not
    remembered, for the reason that `exceptions` gives.

    Args:
        kinds: the classes of exceptions to remember.
        kept: the cache that holds them, by key.
    """

    def __init__(self, kinds: tuple[type[Exception], ...] | type[Exception], kept: Cache[Hashable, Exception]) -> None:
        self.kinds = kinds if isinstance(kinds, tuple) else (kinds,)
        self._kept = kept

    def find(self, key: Hashable) -> Exception | None:
        """The exception to raise for a key; None: no failure is remembered."""
        error = self._kept.get(key)
        return _copied(error) if error is not None else None

    def remember(self, key: Hashable, error: BaseException) -> bool:
        """Remember an exception, if it is of one of the classes. Returns whether it is remembered."""
        if not isinstance(error, self.kinds):
            return False
        copy = _copied(error)
        if copy is None:
            return False
        self._kept.set(key, copy)
        return True

    def forget(self, key: Hashable) -> bool:
        """Forget the failure of a key, because the key was written or deleted. Returns whether there was one."""
        return self._kept.delete(key)

    def clear(self) -> None:
        """Forget all failures."""
        self._kept.clear()


def _copied(error: Exception) -> Exception | None:
    try:
        return copy_exception(error)
    except Exception:               # of the class's own code
        return error if HAS_GIL else None
