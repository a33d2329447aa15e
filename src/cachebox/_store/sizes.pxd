"""How much memory an object takes, with all that built-in containers in it refer to."""

cdef Py_ssize_t size_of_pair(object key, object value) except -1
