"""The exceptions of the distributed tier."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any


class BackendUnavailable(Exception):
    """The server, or one of them, could not be reached in time, or refused.

    Attributes:
        keys: the keys concerned, a frozenset of str; empty if the call was not about keys.
        partial: what was served all the same: the values found by `get_many`, as a dict; else empty.

    >>> error = BackendUnavailable("no answer", keys=["a"])
    >>> sorted(error.keys), error.partial
    (['a'], {})
    """

    def __init__(self, message: str, *, keys: Iterable[str] = (), partial: Mapping[str, Any] | None = None) -> None:
        super().__init__(message)
        self.keys = frozenset(keys)
        self.partial = dict(partial or {})

    def __reduce__(self) -> tuple[Any, ...]:
        return _restored, (type(self), str(self), self.keys, self.partial)


class BackendRefused(BackendUnavailable):
    """The server answers, but refuses: a wrong password, no permission, no memory, a certificate, a replica.

    The text contains the server's own words. Waiting does not help: every call gets the same answer until the cause is
    removed.

    >>> isinstance(BackendRefused("WRONGPASS"), BackendUnavailable)
    True
    """


def _restored(
    kind: type[BackendUnavailable], message: str, keys: frozenset[str], partial: dict[str, Any]
) -> BackendUnavailable:
    return kind(message, keys=keys, partial=partial)
