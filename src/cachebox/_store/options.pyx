"""Checks of the options of a cache, and of other numbers that users give. The errors say what would be right."""

from cpython.object cimport PyObject
from libc.float cimport DBL_MAX
from libc.math cimport INFINITY, nextafter

import sys
from time import monotonic

from cachebox._platform.clock cimport HAS_PRECISE_CLOCK

from cachebox._platform.awaitables import refuse_async


cdef extern from "_platform/numbers.h":
    bint plain_seconds "cb_plain_seconds"(PyObject* given, double* seconds) noexcept
    void know_timedelta "cb_know_timedelta"() noexcept


cdef bint is_monotonic(object clock):
    """Whether a clock is Python's own `time.monotonic`, which can be read without Python; not a test's replacement."""
    return HAS_PRECISE_CLOCK and clock is monotonic and type(clock) is type(len)


cdef int check_callables(dict options) except -1:
    for name in ("on_evict", "on_removal", "weigher", "clock"):
        if options[name] is not None and not callable(options[name]):
            raise TypeError(f"{name} must be callable or None, not {type(options[name]).__name__}")
        refuse_async(name, options[name])
    refuse_async("default_ttl", options["default_ttl"])
    return 0


cdef double bound_on_weight(object max_weight, object weigher) except -1.0:
    """The most that all entries may weigh together; infinity: entries are not weighed."""
    cdef double bound
    if (max_weight is None) != (weigher is None):
        given, missing = ("weigher", "max_weight") if max_weight is None else ("max_weight", "weigher")
        raise ValueError(f"{given} needs {missing}: give both, or neither")
    if max_weight is None:
        return INFINITY
    if isinstance(max_weight, bool) or not hasattr(type(max_weight), "__float__"):
        raise TypeError(f"max_weight must be a number, not {type(max_weight).__name__}")
    bound = min(number_of(max_weight, "max_weight", "a number"), DBL_MAX)   # so an infinite weight never fits
    if isinstance(max_weight, int) and max_weight < bound < DBL_MAX:
        bound = nextafter(bound, 0.0)               # no float equals that int: round down
    if not bound > 0:
        raise ValueError(f"max_weight must be greater than 0, not {max_weight!r}")
    return bound


cdef object bound_on_bytes(dict options):
    """The most bytes that keys and values may take, as an int; None: they are not measured."""
    given = options.get("max_bytes")
    if given is None:
        return None
    for other in ("max_weight", "weigher"):
        if options.get(other) is not None:
            raise TypeError(f"max_bytes and {other} cannot go together: max_bytes weighs entries by what they take")
    from cachebox._platform.byte_sizes import bytes_of

    return bytes_of(given, "max_bytes")


cpdef double jitter_of(object given) except -1.0:
    """The share by which lifetimes may be shortened."""
    cdef double share
    if given is None:
        return 0.0
    if isinstance(given, bool) or not hasattr(type(given), "__float__"):
        raise TypeError(f"jitter must be a number from 0 to 1, not {type(given).__name__}")
    share = number_of(given, "jitter", "a number from 0 to 1")
    if not 0.0 <= share <= 1.0:
        raise ValueError(f"jitter must be from 0 to 1, not {given!r}")
    return share


cdef object copier_of(object isolate):
    """The function that copies values; None: values are not copied."""
    if isolate is None or isolate is False:
        return None
    if isolate is True:
        from cachebox._store.isolation import copied

        return copied
    if not callable(isolate):
        raise TypeError(f"isolate must be True, False or a function that copies a value, not {type(isolate).__name__}")
    refuse_async("isolate", isolate)
    return isolate


cpdef str checked_name(object name):
    """A cache's name, checked."""
    if name is not None and not isinstance(name, str):
        raise TypeError(f"name must be a str or None, not {type(name).__name__}")
    if name == "":
        raise ValueError("name must not be empty")
    return None if name is None else str(name)


def check_failures(kinds, ttl):
    """Check `cache_exceptions` and `exception_ttl`. Raises TypeError or ValueError if they make no sense."""
    lifetime_of(ttl, "exception_ttl")
    for kind in kinds if isinstance(kinds, tuple) else (kinds,):
        if not isinstance(kind, type) or not issubclass(kind, Exception):
            raise TypeError(f"cache_exceptions must be classes of exceptions, in a tuple, not {kind!r}")
    if ttl is not None and kinds == ():
        raise ValueError("exception_ttl needs cache_exceptions: which failures are to be remembered?")


# --- lifetimes and other numbers, as floats ---------------------------------------------------------------------------

cdef double lifetime_of(object ttl, str name) except -1.0:
    """A lifetime in seconds; infinity for None. Raises TypeError or ValueError if it makes no sense."""
    cdef double seconds
    if ttl is None:
        return INFINITY
    if plain_seconds(<PyObject*>ttl, &seconds):
        return seconds
    given = seconds_given(ttl)
    if isinstance(given, bool) or not hasattr(type(given), "__float__"):
        raise TypeError(f"{name} must be a number of seconds, a timedelta or None, not {type(ttl).__name__}")
    seconds = number_of(given, name, "a number of seconds, a timedelta or None")
    if not seconds > 0.0:
        raise ValueError(f"{name} must be more than 0 seconds, not {ttl!r}; math.inf means no end")
    return seconds


cdef object seconds_given(object ttl):
    if not hasattr(type(ttl), "total_seconds"):
        return ttl
    if "datetime" in sys.modules:
        know_timedelta()
    try:
        return ttl.total_seconds()
    except Exception:
        return ttl                              # the caller will find that it is no number


cdef double number_of(object given, str name, str wanted) except? -1.0:
    """A number as a float. Raises a TypeError that names the argument if its conversion fails in any way."""
    try:
        return as_float(given)
    except Exception as error:
        raise TypeError(f"{name} must be {wanted}; {type(given).__name__} is none: {error}") from error


cdef double as_float(object number) except? -1.0:
    """`float`, but a number that is too large becomes infinite."""
    try:
        return float(number)
    except OverflowError:
        pass
    return INFINITY if number > 0 else -INFINITY
