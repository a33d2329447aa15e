"""Lifetimes and other numbers that users give, as floats."""

cdef double lifetime_of(object ttl, str name) except -1.0
cdef object seconds_given(object ttl)
cdef double number_of(object given, str name, str wanted) except? -1.0
cdef double as_float(object number) except? -1.0
