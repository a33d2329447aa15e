from cachebox.operation cimport Operation


cdef class Foreign:
    cdef object policy
    cdef object turn                # a re-entrant lock
    cdef object __weakref__

    # without the cache's lock
    cdef int enter(self, Operation* op) except -1
    cdef int exit(self, Operation* op) except -1
    cdef int tell(self, Operation* op) except -1
    cdef object victim(self)
