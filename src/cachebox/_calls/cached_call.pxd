"""A call of a cached function: its key, a hit, a miss, and its receiver if the function is a method.

A hit must cost less than the call of an empty function, so it allocates nothing. The interpreter leaves the arguments
where they are; they are hashed there, and compared with the keys in the cache (`entry_points`).
"""

from cpython.object cimport PyObject
from libc.stdint cimport int64_t, uint32_t, uint64_t

from cachebox._calls.call_key cimport Call, call_key, type_of
from cachebox._calls.key_arguments cimport KeyArguments
from cachebox._loading.fetch cimport LoadSpec
from cachebox.cache cimport Cache


cdef extern from "Python.h":
    ctypedef PyObject* (*vectorcallfunc)(PyObject* self, PyObject** args, size_t nargsf, PyObject* names) except NULL


cdef enum SingleArg:                # when the key of a call is its one positional argument itself
    NEVER
    PLAIN                           # if it is an int or a str, as with functools
    ALWAYS


cdef extern from *:
    """
    #ifdef Py_GIL_DISABLED
    #  define cb_count(counter) ((void)_Py_atomic_add_int64(counter, 1))
    #else
    #  define cb_count(counter) ((void)++*(counter))
    #endif

    #define cb_is_plain(object) (PyUnicode_CheckExact(object) || PyLong_CheckExact(object))
    #define cb_takes_weak_references(object) PyType_SUPPORTS_WEAKREFS(Py_TYPE(object))
    #define cb_items(tuple) (((PyTupleObject *)(tuple))->ob_item)
    """
    void count "cb_count"(int64_t*)
    bint is_plain "cb_is_plain"(PyObject*) noexcept
    bint takes_weak_references "cb_takes_weak_references"(PyObject*) noexcept
    PyObject** items_of "cb_items"(tuple)


cdef class CachedCall:
    cdef vectorcallfunc vectorcall
    cdef Cache _cache
    cdef object function
    cdef object function_id         # distinguishes the function's keys in a shared cache; None: the cache is its own
    cdef SingleArg single_arg
    cdef bint typed
    cdef bint is_simple             # keys are the arguments as they are: no function id, no types, no key_func
    cdef KeyArguments key_arguments     # the arguments that belong to the key; None: all, as they are
    cdef bint by_instance           # a method's results belong to its receiver, unless the keys ignore that
    cdef bint binds_weakly          # a method's results belong to its receiver, but do not keep it alive
    cdef bint is_method             # the first argument is the receiver, however the method is called
    cdef bint asks_classes          # the class of the first argument may tell that it is the receiver: see `receives`
    cdef public bint _may_be_class_method       # a class method that does not bind it may be above it: see `methods`
    cdef uint64_t known[8]   # answers of classes: twice the version of a class, with the answer in the lowest bit
    cdef str first_name             # name of the first parameter, if that can be a keyword
    cdef bint single_flight
    # lru_cache's rules: store a result even if the key was written or cleared during the call
    cdef bint functools_rules
    cdef bint keep_first            # with these rules: keep a result that another call stored first
    cdef double lifetime
    cdef object ttl_of              # a function of the result that returns its ttl, or None
    cdef object condition
    cdef object tags                # a tuple, or a function of the result and the arguments; or None
    cdef object failures            # the negative cache of the calls, a Failures; or None
    cdef bint own_failures          # it is the function's, not the cache's
    cdef object key_func
    cdef object ready               # of an async function: makes a coroutine of an existing value
    cdef object load_async          # of an async function: makes a coroutine that loads the value
    cdef bint serves                # serves old results during a refresh: `ahead` or `stale` is not 0
    cdef double ahead               # the share of a result's lifetime, at its end, in which it is refreshed
    cdef double stale               # the seconds after its deadline in which a result is served
    cdef bint stores                # stores results; `lru_cache(maxsize=0)` does not
    cdef bint warned                # a warning has said why results are not stored
    cdef dict parameters
    cdef object nullary             # the key of the call without arguments, once it was made
    cdef uint32_t nullary_at        # where that entry was
    cdef dict receivers             # of a method: the Receiver of every object with results, by id
    cdef dict members               # of a method: the Member of every object that lives as long as its class
    cdef int64_t hits               # of this function; counted only in a shared cache
    cdef int64_t misses
    cdef dict __dict__
    cdef object __weakref__

    cdef PyObject* call_selected(self, PyObject** args, Py_ssize_t n, PyObject* names, bint as_method) except NULL
    cdef PyObject* find_selected(
        self, const Call* call, Py_hash_t* hashed, PyObject** args, Py_ssize_t n, PyObject* names, bint as_method
    ) except? NULL
    cdef int explain(self, PyObject** args, Py_ssize_t n, PyObject* names, bint as_method) except -1
    cdef PyObject* serve(
        self, object key, Py_hash_t hashed, PyObject** args, Py_ssize_t n, PyObject* names, object receiver
    ) except? NULL
    cdef int start_refresh(
        self, object key, uint64_t h, PyObject** args, Py_ssize_t n, PyObject* names, object receiver
    ) except -1
    cdef PyObject* call(self, PyObject** args, Py_ssize_t n, PyObject* names, bint as_method) except NULL
    cdef bint receives(self, PyObject** args, Py_ssize_t n, PyObject* names) except -1
    cdef bint ask_class(self, PyObject* first, uint32_t version) except -1
    cdef PyObject* call_unreceived(self, PyObject** args, Py_ssize_t n, PyObject* names) except NULL
    cdef PyObject* call_received(self, PyObject** args, Py_ssize_t n, PyObject* names) except NULL
    cdef PyObject* passed(
        self, object value, object key, Py_hash_t hashed, PyObject** args, Py_ssize_t n, PyObject* names, object receiver,
        bint anew,
    ) except NULL
    cdef int become_async(self) except -1
    cdef object begin(
        self, object load_async, object key, Py_hash_t hashed, PyObject** args, Py_ssize_t n, PyObject* names,
        object receiver,
    )
    cdef int warn_uncached(self, object instance) except -1
    cdef PyObject* find_nullary(self, PyObject** args) except NULL
    cdef PyObject* miss_call(
        self, PyObject** args, Py_ssize_t n, PyObject* names, Py_hash_t hashed, bint as_method
    ) except NULL
    cdef void describe(self, Call* call, PyObject** args, Py_ssize_t n, PyObject* names) noexcept
    cdef PyObject* miss(
        self, object key, Py_hash_t hashed, PyObject** args, Py_ssize_t n, PyObject* names, object receiver
    ) except NULL
    cdef PyObject* call_lasting(self, PyObject** args, Py_ssize_t n, PyObject* names) except NULL
    cdef object member_of(self, object instance)
    cdef PyObject* call_uncached(self, PyObject** args, Py_ssize_t n, PyObject* names) except NULL
    cdef PyObject* hit(self, PyObject* value) except NULL
    cdef int prepare(self, LoadSpec* spec) except -1
    cdef object key_of(self, tuple args, dict kwargs, bint as_method, bint known_only)
    cdef object receiver_of(self, object instance, bint known_only)


cdef PyObject* NO_KEY               # stands for the key of a call that can have no result
cdef Py_hash_t (*try_hash)(PyObject* item) noexcept     # -1: an exception is set


cdef inline bint is_single_arg(CachedCall self, PyObject** args, Py_ssize_t n, PyObject* names) noexcept:
    """Whether the key of a call is its one argument."""
    if n != 1 or names != NULL:
        return False
    return type_of(args[0]) != call_key if self.single_arg == ALWAYS else self.single_arg == PLAIN and is_plain(args[0])
