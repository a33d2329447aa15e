"""Negative answers: which of them are refusals, and the error for a server that was not asked at all."""

from __future__ import annotations

import ssl

from cachebox.distributed._wire.resp import ReplyError

NOT_SERVING = frozenset({"LOADING", "MASTERDOWN", "CLUSTERDOWN", "BUSY"})
"""How an answer begins that means: later, perhaps."""


NO_REFUSAL = NOT_SERVING | {"TRYAGAIN", "MOVED", "ASK", "NOSCRIPT", "UNKNOWN_NODE", "NOTINT", "LATE"}
"""How answers begin that say where to go, or in which our own scripts report what they found."""


class Unavailable(Exception):
    """A breaker is open, or no server has the bucket. `refusal`: the words of a server that refuses."""

    def __init__(self, message: str, refusal: str | None = None) -> None:
        super().__init__(message)
        self.refusal = refusal


def refusal_in(error: BaseException) -> str | None:
    """The words in which a server, or the TLS library, refuses; None: the error is no refusal."""
    if isinstance(error, (ReplyError, Unavailable)):
        return error.refusal if isinstance(error, Unavailable) else None if error.code in NO_REFUSAL else str(error)
    import redis  # any other error comes from talking to a server, so the library is installed

    code = str(getattr(error, "status_code", None) or "")
    words = str(error) if str(error).startswith(code) else f"{code} {error}"
    if isinstance(error, (redis.ResponseError, redis.AuthenticationError, redis.exceptions.AuthorizationError)):
        return None if code in NOT_SERVING else words
    if isinstance(error, redis.ConnectionError) and "max number of clients" in words:
        return words
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, ssl.SSLError):
            is_cut_short = isinstance(seen, (ssl.SSLEOFError, ssl.SSLSyscallError, ssl.SSLZeroReturnError))
            return None if is_cut_short else str(seen)
        seen = seen.__cause__ or seen.__context__
    return None
