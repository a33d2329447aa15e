"""Tags: which entries of a cache have which.

A link connects one entry with one of its tags. An entry has a chain of links, one for each of its tags; a tag has a
ring of links, one for each of its entries. So an entry that leaves takes its links along, and invalidating a tag walks
its ring: both cost O(1) for each link.

A link owns its Tag. So the caller that detaches links gets them, for `free_links` after it has released the lock.

Invariants: a link is in its entry's chain and in its tag's ring, or in neither; `TagLinks.n` counts those that are; a
Tag that was dropped from the cache's table of tags has no links, and gets none.
"""

from cpython.object cimport PyObject
from libc.stdint cimport int64_t, uint32_t


cdef struct TagLink:
    uint32_t entry
    TagLink* next                   # in the tag's ring, oldest first
    TagLink* prev
    TagLink* next_of_entry          # the entry's next link
    PyObject* tag                   # the Tag (owned)


cdef struct TagLinks:
    TagLink** chains                # by entry
    uint32_t known                  # entries that `chains` has room for
    Py_ssize_t n                    # links


cdef class Tag:
    cdef readonly object name
    cdef TagLink ring               # the sentinel
    cdef Py_ssize_t n               # entries
    cdef int64_t invalidated        # when it was last invalidated, as a count of the cache's invalidations; 0: never
    cdef bint dropped               # it is no longer in the cache's table: use the one that is


cdef tuple checked_tags(object tags)
cdef TagLink* new_links(list tags) except? NULL
cdef void free_links(TagLink* chain) noexcept           # drops references: never under a lock

# under the cache's lock
cdef bint make_room_for_links(TagLinks* links, uint32_t capacity) noexcept nogil
cdef bint has_just(const TagLinks* links, uint32_t i, list tags) noexcept    # in this order
cdef bint some_dropped(const TagLink* chain) noexcept
cdef bint some_invalidated_since(const TagLink* chain, int64_t began) noexcept
cdef void attach(TagLinks* links, uint32_t i, TagLink* chain) noexcept
cdef TagLink* detach(TagLinks* links, uint32_t i, TagLink* off) noexcept
cdef TagLink* detach_all(TagLinks* links) noexcept
cdef void move_links(TagLinks* links, uint32_t i, uint32_t to) noexcept nogil
cdef void less_room_for_links(TagLinks* links, uint32_t capacity) noexcept nogil
cdef PyObject** copy_tags(const TagLinks* links, uint32_t i, bint* failed) noexcept
cdef int check_links(const TagLinks* links) except -1
