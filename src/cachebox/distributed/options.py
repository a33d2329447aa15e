"""Checks of users' arguments, with the same words as `Cache`."""

from __future__ import annotations

import math
from collections.abc import Iterable
from datetime import timedelta
from typing import Any, TypeAlias

Seconds: TypeAlias = float | timedelta
LONGEST = 1e11                      # seconds; the server refuses some larger numbers


def seconds_of(given: Any, name: str, infinite: bool = True) -> float:
    """A number of seconds greater than 0; infinity for None. Raises ValueError or TypeError for anything else.

    >>> seconds_of(timedelta(minutes=1), "ttl")
    60.0
    """
    if given is None and infinite:
        return math.inf
    number = given.total_seconds() if isinstance(given, timedelta) else given
    wanted = f"a number of seconds{', a timedelta or None' if infinite else ' or a timedelta'}"
    if isinstance(number, bool) or not hasattr(type(number), "__float__") or isinstance(number, str):
        raise TypeError(f"{name} must be {wanted}, not {type(given).__name__}")
    seconds = number_of(number, name, wanted)
    if not seconds > 0:
        raise ValueError(f"{name} must be more than 0 seconds, not {given!r}{'; math.inf means for ever' * infinite}")
    if not infinite and math.isinf(seconds):
        raise ValueError(f"{name} must be finite, not {given!r}")
    return seconds


def number_of(given: Any, name: str, wanted: str) -> float:
    """A number as a float. Raises a TypeError that names the argument if the conversion fails in any way."""
    try:
        return float(given)
    except OverflowError:
        return math.inf if given > 0 else -math.inf
    except Exception as error:
        raise TypeError(f"{name} must be {wanted}; {type(given).__name__} is none: {error}") from error


def milliseconds(seconds: float) -> bytes:
    """A lifetime as the scripts take it: in milliseconds; empty for no expiry.

    >>> milliseconds(1.5), milliseconds(math.inf)
    (b'1500', b'')
    """
    return b"" if seconds > LONGEST else b"%d" % max(1, int(seconds * 1000))


def checked_key(key: Any) -> str:
    """A key, which must be a str."""
    if not isinstance(key, str):
        raise TypeError(f"key must be a str, not {type(key).__name__}")
    return key if type(key) is str else str.__str__(key)


def checked_keys(keys: Any) -> tuple[str, ...]:
    """Many keys, each once, in order."""
    if not isinstance(keys, Iterable):
        raise TypeError(f"keys must be an iterable of str, not {type(keys).__name__}")
    return tuple(dict.fromkeys(map(checked_key, keys)))


def checked_tags(tags: Any) -> tuple[str, ...]:
    """Tags from a str, which is one tag, or an iterable of them."""
    if not isinstance(tags, Iterable):
        raise TypeError(f"tags must be a str or an iterable of str, not {type(tags).__name__}")
    found = (tags,) if isinstance(tags, str) else tuple(dict.fromkeys(tags))
    for tag in found:
        if not isinstance(tag, str):
            raise TypeError(f"tags must be str, not {type(tag).__name__}")
    if len(found) > 255 or any(len(tag.encode("utf-8", "surrogatepass")) > 65535 for tag in found):
        raise ValueError("tags must be at most 255, of at most 65535 bytes each")
    return found


def checked_int(value: Any, name: str, least: int, most: int) -> int:
    """An int within bounds."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be an int, not {type(value).__name__}")
    if not least <= value <= most:
        raise ValueError(f"{name} must be between {least} and {most}, not {value}")
    return value
