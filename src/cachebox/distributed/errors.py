"""What the distributed tier raises."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any


class BackendUnavailable(Exception):
    """The server, or one of them, could not be reached in time, or refused.

    Attributes:
        keys: the keys concerned, a frozenset of str; empty where the call was not about keys.
        partial: what was served all the same: the values found by `get_many`, as a dict; empty elsewhere.

    >>> error = BackendUnavailable("no answer", keys=["a"])
    >>> sorted(error.keys), error.partial
    (['a'], {})
    """

    def __init__(self, message: str, *, keys: Iterable[str] = (), partial: Mapping[str, Any] | None = None) -> None:
        super().__init__(message)
        self.keys = frozenset(keys)
        self.partial = dict(partial or {})

    def __reduce__(self) -> tuple[Any, ...]:
        return _restored, (str(self), self.keys, self.partial)


def _restored(message: str, keys: frozenset[str], partial: dict[str, Any]) -> BackendUnavailable:
    return BackendUnavailable(message, keys=keys, partial=partial)
