"""Exceptions caught where there may be no memory left.

Cython's `with` and `except ... as` take for granted that an exception has a traceback, and crash where there was no memory
for one; so does any `except` that goes on (`pass` alone is safe, and so are `finally` and an `except` that raises again).
In compiled code that a MemoryError may pass, call what may raise through a pointer whose type says nothing of exceptions,
or by `ask`, and take what it raised with `caught`.
"""

from cpython.object cimport PyObject


cdef extern from *:
    """
    /* The exception that is set, taken away from where it is set. */
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
    PyObject* ask "PyObject_CallFunctionObjArgs"(PyObject* callable, ...) noexcept      # NULL at the end
    Py_hash_t ask_hash "PyObject_Hash"(PyObject* key) noexcept


cdef inline int raise_current() except -1:
    """Let the exception that is set take its course."""
    return -1
