"""The arguments that belong to a call's key: `ignore`, `normalize` and `vary` of `cached`."""

from cpython.object cimport PyObject


cdef extern from *:
    """
    /* Sets a new reference to the value of a context variable. NULL: no value, or (returning -1) an exception is set. */
    #define cb_get_variable(variable, value) PyContextVar_Get(variable, NULL, value)
    """
    int get_variable "cb_get_variable"(PyObject* variable, PyObject** value) noexcept
    bint is_variable "PyContextVar_CheckExact"(PyObject* object) noexcept
    PyObject* item_at "PyTuple_GET_ITEM"(PyObject* tuple, Py_ssize_t at) noexcept


cdef enum:
    FEW = 12
    FAILED = -1


cdef struct Arguments:              # the arguments in a call's key, in the layout of the interpreter's vectorcall
    PyObject** items   # positional arguments, then the values of keywords; borrowed, but for those that are varied
    Py_ssize_t n                    # number of positional arguments
    Py_ssize_t varied               # how many of them, at the beginning, are values of `vary`: owned
    PyObject* names                 # names of keywords: an owned tuple; NULL: there are none
    PyObject* few[FEW]              # memory of `items` if they are few


cdef class KeyArguments:
    cdef readonly tuple names       # of the parameters: those that can be given by position, then keyword-only ones
    cdef tuple defaults             # of the parameters; `_REQUIRED` for those without
    cdef readonly tuple vary        # ContextVars, and callables
    cdef readonly bint normalize
    cdef readonly bint ignores_first    # the first parameter is ignored, which may be the receiver
    cdef Py_ssize_t by_position     # how many parameters can be given by position
    cdef Py_ssize_t only_by_position
    cdef PyObject* source           # the one context variable in `vary`; NULL: none, several, or callables
    cdef PyObject* required         # stands for "no default"
    cdef bint takes_one             # the key is that of one positional argument
    cdef bint is_quick              # `select_quickly` needs to look only at `source`
    cdef bint has_rest              # *args
    cdef bint has_more              # **kwargs
    cdef bint ignores_rest
    cdef bint ignores_more
    cdef bytes ignored              # a byte for each parameter: whether it is ignored
    cdef const char* is_ignored     # the bytes of `ignored`
    cdef readonly frozenset ignored_names
    cdef dict index_of              # the index of each parameter that can be a keyword
    cdef readonly tuple positional  # names of the parameters by position that belong to the key
    cdef tuple keyword_only         # names of the keyword-only parameters that belong to the key

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
    """The commonest cases of `KeyArguments.take`: few positional arguments, which vary by at most one context variable.

    Sets `items`, and `varied`, which is owned. Returns the number of items; 0: it is not so simple; FAILED: an
    exception is set.
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
