"""What keeps a thread of ours going: its function is called again when it has raised something, whatever that is.

An asynchronous exception comes between two steps of Python code, in an `except` clause too. Compiled code has no such
gaps: so nothing gets past this loop.
"""

from cpython.exc cimport PyErr_Clear, PyErr_SetObject, PyErr_WriteUnraisable
from cpython.object cimport PyObject
from cpython.ref cimport Py_XDECREF
from time import sleep

from cachebox._platform.clock cimport coarse_now

cdef extern from "Python.h":
    PyObject* call "PyObject_CallFunctionObjArgs" (object function, ...)

# Seconds before the function is called again, by how often it has failed in a row. A call that took longer than the
# longest of them has worked for a while: its failure is the first of a row.
cdef tuple PAUSES = (0.0, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2)
cdef double LONGEST = 0.2


def keep_running(run, begun=None):
    """Call a function until it returns. Each exception goes to `sys.unraisablehook`.

    `begun`: a lock to release first, for from then on nothing can end this. The function may be interrupted anywhere, and
    has to find its way from there when it is called again.
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
        PyErr_WriteUnraisable(run)              # it reports its own failures itself, and raises nothing
        if coarse_now() - began > LONGEST:
            failures = 0
        result = call(sleep, <PyObject*>PAUSES[failures], <void*>NULL)
        Py_XDECREF(result)
        PyErr_Clear()
        failures = min(failures + 1, len(PAUSES) - 1)


def report(error, thing):
    """Tell `sys.unraisablehook` of an exception in the background, where nobody waits for it."""
    PyErr_SetObject(type(error), error)
    PyErr_WriteUnraisable(thing)
