"""Operations on many keys, without a loader. All input is checked first; then one operation follows the other.

`items` and `keys` belong to the caller alone: nobody else can change them meanwhile.
"""

from cachebox._store.store cimport Store


cdef dict get_all(Store store, list keys)
cdef int set_all(Store store, object items, double lifetime, tuple tags) except -1      # a dict, or a list of pairs
cdef Py_ssize_t delete_all(Store store, list keys) except -1
