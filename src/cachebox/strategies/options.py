"""Checks of the options of strategies, with the same words as `Cache`."""

from __future__ import annotations

import threading
from datetime import timedelta
from typing import Any


def check_int(name: str, given: Any, least: int) -> None:
    """Raise TypeError or ValueError unless `given` is an int from `least` on."""
    if not isinstance(given, int) or isinstance(given, bool):
        raise TypeError(f"{name} must be an int, not {type(given).__name__}")
    if given < least:
        raise ValueError(f"{name} must be {least} or more, not {given}")


def checked_seconds(name: str, given: Any, finite: bool = False) -> float:
    """A number of seconds from 0 on, perhaps infinity, or a timedelta, as a number. Raises TypeError or ValueError.

    >>> checked_seconds("timeout", timedelta(minutes=1))
    60.0
    """
    if isinstance(given, timedelta):
        given = given.total_seconds()
    if not isinstance(given, (int, float)) or isinstance(given, bool):
        raise TypeError(f"{name} must be a number of seconds, not {type(given).__name__}")
    if not given >= 0 or (finite and given == float("inf")):
        raise ValueError(f"{name} must be 0 or more seconds, not {given!r}")
    return given


def check_choice(name: str, given: Any, choices: tuple[str, ...]) -> None:
    """Raise ValueError unless `given` is one of the choices."""
    if given not in choices:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, choices))}, not {given!r}")


def at_most_a_wait(seconds: float) -> float:
    """Seconds for one wait, limited to what the system's clock can count."""
    return max(0.0, min(seconds, threading.TIMEOUT_MAX / 2))
