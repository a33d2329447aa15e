"""Catching exceptions when there may be no memory left.

Cython's `with` and `except ... as` assume that an exception has a traceback, and crash if there was no memory for one.
So does any `except` after which code goes on. Safe are `pass` alone, `finally`, and an `except` that raises again.

Compiled code that a MemoryError may pass through must call what may raise by `ask`, or through a pointer whose type
does not declare exceptions. It gets the exception from `caught`.
"""

from cpython.object cimport PyObject


cdef extern from *:
    """
    /* Takes the current exception out of the thread's state and returns it. */
    static PyObject *
    cb_caught(void)
    {
    #if PY_VERSION_HEX >= 0x030C0000
        return PyErr_GetRaisedException();
    #else
        PyObject *type, *error, *traceback;
        PyErr_Fetch(&type, &error, &traceback);
        PyErr_NormalizeException(&type, &error, &traceback);
        if (traceback != NULL) {
            PyException_SetTraceback(error, traceback);
        }
        Py_XDECREF(type);
        Py_XDECREF(traceback);
        return error;
    #endif
    }
    """
    object caught "cb_caught"()
    PyObject* ask "PyObject_CallFunctionObjArgs"(PyObject* callable, ...) noexcept      # the arguments end with NULL
    Py_hash_t ask_hash "PyObject_Hash"(PyObject* key) noexcept


cdef inline int raise_current() except -1:
    """Let the current exception propagate."""
    return -1
