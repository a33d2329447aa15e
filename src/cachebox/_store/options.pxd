"""What the options of a cache may be."""

cdef double lifetime_of(object ttl, str name) except -1.0
cdef object seconds_given(object ttl)
cdef bint is_monotonic(object clock)
cdef int check_callables(dict options) except -1
cdef double bound_on_weight(object max_weight, object weigher) except -1.0
cdef double number_of(object given, str name, str wanted) except? -1.0
