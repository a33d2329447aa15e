"""Which of a call's arguments belong to its key: `ignore`, `normalize` and `vary` of `cached`."""

from cpython.object cimport PyObject


cdef enum:
    FEW = 12


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
