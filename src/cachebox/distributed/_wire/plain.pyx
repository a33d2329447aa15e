"""Plain values: those that JSON and msgpack return unchanged, types included.

Compiled, because every stored value goes through it.
"""


cdef extern from *:
    """
    static int cb_fits_64_bits(PyObject* number)    /* of exact ints: runs no code */
    {
        int overflow;
        (void)PyLong_AsLongLongAndOverflow(number, &overflow);
        return overflow == 0;
    }
    """
    bint fits_64_bits "cb_fits_64_bits"(object number) noexcept

cdef int DEEPEST_NESTING = 500
MAX_DEPTH = DEEPEST_NESTING


def is_plain(value, bint binary):
    """Whether a value consists of None, bool, str, finite float, int of 64 bits, list, and dict with str keys.

    `binary`: bytes are plain, too. O(size of the value). Raises ValueError if it is nested more than `MAX_DEPTH` deep.

    >>> is_plain([1, {"a": 2.0}], False), is_plain((1,), False), is_plain({1: 2}, False), is_plain(b"", True)
    (True, False, False, True)
    """
    return is_plain_within(value, binary, DEEPEST_NESTING)


cdef bint is_plain_within(object value, bint binary, int levels) except -1:
    kind = type(value)
    if kind is str or value is None or kind is bool:
        return True
    if kind is int:
        return fits_64_bits(value)
    if kind is float:
        return (<double>value) - (<double>value) == 0.0
    if kind is list:
        if levels == 0:
            raise ValueError(f"it is nested more than {DEEPEST_NESTING} deep")
        for item in <list>value:
            if not is_plain_within(item, binary, levels - 1):
                return False
        return True
    if kind is dict:
        if levels == 0:
            raise ValueError(f"it is nested more than {DEEPEST_NESTING} deep")
        for key, item in (<dict>value).items():
            if type(key) is not str or not is_plain_within(item, binary, levels - 1):
                return False
        return True
    return binary and kind is bytes
