"""The labels of entries; `tags.pxd` shows how they hang together."""

from cpython.object cimport PyObject
from libc.stdint cimport int64_t, uint32_t
from libc.string cimport memset

from cachebox._engine.table cimport allocate, deallocate, decref, incref, reallocate


cdef class Tag:

    def __cinit__(self, name):
        self.name = name
        self.ring.next = self.ring.prev = &self.ring


cdef tuple checked_tags(object tags):
    """Tags as given to `set`, without repetitions: a str is one tag, anything else an iterable of them."""
    if isinstance(tags, str):
        return (tags,)
    if isinstance(tags, (bytes, bytearray)) or not hasattr(tags, "__iter__"):
        raise TypeError(f"tags must be a str or an iterable of hashable tags, not {type(tags).__name__}")
    found = tuple(tags)             # a list would be kept alive by one that finds no memory for its copy, in CPython 3.11
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


cdef Label* new_labels(list tags) except? NULL:
    """A chain of labels for these Tags, to `stick` to an entry, or `free_labels`. NULL: there are none."""
    cdef Label* chain = NULL
    cdef Label* label
    for tag in tags:
        label = <Label*>allocate(sizeof(Label))
        if label == NULL:
            free_labels(chain)
            raise MemoryError("no memory left for tags")
        label.tag = <PyObject*>tag
        incref(label.tag)
        label.other = chain
        chain = label
    return chain


cdef bint make_room_for_labels(Labels* labels, uint32_t capacity) noexcept nogil:
    cdef Label** chains
    if labels.known <= capacity:
        chains = <Label**>reallocate(labels.chains, (<size_t>capacity + 1) * sizeof(Label*))
        if chains == NULL:
            return False
        memset(chains + labels.known, 0, (<size_t>capacity + 1 - labels.known) * sizeof(Label*))
        labels.chains = chains
        labels.known = capacity + 1
    return True


cdef bint some_dropped(const Label* chain) noexcept:
    while chain != NULL:
        if (<Tag>chain.tag).dropped:
            return True
        chain = chain.other
    return False


cdef bint some_invalidated_since(const Label* chain, int64_t began) noexcept:
    while chain != NULL:
        if (<Tag>chain.tag).invalidated > began:
            return True
        chain = chain.other
    return False


cdef void stick(Labels* labels, uint32_t i, Label* chain) noexcept:
    """Give entry i, which has none, these labels. Needs `make_room_for_labels`."""
    cdef Label* label = chain
    cdef Label* ring
    labels.chains[i] = chain
    while label != NULL:
        ring = &(<Tag>label.tag).ring
        label.entry = i
        label.next = ring
        label.prev = ring.prev
        ring.prev.next = label
        ring.prev = label
        (<Tag>label.tag).n += 1
        labels.n += 1
        label = label.other


cdef Label* peel(Labels* labels, uint32_t i, Label* off) noexcept:
    """Take all its labels from entry i. Returns them, and behind them those that were `off` before."""
    cdef Label* label
    cdef Label* chain
    if i >= labels.known or labels.chains[i] == NULL:
        return off
    chain = label = labels.chains[i]
    labels.chains[i] = NULL
    while True:
        label.prev.next = label.next
        label.next.prev = label.prev
        (<Tag>label.tag).n -= 1
        labels.n -= 1
        if label.other == NULL:
            break
        label = label.other
    label.other = off
    return chain


cdef Label* peel_all(Labels* labels) noexcept:
    """All entries are gone. Gives the memory back, but for the labels, which it returns."""
    cdef uint32_t i
    cdef Label* off = NULL
    if labels.n:
        for i in range(labels.known):
            off = peel(labels, i, off)
    deallocate(labels.chains)
    labels.chains = NULL
    labels.known = 0
    return off


cdef void move_labels(Labels* labels, uint32_t i, uint32_t to) noexcept nogil:
    """Entry i stands at `to` now."""
    cdef Label* label
    if i >= labels.known:
        return
    label = labels.chains[to] = labels.chains[i]
    labels.chains[i] = NULL
    while label != NULL:
        label.entry = to
        label = label.other


cdef void less_room_for_labels(Labels* labels, uint32_t capacity) noexcept nogil:
    """No entry stands beyond `capacity` any more."""
    cdef Label** chains
    if labels.known > capacity + 1:
        chains = <Label**>reallocate(labels.chains, (<size_t>capacity + 1) * sizeof(Label*))
        if chains != NULL:
            labels.chains = chains
            labels.known = capacity + 1


cdef void free_labels(Label* chain) noexcept:
    """Labels that are stuck to nothing."""
    cdef Label* other
    while chain != NULL:
        other = chain.other
        decref(chain.tag)
        deallocate(chain)
        chain = other


cdef PyObject** copy_tags(const Labels* labels, uint32_t i, bint* failed) noexcept:
    """New references to the Tags of entry i, with NULL at their end, in memory of its own. NULL: there are none."""
    cdef Label* label = labels.chains[i] if i < labels.known else NULL
    cdef Label* at = label
    cdef PyObject** copied
    cdef Py_ssize_t n = 0
    if label == NULL:
        return NULL
    while at != NULL:
        n += 1
        at = at.other
    copied = <PyObject**>allocate((n + 1) * sizeof(PyObject*))
    if copied == NULL:
        failed[0] = True
        return NULL
    copied[n] = NULL
    while label != NULL:                    # chains begin with the last tag
        n -= 1
        copied[n] = label.tag
        incref(label.tag)
        label = label.other
    return copied


cdef int check_labels(const Labels* labels) except -1:
    cdef uint32_t i
    cdef Py_ssize_t n = 0
    cdef Label* label
    cdef set tags = set()
    for i in range(labels.known):
        label = labels.chains[i]
        while label != NULL:
            n += 1
            assert label.entry == i, f"a label of entry {i} thinks it is that of {label.entry}"
            assert label.next.prev == label and label.prev.next == label, f"a label of entry {i} is not in its ring"
            tags.add(id(<object>label.tag))
            assert not (<Tag>label.tag).dropped, f"entry {i} has a tag that was dropped"
            label = label.other
    assert n == labels.n, f"{n} labels, {labels.n} counted"
    return 0
