from cachebox._store.store cimport Store


cdef class Cache(Store):
    cdef object name_of_policy      # a built-in policy's name, or the policy object that was given
    cdef object default_ttl_given
    cdef object time_to_idle_given
    cdef object isolate_given
    cdef object loads_by_loop       # the loads of coroutines, by event loop; None: there never were any
    cdef object stale_ttl_given
    cdef object exception_ttl_given
    cdef bint ready                 # __init__ or __setstate__ has run
    cdef bint is_nameless           # it stands in `registry.nameless`

    cdef int configure(self, dict options) except -1
    cdef int configure_plainly(self, object max_size, object default_ttl) except -1
    cdef int make_known(self) except -1
    cdef int configure_like(self, dict options) except -1
    cdef dict options(self)
