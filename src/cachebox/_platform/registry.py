"""What is alive in this process: every cache, and everything that has a name, both known weakly.

Whoever makes a cache or a cached function calls `register`. There is no lock: each step that others may see is one
operation of a dict, so a signal handler, a finalizer or another thread may register something at any moment.
"""

from __future__ import annotations

from _weakref import ref  # weakref itself is slow to import

TYPE_CHECKING = False               # typing's own is slow to import
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any


class _Known(ref["Any"]):
    """A weak reference to something registered, with what it is called. It is told from others by its address."""

    __slots__ = ("clears", "given", "names")

    clears: bool
    """Whether `clear_all` calls its `clear`."""
    given: str | Callable[[Any], str] | None
    names: list[str]
    """What `caches` calls it, first of all; empty until somebody has asked. Two threads may have named it at once."""


_living: dict[int, _Known] = {}         # by address, in the order of their registration
_names: dict[str, _Known] = {}          # who has a name: whoever has it is the only one to give it back


def register(name: str | Callable[[Any], str] | None, thing: Any, *, clears: bool = False) -> None:
    """Make something known, for as long as it lives.

    Args:
        name: what `caches` calls it; or a function of it that returns the name, which is called when somebody wants to
            know; None: it has no name. Where the name is taken a number is added: ``"prices#2"``.
        thing: a cache or a cached function; it must be possible to refer to it weakly.
        clears: whether `clear_all` calls its method `clear`.
    """
    known = _Known(thing, _forget)
    known.clears = clears
    known.given = name
    known.names = []
    _living[id(known)] = known


def caches() -> dict[str, Any]:
    """The living caches that have a name, and all cached functions, by name: a new dict. O(n) for n living caches.

    A cached function is known by its module and qualified name, or by what it was given for a name. A second one of the
    same name has a number: ``"prices#2"``. Safe from any thread.

    >>> from cachebox import Cache, caches
    >>> prices = Cache(name="prices")
    >>> caches()["prices"] is prices
    True
    """
    found = {}
    for known in _living.copy().values():
        thing = known()
        if thing is not None and known.given is not None:
            found[_name_of(known, thing)] = thing
    return found


def clear_all() -> None:
    """Clear every living cache of the process, named or not, and of two-tier caches the first tier. O(n) for n entries.

    Statistics start at zero, as by `Cache.clear`. An exception from one cache keeps no other from being cleared, and is
    raised at the end. Safe from any thread.

    >>> from cachebox import Cache, clear_all
    >>> cache = Cache()
    >>> cache["a"] = 1
    >>> clear_all()
    >>> len(cache)
    0
    """
    failure = None
    for known in _living.copy().values():
        thing = known()
        if thing is not None and known.clears:
            try:
                thing.clear()
            except Exception as error:
                failure = failure or error
    if failure is not None:
        raise failure


def _name_of(known: _Known, thing: Any) -> str:
    """What something is called. It is given its name here, unless it has one."""
    if not known.names:
        given = known.given
        wanted = given if isinstance(given, str) else given(thing) if given is not None else ""
        name, number = wanted, 1
        while _names.setdefault(name, known) is not known:
            number += 1
            name = f"{wanted}#{number}"
        known.names.append(name)
    return known.names[0]


def _forget(known: _Known) -> None:
    """It has died."""
    _living.pop(id(known), None)
    for name in set(known.names):
        _names.pop(name, None)
