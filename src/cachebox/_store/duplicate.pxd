"""A copy of a whole cache at the speed of memory: of its arrays, not of one entry after the other."""

from cachebox._store.store cimport Store


cdef bint duplicate(Store copied, Store store) except -1
