"""Keeps a thread of ours going: it calls the thread's function again after any exception.

An asynchronous exception may come between any two steps of Python code, even in an `except` clause. Compiled code has
no such gaps, so no exception ends this loop.
"""

from cpython.exc cimport PyErr_Clear, PyErr_SetObject, PyErr_WriteUnraisable
from cpython.object cimport PyObject
from cpython.ref cimport Py_XDECREF
from time import sleep

from cachebox._platform.clock cimport coarse_now

cdef extern from "Python.h":
    PyObject* call "PyObject_CallFunctionObjArgs" (object function, ...)

# Seconds before the function is called again, by the number of failures in a row. A call that ran longer than the
# longest pause has worked for a while, so its failure is the first of a new row.
cdef tuple PAUSES = (0.0, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2)
cdef double LONGEST = 0.2


def keep_running(run, begun=None):
    """Call a function until it returns. Each exception goes to `sys.unraisablehook`.

    `begun` is a lock to release first: from then on no exception can end the thread. The function may be interrupted
    anywhere. When it is called again, it has to find out where it was.
    """
    cdef double began
    cdef PyObject* result
    cdef Py_ssize_t failures = 0
    if begun is not None:
        begun.release()
    while True:
        began = coarse_now()
        result = call(run, <void*>NULL)
        if result != NULL:
            Py_XDECREF(result)
            return
        PyErr_WriteUnraisable(run)              # reports its own failures itself, and raises nothing
        if coarse_now() - began > LONGEST:
            failures = 0
        result = call(sleep, <PyObject*>PAUSES[failures], <void*>NULL)
        Py_XDECREF(result)
        PyErr_Clear()
        failures = min(failures + 1, len(PAUSES) - 1)


def report(error, thing):
    """Report an exception of background work, which no caller waits for, to `sys.unraisablehook`."""
    PyErr_SetObject(type(error), error)
    PyErr_WriteUnraisable(thing)
