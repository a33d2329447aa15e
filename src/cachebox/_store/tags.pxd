"""Tags: which entries of a cache have which.

An entry has a chain of labels, one for each of its tags; a tag has a ring of labels, one for each of its entries. So an
entry that leaves takes its labels along, and to invalidate a tag is to walk its ring: both cost what they touch.

A label owns its Tag. So labels that come off are handed to whoever took them off, for `free_links` after the lock has been
released.

Invariants: a label is in its entry's chain and in its tag's ring, or in neither; `TagLinks.n` counts those that are; a Tag
that has been dropped from the cache's table of tags has no labels, and gets none.
"""

from cpython.object cimport PyObject
from libc.stdint cimport int64_t, uint32_t


cdef struct TagLink:
    uint32_t entry
    TagLink* next                   # in the tag's ring, oldest first
    TagLink* prev
    TagLink* next_of_entry          # the entry's next label
    PyObject* tag                   # the Tag (owned)


cdef struct TagLinks:
    TagLink** chains                # by entry
    uint32_t known                  # entries that `chains` has room for
    Py_ssize_t n                    # labels


cdef class Tag:
    cdef readonly object name
    cdef TagLink ring               # the sentinel
    cdef Py_ssize_t n               # entries
    cdef int64_t invalidated        # when it was last, on the cache's clock of invalidations; 0: never
    cdef bint dropped               # it is not in the cache's table any more: use the one that is


cdef tuple checked_tags(object tags)
cdef TagLink* new_links(list tags) except? NULL
cdef void free_links(TagLink* chain) noexcept           # drops references: never under a lock

# under the cache's lock
cdef bint make_room_for_links(TagLinks* links, uint32_t capacity) noexcept nogil
cdef bint some_dropped(const TagLink* chain) noexcept
cdef bint some_invalidated_since(const TagLink* chain, int64_t began) noexcept
cdef void attach(TagLinks* links, uint32_t i, TagLink* chain) noexcept
cdef TagLink* detach(TagLinks* links, uint32_t i, TagLink* off) noexcept
cdef TagLink* detach_all(TagLinks* links) noexcept
cdef void move_links(TagLinks* links, uint32_t i, uint32_t to) noexcept nogil
cdef void less_room_for_links(TagLinks* links, uint32_t capacity) noexcept nogil
cdef PyObject** copy_tags(const TagLinks* links, uint32_t i, bint* failed) noexcept
cdef int check_links(const TagLinks* links) except -1
