from cachebox._calls.cached_call cimport CachedCall, vectorcallfunc


# Cython frees long chains of objects without recursion (`trashcan`), but only of a class with a member of its own.

cdef class CachedFunction(CachedCall):
    cdef object claim               # to its name; it lives as long as the function
    cdef object reload_async        # of an async function: makes a coroutine that loads a value, even if there is one
    cdef object own_tag             # the tag of its entries in a shared cache, if a key_func makes the keys; or None

    cdef object peek_call(self, tuple args, dict kwargs, bint as_method)
    cdef object refresh_call(self, tuple args, dict kwargs, bint as_method)
    cdef int set_call(self, object value, tuple args, dict kwargs, bint as_method) except -1
    cdef bint invalidate_call(self, tuple args, dict kwargs, bint as_method) except -1
    cdef object receiver_in(self, object key)
    cdef object anew(self)
    cdef bint forget_call(self, object key) except -1
    cdef bint forget_below(self, tuple args, dict kwargs) except -1


cdef class CachedMethod(CachedFunction):
    cdef object member              # None: it is there for `trashcan`, see above


cdef class BoundFunction:
    cdef vectorcallfunc vectorcall
    cdef readonly CachedFunction __func__
    cdef readonly object __self__
    cdef object __weakref__
