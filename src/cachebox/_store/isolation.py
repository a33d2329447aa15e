"""Copies of values, for a cache that never hands out the objects it stores."""

from __future__ import annotations

import sys
from copy import deepcopy

TYPE_CHECKING = False               # typing's own is slow to import
if TYPE_CHECKING:
    from typing import Any

# Immutable types that `deepcopy` would copy nevertheless, by module.
_IMMUTABLE = {
    "datetime": ("date", "datetime", "time", "timedelta", "timezone"),
    "ipaddress": ("IPv4Address", "IPv6Address", "IPv4Network", "IPv6Network"),
    "pathlib": ("PosixPath", "PurePosixPath", "PureWindowsPath", "WindowsPath"),
    "uuid": ("UUID",),
    "zoneinfo": ("ZoneInfo",),
}
_ATOMS = frozenset((str, bytes, int, float, bool, complex, type(None), range))


def copied(value: Any) -> Any:
    """A deep copy; of an immutable value, the value itself."""
    return value if is_immutable(value) else deepcopy(value)


def is_immutable(value: Any) -> bool:
    """Whether a value cannot change, nor anything that it refers to."""
    kind = type(value)
    if kind in _ATOMS:
        return True
    if kind is tuple or kind is frozenset:
        return all(map(is_immutable, value))
    module = kind.__module__.partition(".")[0]          # 3.13 has pathlib._local
    return kind.__name__ in _IMMUTABLE.get(module, ()) and getattr(sys.modules.get(module), kind.__name__, None) is kind
