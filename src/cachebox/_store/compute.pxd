"""Read, modify, write, as one step.

The value is read and the key watched; the new value is computed without any lock, and stored only if nobody has written
the key meanwhile. What stands for "no value" is `missing`.
"""

from libc.stdint cimport uint32_t, uint64_t

from cachebox._store.state cimport Watch
from cachebox._store.store cimport Store


cdef Watch new_watch(Store store)
cdef object look_and_watch(Store store, object key, uint64_t h, Watch watch, object missing)
cdef int stop_watching(Store store, Watch watch) except -1
cdef bint replace(
    Store store, object key, uint64_t h, Watch watch, object old, object new, double lifetime, double weight,
    object missing,
) except -1
