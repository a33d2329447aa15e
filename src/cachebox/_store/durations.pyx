"""Lifetimes and other numbers that users give, as floats; and the errors that say what would be right."""

from libc.math cimport INFINITY


cdef double lifetime_of(object ttl, str name) except -1.0:
    """A time to live in seconds; infinity for None. Raises where it makes no sense."""
    cdef double seconds
    if ttl is None:
        return INFINITY
    given = seconds_given(ttl)
    if isinstance(given, bool) or not hasattr(type(given), "__float__"):
        raise TypeError(f"{name} must be a number of seconds, a timedelta or None, not {type(ttl).__name__}")
    seconds = number_of(given, name, "a number of seconds, a timedelta or None")
    if not seconds > 0.0:
        raise ValueError(f"{name} must be more than 0 seconds, not {ttl!r}; math.inf means for ever")
    return seconds


cdef object seconds_given(object ttl):
    if not hasattr(type(ttl), "total_seconds"):
        return ttl
    try:
        return ttl.total_seconds()
    except Exception:
        return ttl                              # whoever looks at it next says that it is no number


cdef double number_of(object given, str name, str wanted) except? -1.0:
    """What a number is as a float. TypeError, which names the argument, where its conversion fails, in whatever way."""
    try:
        return as_float(given)
    except Exception as error:
        raise TypeError(f"{name} must be {wanted}; {type(given).__name__} is none: {error}") from error


cdef double as_float(object number) except? -1.0:
    """`float`, but what is too large for one is infinite."""
    try:
        return float(number)
    except OverflowError:
        pass
    return INFINITY if number > 0 else -INFINITY
