"""The check of a cache's invariants, for tests."""

from cachebox._store.store cimport Store


cdef int check(Store store) except -1       # raises AssertionError if one does not hold. O(n)
