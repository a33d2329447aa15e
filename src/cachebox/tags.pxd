"""Tags: which entries of a cache have which.

An entry has a chain of labels, one for each of its tags; a tag has a ring of labels, one for each of its entries. So an
entry that leaves takes its labels along, and to invalidate a tag is to walk its ring: both cost what they touch.

Invariants: a label is in its entry's chain and in its tag's ring, or in neither; `Labels.n` counts those that are; a tag
that has been dropped from the cache's dict has no labels, and gets none.
"""

from cpython.object cimport PyObject
from libc.stdint cimport int64_t, uint32_t


cdef struct Label:
    uint32_t entry
    Label* next                     # in the tag's ring, oldest first
    Label* prev
    Label* other                    # the entry's next label
    PyObject* tag                   # the Tag (borrowed: one with labels stays in the cache's dict)


cdef struct Labels:
    Label** chains                  # by entry
    uint32_t known                  # entries that `chains` has room for
    Py_ssize_t n                    # labels


cdef class Tag:
    cdef readonly object name
    cdef Label ring                 # the sentinel
    cdef Py_ssize_t n               # entries
    cdef int64_t invalidated        # when it was last, on the cache's clock of invalidations; 0: never
    cdef bint dropped               # it is not in the cache's dict any more: use the one that is


cdef tuple checked_tags(object tags)
cdef Label* new_labels(list tags) except? NULL

# under the cache's lock
cdef bint make_room_for_labels(Labels* labels, uint32_t capacity) noexcept nogil
cdef bint some_dropped(const Label* chain) noexcept
cdef bint some_invalidated_since(const Label* chain, int64_t began) noexcept
cdef void stick(Labels* labels, uint32_t i, Label* chain) noexcept
cdef void peel(Labels* labels, uint32_t i) noexcept
cdef void peel_all(Labels* labels) noexcept
cdef void free_labels(Label* chain) noexcept
cdef PyObject** copy_tags(const Labels* labels, uint32_t i, bint* failed) noexcept
cdef int check_labels(const Labels* labels) except -1
