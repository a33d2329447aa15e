"""The links of entries; `tags.pxd` shows how they connect."""

from cpython.object cimport PyObject
from libc.stdint cimport int64_t, uint32_t
from libc.string cimport memset

from cachebox._engine.table cimport allocate, deallocate, decref, incref, reallocate


cdef extern from *:
    PyObject* item_of "PyList_GET_ITEM"(list, Py_ssize_t) noexcept


cdef class Tag:

    def __cinit__(self, name):
        self.name = name
        self.ring.next = self.ring.prev = &self.ring


cdef tuple checked_tags(object tags):
    """Tags as given to `set`, without repetitions: a str is one tag, anything else an iterable of tags."""
    if isinstance(tags, str):
        return (tags,)
    if isinstance(tags, (bytes, bytearray)) or not hasattr(tags, "__iter__"):
        raise TypeError(f"tags must be a str or an iterable of hashable tags, not {type(tags).__name__}")
    found = tuple(tags)             # CPython 3.11 leaks a list for whose copy there is no memory
    for tag in found:
        if not is_hashable(tag):
            raise TypeError(f"tags must be hashable, not {type(tag).__name__}")
    return tuple(dict.fromkeys(found))


cdef bint is_hashable(object tag) except -1:
    try:
        hash(tag)
        return True
    except TypeError:
        pass
    return False


cdef TagLink* new_links(list tags) except? NULL:
    """A chain of links for these Tags, to `attach` to an entry or to `free_links`. NULL: there are none."""
    cdef TagLink* chain = NULL
    cdef TagLink* link
    for tag in tags:
        link = <TagLink*>allocate(sizeof(TagLink))
        if link == NULL:
            free_links(chain)
            raise MemoryError("no memory left for tags")
        link.tag = <PyObject*>tag
        incref(link.tag)
        link.next_of_entry = chain
        chain = link
    return chain


cdef bint make_room_for_links(TagLinks* links, uint32_t capacity) noexcept nogil:
    cdef TagLink** chains
    if links.known <= capacity:
        chains = <TagLink**>reallocate(links.chains, (<size_t>capacity + 1) * sizeof(TagLink*))
        if chains == NULL:
            return False
        memset(chains + links.known, 0, (<size_t>capacity + 1 - links.known) * sizeof(TagLink*))
        links.chains = chains
        links.known = capacity + 1
    return True


cdef bint has_just(const TagLinks* links, uint32_t i, list tags) noexcept:
    """Whether entry i has these Tags and no others."""
    cdef TagLink* link = links.chains[i] if i < links.known else NULL
    cdef Py_ssize_t k = len(tags)
    while link != NULL and k > 0 and link.tag == item_of(tags, k - 1):      # chains begin with the last tag
        link = link.next_of_entry
        k -= 1
    return link == NULL and k == 0


cdef bint some_dropped(const TagLink* chain) noexcept:
    while chain != NULL:
        if (<Tag>chain.tag).dropped:
            return True
        chain = chain.next_of_entry
    return False


cdef bint some_invalidated_since(const TagLink* chain, int64_t began) noexcept:
    while chain != NULL:
        if (<Tag>chain.tag).invalidated > began:
            return True
        chain = chain.next_of_entry
    return False


cdef void attach(TagLinks* links, uint32_t i, TagLink* chain) noexcept:
    """Give entry i, which has none, these links. Needs `make_room_for_links`."""
    cdef TagLink* link = chain
    cdef TagLink* ring
    links.chains[i] = chain
    while link != NULL:
        ring = &(<Tag>link.tag).ring
        link.entry = i
        link.next = ring
        link.prev = ring.prev
        ring.prev.next = link
        ring.prev = link
        (<Tag>link.tag).n += 1
        links.n += 1
        link = link.next_of_entry


cdef TagLink* detach(TagLinks* links, uint32_t i, TagLink* off) noexcept:
    """Take all links from entry i. Returns them as a chain, followed by the links `off`."""
    cdef TagLink* link
    cdef TagLink* chain
    if i >= links.known or links.chains[i] == NULL:
        return off
    chain = link = links.chains[i]
    links.chains[i] = NULL
    while True:
        link.prev.next = link.next
        link.next.prev = link.prev
        (<Tag>link.tag).n -= 1
        links.n -= 1
        if link.next_of_entry == NULL:
            break
        link = link.next_of_entry
    link.next_of_entry = off
    return chain


cdef TagLink* detach_all(TagLinks* links) noexcept:
    """Take all links from all entries, and free the rest of the memory. Returns the links."""
    cdef uint32_t i
    cdef TagLink* off = NULL
    if links.n:
        for i in range(links.known):
            off = detach(links, i, off)
    deallocate(links.chains)
    links.chains = NULL
    links.known = 0
    return off


cdef void move_links(TagLinks* links, uint32_t i, uint32_t to) noexcept nogil:
    """Move the links of an entry that has moved."""
    cdef TagLink* link
    if i >= links.known:
        return
    link = links.chains[to] = links.chains[i]
    links.chains[i] = NULL
    while link != NULL:
        link.entry = to
        link = link.next_of_entry


cdef void less_room_for_links(TagLinks* links, uint32_t capacity) noexcept nogil:
    """Return memory: no entry has an index beyond `capacity` any more."""
    cdef TagLink** chains
    if links.known > capacity + 1:
        chains = <TagLink**>reallocate(links.chains, (<size_t>capacity + 1) * sizeof(TagLink*))
        if chains != NULL:
            links.chains = chains
            links.known = capacity + 1


cdef void free_links(TagLink* chain) noexcept:
    """Free links that are detached."""
    cdef TagLink* next_of_entry
    while chain != NULL:
        next_of_entry = chain.next_of_entry
        decref(chain.tag)
        deallocate(chain)
        chain = next_of_entry


cdef PyObject** copy_tags(const TagLinks* links, uint32_t i, bint* failed) noexcept:
    """New references to the Tags of entry i, with NULL at the end, in new memory. NULL: there are none."""
    cdef TagLink* link = links.chains[i] if i < links.known else NULL
    cdef TagLink* at = link
    cdef PyObject** copied
    cdef Py_ssize_t n = 0
    if link == NULL:
        return NULL
    while at != NULL:
        n += 1
        at = at.next_of_entry
    copied = <PyObject**>allocate((n + 1) * sizeof(PyObject*))
    if copied == NULL:
        failed[0] = True
        return NULL
    copied[n] = NULL
    while link != NULL:                     # chains begin with the last tag
        n -= 1
        copied[n] = link.tag
        incref(link.tag)
        link = link.next_of_entry
    return copied


cdef int check_links(const TagLinks* links) except -1:
    cdef uint32_t i
    cdef Py_ssize_t n = 0
    cdef TagLink* link
    cdef set tags = set()
    for i in range(links.known):
        link = links.chains[i]
        while link != NULL:
            n += 1
            assert link.entry == i, f"a link of entry {i} names entry {link.entry}"
            assert link.next.prev == link and link.prev.next == link, f"a link of entry {i} is not in its ring"
            tags.add(id(<object>link.tag))
            assert not (<Tag>link.tag).dropped, f"entry {i} has a tag that was dropped"
            link = link.next_of_entry
    assert n == links.n, f"{n} links, {links.n} counted"
    return 0
