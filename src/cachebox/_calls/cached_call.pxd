"""A call of a cached function: its key, the hit, the miss, and whose it is if the function is a method.

A hit must cost less than the call of an empty function, so nothing is allocated on its way: the interpreter hands the
arguments over where they are, they are hashed there and compared with the keys in the cache (`entry_points`).
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
    PLAIN                           # if it is an int or a str, as functools has it
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
    cdef object function_id         # tells the function's keys from others' in a shared cache; None: it has its own
    cdef SingleArg single_arg
    cdef bint typed
    cdef bint is_simple             # keys are the arguments as they are: no token, no types, no key_func
    cdef KeyArguments key_arguments     # which arguments belong to the key, or None: all of them, as they are
    cdef bint by_instance           # a method's results belong to its instance, unless the keys have nothing of that
    cdef bint binds_weakly          # results of a method belong to the instance, which they do not keep alive
    cdef bint is_method             # ... and the first argument is the instance, however it is called
    cdef bint asks_classes          # ... else its class may say so: see `receives`
    cdef public bint _may_be_class_method       # ... that does not bind it: see `methods`
    cdef uint64_t known[8]          # what classes have said: twice the version of a class, the answer in the lowest bit
    cdef str first_name             # of the first parameter, if it may be a keyword
    cdef bint single_flight
    cdef bint functools_rules       # a result is stored whatever happened to its call meanwhile, as functools has it
    cdef bint keep_first            # ... unless it has another result by now
    cdef double lifetime
    cdef object ttl_of              # the time to live as a function of the result, or None
    cdef object condition
    cdef object tags                # of results: a tuple, or a function of the result and the arguments; or None
    cdef object failures            # where failed calls are remembered: a Failures, or None
    cdef bint own_failures          # it is not the cache's
    cdef object key_func
    cdef object ready               # of an async function: makes a coroutine of a value that is there
    cdef object load_async          # ... and one that loads it
    cdef bint serves                # results while they are computed anew: the next two are not both 0
    cdef double ahead               # the share of a result's lifetime at its end in which it is computed anew
    cdef double stale               # the seconds for which it is served beyond its end
    cdef bint stores                # results; `lru_cache(maxsize=0)` does not
    cdef bint warned                # somebody has been told why its results are not stored
    cdef dict parameters
    cdef object nullary             # the key of the call without arguments, once it has been made
    cdef uint32_t nullary_at        # ... and where its entry was
    cdef dict receivers             # of a method: the Receiver of every instance that has results, by id
    cdef dict members               # ... and the Member, of instances that live as long as their class
    cdef int64_t hits               # this function's, counted only beside others in a shared cache
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
        self, object load_async, object key, Py_hash_t hashed, PyObject** args, Py_ssize_t n, PyObject* names, object receiver
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


cdef PyObject* NO_KEY               # what stands for the key of a call that can have no result
cdef Py_hash_t (*try_hash)(PyObject* item) noexcept     # -1: an exception is set


cdef inline bint is_single_arg(CachedCall self, PyObject** args, Py_ssize_t n, PyObject* names) noexcept:
    """Whether the key of a call is its one argument."""
    if n != 1 or names != NULL:
        return False
    return type_of(args[0]) != call_key if self.single_arg == ALWAYS else self.single_arg == PLAIN and is_plain(args[0])
