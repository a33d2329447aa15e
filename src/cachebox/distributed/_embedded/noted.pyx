"""A value with the counters that say whether the second tier still has it."""

from cpython.mem cimport PyMem_Free, PyMem_Malloc
from cpython.object cimport PyObject
from libc.stdint cimport uint64_t

from cachebox.distributed._embedded.page cimport Page, hash_key, load


cdef class Noted:
    """A value that a first tier holds of a folder. Immutable."""

    def __dealloc__(self):
        PyMem_Free(self.tag_counters)
        PyMem_Free(self.tag_counts)


cdef Noted note(Page page, object value, uint64_t h, uint64_t count, tuple tags):
    """A value that was read while its key's counter was `count`. The counters of its tags are read here."""
    cdef Noted noted = Noted.__new__(Noted)
    cdef Py_ssize_t i
    noted.value = value
    noted.page = page
    noted.counter = &page.bucket_of(h).count
    noted.count = count
    noted.visited = page.visited_at(h)
    if tags:
        noted.tag_counters = <const uint64_t**>PyMem_Malloc(len(tags) * sizeof(uint64_t*))
        noted.tag_counts = <uint64_t*>PyMem_Malloc(len(tags) * sizeof(uint64_t))
        if noted.tag_counters == NULL or noted.tag_counts == NULL:
            raise MemoryError()
        for i in range(len(tags)):
            noted.tag_counters[i] = &page.bucket_of(hash_key(page, named(tags[i]))).count
            noted.tag_counts[i] = load(noted.tag_counters[i])
        noted.n = <int>len(tags)
    return noted


def named(str tag):
    """The key under which a tag is counted among the keys.

    >>> named("a")
    '\\x00tag:a'
    """
    return "\0tag:" + tag


cdef bint tags_are_current(PyObject* noted) noexcept:
    cdef int i
    for i in range((<Noted>noted).n):
        if load((<Noted>noted).tag_counters[i]) != (<Noted>noted).tag_counts[i] or (<Noted>noted).tag_counts[i] & 1:
            return False
    return True
