"""The invariants of a cache, for tests."""

from cachebox._store.store cimport Store


cdef int check(Store store) except -1       # AssertionError where one does not hold. O(n)
