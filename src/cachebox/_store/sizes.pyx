"""How much memory an object takes, with all that built-in containers in it refer to.

`sys.getsizeof` measures most objects. For the commonest, short texts and numbers, the same number is computed here from
what the type says.
"""

from cpython.object cimport PyObject

from _collections import deque
from sys import getsizeof


cdef extern from *:
    """
    /* What `sys.getsizeof` returns for objects of a few built-in types without references; 0: ask `sys.getsizeof`. */
    static inline Py_ssize_t
    cb_size_of_atom(PyObject *object)
    {
        if (PyUnicode_CheckExact(object)) {
            if (PyUnicode_IS_COMPACT_ASCII(object)) {
                return (Py_ssize_t)sizeof(PyASCIIObject) + PyUnicode_GET_LENGTH(object) + 1;
            }
            return 0;
        }
        if (PyFloat_CheckExact(object) || object == Py_None) {
            return Py_TYPE(object)->tp_basicsize;
        }
        if (PyBytes_CheckExact(object)) {
            return Py_TYPE(object)->tp_basicsize + PyBytes_GET_SIZE(object);
        }
        if (PyLong_CheckExact(object)) {            /* of one digit of 30 bits */
            int overflow;
            long number = PyLong_AsLongAndOverflow(object, &overflow);
            if (!overflow && number != 0 && number < (1L << 30) && number > -(1L << 30) && PyLong_Type.tp_itemsize == 4) {
                return PyLong_Type.tp_basicsize + 4;
            }
        }
        return 0;
    }

    /* Whether an object's type has no references that are to be counted. */
    static inline int
    cb_is_atom(PyObject *object)
    {
        return PyUnicode_CheckExact(object) || PyLong_CheckExact(object) || PyFloat_CheckExact(object)
            || PyBytes_CheckExact(object) || PyBool_Check(object) || object == Py_None;
    }
    """
    Py_ssize_t size_of_atom "cb_size_of_atom"(PyObject*) noexcept
    bint is_atom "cb_is_atom"(PyObject*) noexcept
    bint is_tuple "PyTuple_Check"(PyObject*) noexcept
    bint is_list "PyList_Check"(PyObject*) noexcept
    bint is_dict "PyDict_Check"(PyObject*) noexcept
    bint is_any_set "PyAnySet_Check"(PyObject*) noexcept


cdef Py_ssize_t size_of_one(object thing) except -1:
    """The size of an object, without what it refers to."""
    cdef Py_ssize_t size = size_of_atom(<PyObject*>thing)
    cdef object kind, more
    if size != 0:
        return size
    size = getsizeof(thing)
    kind = type(thing)
    if is_atom(<PyObject*>thing) or kind in (tuple, list, dict, set, frozenset):
        return size
    if callable(getattr(kind, "memory_usage", None)):           # a frame, a series or an index
        more = thing.memory_usage(deep=True)
        if hasattr(more, "sum"):
            more = more.sum()
        return max(size, int(more))
    if hasattr(kind, "nbytes"):                                 # an array; a view does not count the data that it shows
        more = thing.nbytes
        if isinstance(more, int) and more > size:
            size += more
    return size


cdef int add_parts(object thing, list ahead) except -1:
    """Add what a built-in container refers to. A subclass's own iteration is not used."""
    cdef PyObject* at = <PyObject*>thing
    if is_tuple(at):
        ahead.extend(tuple.__iter__(thing))
    elif is_list(at):
        ahead.extend(list.__iter__(thing))
    elif is_dict(at):
        for pair in list(dict.items(thing)):
            ahead.extend(pair)
    elif is_any_set(at):
        ahead.extend((set if isinstance(thing, set) else frozenset).__iter__(thing))
    elif isinstance(thing, deque):
        ahead.extend(deque.copy(thing))
    return 0


cdef Py_ssize_t size_of_all(list ahead) except -1:
    """The size of objects, together with all that they refer to; each object counts once."""
    cdef Py_ssize_t total = 0
    cdef set seen = set()
    while ahead:
        thing = ahead.pop()
        address = <size_t><PyObject*>thing
        if address in seen:
            continue
        seen.add(address)
        total += size_of_one(thing)
        if not is_atom(<PyObject*>thing):
            add_parts(thing, ahead)
    return total


cdef Py_ssize_t size_of_pair(object key, object value) except -1:
    """The size of a key and its value together; what both refer to counts once."""
    if is_atom(<PyObject*>key) and is_atom(<PyObject*>value) and key is not value:
        return size_of_one(key) + size_of_one(value)
    return size_of_all([key, value])


def sizeof(thing, /):
    """The memory in bytes that an object takes, with all that it refers to if it is a built-in container.

    Lists, tuples, dicts, sets and deques, and objects of their subclasses, count with their items, at any depth; each
    object counts once. An array counts with its data (`nbytes`), a frame as its `memory_usage` says, anything else as
    `sys.getsizeof` says: objects that its attributes refer to do not count. This is the weight of entries in a cache
    with `max_bytes`. O(n) for n objects. Raises what an object's `__sizeof__` raises.

    >>> import sys
    >>> sizeof(["abc", "abc"]) == sys.getsizeof(["abc", "abc"]) + sys.getsizeof("abc")
    True
    """
    if is_atom(<PyObject*>thing):
        return size_of_one(thing)
    return size_of_all([thing])
