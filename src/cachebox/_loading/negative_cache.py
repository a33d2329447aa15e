"""Negative caching: failures that are remembered, so that what has just failed is not tried again at once."""

from __future__ import annotations

from cachebox._platform.exceptions import HAS_GIL, copy_exception

TYPE_CHECKING = False               # typing's own is slow to import
if TYPE_CHECKING:
    from collections.abc import Hashable

    from cachebox.cache import Cache


class Failures:
    """The exceptions of one cache's loads, or of one function's calls, by key.

    Copies are kept, and copies raised: an exception holds its traceback, and that the arguments of all functions in it.
    Where a class does not let itself be copied, its exception itself is; but not without the GIL, see `exceptions`.

    Args:
        kinds: the classes of exceptions to remember.
        kept: the cache that holds them, by key.
    """

    def __init__(self, kinds: tuple[type[Exception], ...] | type[Exception], kept: Cache[Hashable, Exception]) -> None:
        self.kinds = kinds if isinstance(kinds, tuple) else (kinds,)
        self._kept = kept

    def find(self, key: Hashable) -> Exception | None:
        """What to raise for a key; None: nothing is known."""
        error = self._kept.get(key)
        return _copied(error) if error is not None else None

    def remember(self, key: Hashable, error: BaseException) -> bool:
        """Keep an exception, if it is one of those to keep. Returns whether it is."""
        if not isinstance(error, self.kinds):
            return False
        copy = _copied(error)
        if copy is None:
            return False
        self._kept.set(key, copy)
        return True

    def forget(self, key: Hashable) -> bool:
        """The key was written or deleted. Returns whether there was a failure."""
        return self._kept.delete(key)

    def clear(self) -> None:
        """Forget all."""
        self._kept.clear()


def _copied(error: Exception) -> Exception | None:
    try:
        return copy_exception(error)
    except Exception:               # whatever the class thinks of its own `args`
        return error if HAS_GIL else None
