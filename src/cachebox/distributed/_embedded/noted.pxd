from cpython.object cimport PyObject
from libc.stdint cimport uint8_t, uint64_t

from cachebox.distributed._embedded.page cimport Page, load, mark_used


cdef class Noted:
    cdef readonly object value
    cdef Page page                  # keeps the mapping alive
    cdef const uint64_t* counter
    cdef uint64_t count
    cdef uint8_t* visited
    cdef int n                      # the number of tags; at 0 the next two fields are NULL
    cdef const uint64_t** tag_counters
    cdef uint64_t* tag_counts


cdef Noted note(Page page, object value, uint64_t h, uint64_t count, tuple tags)
cdef bint tags_are_current(PyObject* noted) noexcept


cdef inline bint is_noted(PyObject* value) noexcept:
    return type(<object>value) is Noted


cdef inline bint is_current(PyObject* noted) noexcept:
    """Whether nothing has changed since the value was read."""
    return load((<Noted>noted).counter) == (<Noted>noted).count and (
        (<Noted>noted).n == 0 or tags_are_current(noted)
    )


cdef inline void mark(PyObject* noted) noexcept:
    """Record that the value was used."""
    mark_used((<Noted>noted).visited)
