"""The living objects of this process: every cache, and every cached function. Both are known by weak references.

The maker of a cache or a cached function calls `register`. There is no lock: each step that others may see is one
operation of a dict, so a signal handler, a finalizer or another thread may register an object at any moment.
"""

from __future__ import annotations

from _weakref import ref  # weakref itself is slow to import

TYPE_CHECKING = False               # typing's own is slow to import
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any


class _Known(ref["Any"]):
    """A weak reference to a registered object, with its name. References are distinguished by address."""

    __slots__ = ("clears", "given", "names")

    clears: bool
    """Whether `clear_all` calls its `clear`."""
    given: str | Callable[[Any], str] | None
    names: list[str]
    """Its name in `caches`, in first place; empty until the first request. Two threads may have named it at once."""


nameless: dict[int, ref[Any]] = {}
"""Caches without a name, by address. They put themselves in, and take themselves out when they die: a cache is cheap to
make."""
_living: dict[int, _Known] = {}         # all other objects, by address, in order of registration
_names: dict[str, _Known] = {}          # by name; only the reference that has a name gives it back


def register(name: str | Callable[[Any], str] | None, thing: Any, *, clears: bool = False) -> None:
    """Make an object known, for as long as it lives.

    Args:
        name: its name in `caches`. A function of the object that returns the name is called at the first request. None:
            the object has no name. If the name is taken, a number is added: ``"prices#2"``.
        thing: a cache or a cached function, which must allow weak references.
        clears: whether `clear_all` calls its method `clear`.
    """
    known = _Known(thing, _forget)
    known.clears = clears
    known.given = name
    known.names = []
    _living[id(known)] = known


def caches() -> dict[str, Any]:
    """The living caches that have a name, and all cached functions, by name: a new dict. O(n) for n living caches.

    A cached function is known by the name it was given, or else by its module and qualified name. A second one of the
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
    """Clear every living cache of the process, named or not; of two-tier caches, the first tier. O(n) for n entries.

    Statistics start at zero, as after `Cache.clear`. If clearing one cache raises, the others are cleared nevertheless,
    and the first exception is raised at the end. Safe from any thread.

    >>> from cachebox import Cache, clear_all
    >>> cache = Cache()
    >>> cache["a"] = 1
    >>> clear_all()
    >>> len(cache)
    0
    """
    failure = None
    named = [known for known in _living.copy().values() if known.clears]
    for known in [*nameless.copy().values(), *named]:
        thing = known()
        if thing is not None:
            try:
                thing.clear()
            except Exception as error:
                failure = failure or error
    if failure is not None:
        raise failure


def _name_of(known: _Known, thing: Any) -> str:
    """The name of a registered object, which gets one here unless it has one."""
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
    """Remove an object that has died."""
    _living.pop(id(known), None)
    for name in set(known.names):
        _names.pop(name, None)
