"""Which of a call's arguments belong to its key: `ignore`, `normalize` and `vary` of `cached`."""

from cpython.object cimport PyObject


cdef extern from *:
    """
    /* The value of a context variable: a new reference, or NULL: it has none, or (-1) an exception is set. */
    #define cb_get_variable(variable, value) PyContextVar_Get(variable, NULL, value)
    """
    int get_variable "cb_get_variable"(PyObject* variable, PyObject** value) noexcept
    bint is_variable "PyContextVar_CheckExact"(PyObject* object) noexcept
    PyObject* item_at "PyTuple_GET_ITEM"(PyObject* tuple, Py_ssize_t at) noexcept


cdef enum:
    FEW = 12
    FAILED = -1


cdef struct Arguments:              # of a call, as its key has them; laid out as the interpreter hands arguments over
    PyObject** items                # positional arguments, then the values of keywords; borrowed but for what is varied
    Py_ssize_t n                    # positional arguments
    Py_ssize_t varied               # ... of which so many at the beginning are what the key varies by: owned
    PyObject* names                 # of keywords: a tuple, owned; NULL: there are none
    PyObject* few[FEW]              # where `items` are, if they are few


cdef class KeyArguments:
    cdef readonly tuple names       # of the parameters: first those that can be given by position, then keyword-only ones
    cdef tuple defaults             # theirs; `_REQUIRED` where there is none
    cdef readonly tuple vary        # ContextVars, and callables
    cdef readonly bint normalize
    cdef readonly bint ignores_first    # ... parameter, which may be the instance
    cdef Py_ssize_t by_position     # how many parameters can be given by position
    cdef Py_ssize_t only_by_position
    cdef PyObject* source           # what keys vary by, if that is one context variable
    cdef PyObject* required         # stands for no default
    cdef bint takes_one             # argument, by position, which belongs to the key
    cdef bint is_quick              # `select_quickly` need not look for more than `source`
    cdef bint has_rest              # *args
    cdef bint has_more              # **kwargs
    cdef bint ignores_rest
    cdef bint ignores_more
    cdef bytes ignored              # a byte for each parameter: whether it does not belong to the key
    cdef const char* is_ignored     # ... where these are
    cdef readonly frozenset ignored_names
    cdef dict index_of              # parameters that can be keywords
    cdef readonly tuple positional  # names of the parameters by position that belong to the key
    cdef tuple keyword_only         # ... and of the others

    cdef int take(
        self, PyObject** args, Py_ssize_t n, PyObject* names, Py_ssize_t first, Arguments* taken
    ) except -1
    cdef int take_as_given(
        self, PyObject** args, Py_ssize_t n, PyObject* names, Py_ssize_t first, Arguments* taken
    ) except -1
    cdef int take_normalized(
        self, PyObject** args, Py_ssize_t n, PyObject* names, Py_ssize_t first, Arguments* taken
    ) except -1
    cdef int arrange(
        self, PyObject** args, Py_ssize_t n, Py_ssize_t rest, Py_ssize_t first, dict more, Arguments* taken
    ) except -1
    cdef int vary_by(self, Arguments* taken) except -1
    cdef int read(self, object function, tuple ignored, bint hashes) except -1


cdef void drop(Arguments* taken) noexcept


cdef inline Py_ssize_t select_quickly(
    KeyArguments chosen, PyObject** args, Py_ssize_t n, PyObject* names, PyObject** items, PyObject** varied
) noexcept:
    """The commonest cases of `KeyArguments.take`: few arguments, by position, that vary by one context variable at most.

    Returns how many `items` it told, or 0: it is not so simple. FAILED: an exception is set. `varied` is owned.
    """
    cdef const char* is_ignored = chosen.is_ignored
    cdef Py_ssize_t k, at = 0
    if names != NULL or n > chosen.by_position and (chosen.normalize or chosen.ignores_rest):
        return 0
    if chosen.source != NULL:
        if get_variable(chosen.source, varied) < 0:
            return FAILED
        if varied[0] == NULL:
            return 0
        items[0] = varied[0]
        at = 1
    elif not chosen.is_quick:
        return 0
    if n + at > FEW:
        return 0
    for k in range(n):
        if k >= chosen.by_position or not is_ignored[k]:
            items[at] = args[k]
            at += 1
    if chosen.normalize:
        for k in range(n, chosen.by_position):
            if not is_ignored[k]:
                items[at] = item_at(<PyObject*>chosen.defaults, k)
                if items[at] == chosen.required:
                    return 0
                at += 1
    return at
