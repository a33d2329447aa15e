"""Checks of a cache's options."""


cdef bint is_monotonic(object clock)
cdef int check_callables(dict options) except -1
cdef double bound_on_weight(object max_weight, object weigher) except -1.0
cdef object bound_on_bytes(dict options)
cpdef double jitter_of(object given) except -1.0
cdef object copier_of(object isolate)
cpdef str checked_name(object name)

cdef double lifetime_of(object ttl, str name) except -1.0
cdef object seconds_given(object ttl)
cdef double number_of(object given, str name, str wanted) except? -1.0
cdef double as_float(object number) except? -1.0
