"""Whether a value came back from a serializer as it was: equal, and of the same types all through.

It is compiled because everything that is stored goes through it.
"""

cdef extern from *:
    """
    #define CB_ENTER(where) (Py_EnterRecursiveCall(where) ? -1 : 0)     /* it says 1, where the others say -1 */
    """
    int enter "CB_ENTER"(const char*) except -1
    void leave "Py_LeaveRecursiveCall"()


def is_alike(value, back):
    """Whether `back` is what `value` is. O(size of the value). Raises what ``==`` of other types raises, and
    RecursionError where it is nested too deeply.

    >>> is_alike([1, {"a": 2.0}], [1, {"a": 2.0}]), is_alike([1], [True]), is_alike({"a": 1}, {"a": 1.0})
    (True, False, False)
    """
    return alike(value, back)


cdef bint alike(object value, object back) except -1:
    cdef Py_ssize_t i
    kind = type(value)
    if kind is not type(back):
        return False
    if value is back or kind is str or kind is int or kind is float or kind is bytes:
        return value == back                    # not so for a NaN
    if kind is not list and kind is not tuple and kind is not dict:
        return bool(value == back)
    if len(value) != len(back):
        return False
    enter(b" while a value is compared with what came back of it")
    try:
        if kind is dict:
            for (key, item), (other_key, other_item) in zip((<dict>value).items(), (<dict>back).items()):
                if not alike(key, other_key) or not alike(item, other_item):
                    return False
            return True
        for i in range(len(back)):
            if i >= len(value) or not alike(value[i], back[i]):
                return False
        return True
    finally:
        leave()
