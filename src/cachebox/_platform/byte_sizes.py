"""Numbers of bytes, as users write them."""

from __future__ import annotations

UNITS: dict[str, int] = {"B": 1}
UNITS |= {f"{letter}B": 1000**power for power, letter in enumerate("KMGT", 1)}
UNITS |= {f"{letter}IB": 1024**power for power, letter in enumerate("KMGT", 1)}


def bytes_of(given: object, name: str, least: int = 1) -> int:
    """A number of bytes: an int, or a text such as ``"256MB"`` (10⁶ bytes each) or ``"1.5 GiB"`` (2³⁰ bytes each).

    Raises TypeError or ValueError, which name the argument, if it is neither or less than `least`.

    >>> bytes_of("256MB", "max_bytes"), bytes_of("1.5 KiB", "max_bytes")
    (256000000, 1536)
    """
    if isinstance(given, bool) or not isinstance(given, (int, str)):
        raise TypeError(f'{name} must be an int or a text such as "256MB", not {type(given).__name__}')
    size = _written(given, name) if isinstance(given, str) else int(given)
    if size < least:
        raise ValueError(f"{name} must be {least} bytes or more, not {given!r}")
    return size


def _written(text: str, name: str) -> int:
    number = text.strip().upper().rstrip("BIKMGT")
    unit = UNITS.get(text.strip().upper()[len(number):].strip())
    digits, _, decimals = number.strip().partition(".")
    if unit is None or not f"{digits}{decimals}".isdecimal() or len(number) > 30:
        known = "B, KB, MB, GB, TB, KiB, MiB, GiB or TiB"
        raise ValueError(f'{name} must be a number with {known}, such as "256MB", not {text!r}')
    return int(int(f"{digits}{decimals}") * unit // 10 ** len(decimals))
