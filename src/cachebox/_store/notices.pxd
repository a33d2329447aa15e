"""What a cache tells its surroundings, without its lock. All of it may run the user's code."""

from cpython.object cimport PyObject

from cachebox._store.operation cimport Cause
from cachebox._store.state cimport State


cdef object notify(State store, PyObject* key, PyObject* value, Cause cause)
cdef int note_failure(State store, str what, object error) except -1
cdef int note_success(State store, str what) except -1
cdef int call_sweeper(State store) except -1
cdef object as_exhaustion(object error)
cdef int import_causes() except -1
