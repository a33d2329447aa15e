"""The functions that the interpreter calls for a call of a cached function: the fast paths, and their continuations.

A cached function has one of them as its `vectorcall` (PEP 590): the one that is likely to suit it best. Each works for
any call. A fast path only makes tail calls: what it cannot finish it hands, lock included, to a continuation that it
calls through a pointer; see `_loading/fast_path.pxd`.
"""

from cpython.object cimport PyObject
from libc.stdint cimport uint32_t, uint64_t

from cachebox._calls.cached_call cimport (
    CachedCall, count, is_single_arg, takes_weak_references, try_hash, vectorcallfunc,
)
from cachebox._calls.call_key cimport (
    Call, find_call_at_once, find_call_quickly, find_pair_at_once, get_call, is_call_at, knows_hash_of_arguments,
    knows_hash_of_call, knows_hash_of_pair, likely, try_hash_call, unlikely,
)
from cachebox._calls.key_arguments cimport FAILED, FEW, get_variable, select_quickly
from cachebox._engine.table cimport decref, hash_of, xdecref
from cachebox._loading.fast_path cimport (
    Rest, Search, find_at_once, get_equal, is_equal_hit, is_plain_hit, knows_hash, mixed_in, search_and_use, take_hit,
    try_hit,
)
from cachebox._platform.lock cimport HAS_GIL, acquire, release
from cachebox.cache cimport Cache

from cachebox._calls.disabling import BLOCKS, is_disabled


cdef extern from *:
    """
    #define cb_has_items(list) (((PyVarObject *)(list))->ob_size != 0)
    """
    bint is_function "PyFunction_Check"(object)
    int VARARGS "CO_VARARGS"
    bint has_items "cb_has_items"(PyObject* list) noexcept
    PyObject* vectorcall "PyObject_Vectorcall"(PyObject*, PyObject**, size_t, PyObject*) except NULL
    Py_ssize_t PyVectorcall_NARGS(size_t)


cdef PyObject* blocks = <PyObject*>BLOCKS           # see `disabling`


cdef vectorcallfunc likely_call(object function) except NULL:
    """The entry point for a function with its own cache. Each works for any call, but is best for the likeliest."""
    if is_function(function) and not function.__code__.co_flags & VARARGS:
        if function.__code__.co_argcount == 0:
            return <vectorcallfunc>call_nullary
        if function.__code__.co_argcount - len(function.__defaults__ or ()) >= 2:
            return <vectorcallfunc>call_several
    return <vectorcallfunc>call_single_arg


cdef vectorcallfunc method_call(CachedCall function) except NULL:
    """The entry point for a method."""
    if function.is_simple and function.ready is None:
        return <vectorcallfunc>call_simple_method
    return <vectorcallfunc>call_method


cdef PyObject* call_single_arg(PyObject* self, PyObject** args, size_t nargsf, PyObject* names) noexcept:
    """A function with its own cache, called with one argument, which is the key."""
    cdef PyObject* cache = <PyObject*>(<CachedCall>self)._cache
    cdef Py_ssize_t n = PyVectorcall_NARGS(nargsf)
    cdef Py_hash_t hashed
    cdef uint64_t h
    cdef uint32_t i
    if unlikely(n != 1 or names != NULL or has_items(blocks)):
        return other_call(self, args, n, names)
    if unlikely(not knows_hash(args[0], &hashed)):
        return any_call(self, args, n, NULL)
    h = mixed_in(cache, hashed)
    if likely(find_at_once(cache, args[0], h, &i) and is_plain_hit(cache, i)):
        return take_hit(cache, i)
    return compare_single_arg(self, args, 1, h, i)


cdef PyObject* call_nullary(PyObject* self, PyObject** args, size_t nargsf, PyObject* names) noexcept:
    """A function with its own cache, called without arguments: the entry is likely to be where it was."""
    cdef PyObject* cache = <PyObject*>(<CachedCall>self)._cache
    cdef Py_ssize_t n = PyVectorcall_NARGS(nargsf)
    cdef uint32_t i = (<CachedCall>self).nullary_at
    if unlikely(n != 0 or names != NULL or has_items(blocks)):
        return other_call(self, args, n, names)
    acquire((<Cache>cache).lock)
    if likely(i != 0 and i < (<Cache>cache).table.fresh and is_plain_hit(cache, i)):
        if likely((<Cache>cache).table.entries[i].key == <PyObject*>(<CachedCall>self).nullary):
            return take_hit(cache, i)
    release((<Cache>cache).lock)
    return any_call(self, args, 0, NULL)


cdef PyObject* call_several(PyObject* self, PyObject** args, size_t nargsf, PyObject* names) noexcept:
    """A function with its own cache, called with more than one argument."""
    cdef Py_ssize_t n = PyVectorcall_NARGS(nargsf)
    if unlikely(n < 2 or names != NULL or has_items(blocks)):
        return other_call(self, args, n, names)
    return call_simple(self, NULL, args, n, 2)


cdef PyObject* call_varying(PyObject* self, PyObject** args, size_t nargsf, PyObject* names) noexcept:
    """A function with its own cache, called with one argument; keys vary by one context variable."""
    cdef PyObject* cache = <PyObject*>(<CachedCall>self)._cache
    cdef Py_ssize_t n = PyVectorcall_NARGS(nargsf)
    cdef PyObject* varied
    cdef PyObject* value
    cdef Py_hash_t hashed
    cdef uint32_t i
    if unlikely(n != 1 or names != NULL or has_items(blocks)):
        return select_call(self, args, n, names)
    if unlikely(get_variable((<CachedCall>self).key_arguments.source, &varied) < 0):
        return NULL
    if unlikely(varied == NULL):
        return select_call(self, args, n, names)
    if likely(knows_hash_of_pair(varied, args[0], &hashed)):
        if likely(find_pair_at_once(cache, varied, args[0], mixed_in(cache, hashed), &i) and is_plain_hit(cache, i)):
            value = take_hit(cache, i)
            decref(varied)
            return value
        release((<Cache>cache).lock)
    xdecref(varied)
    return select_call(self, args, n, names)


cdef PyObject* call_selecting(PyObject* self, PyObject** args, size_t nargsf, PyObject* names) noexcept:
    """A function with its own cache, whose keys leave out arguments or have additional items."""
    cdef PyObject* cache = <PyObject*>(<CachedCall>self)._cache
    cdef Py_ssize_t n = PyVectorcall_NARGS(nargsf)
    cdef PyObject* items[FEW]
    cdef PyObject* varied = NULL
    cdef PyObject* value
    cdef Call call
    cdef Py_hash_t hashed
    cdef uint64_t h
    cdef uint32_t i
    if unlikely(has_items(blocks)):
        return call_generally(self, args, n, names)
    n = select_quickly((<CachedCall>self).key_arguments, args, n, names, items, &varied)
    if unlikely(n <= 0):
        if n == FAILED:
            return NULL
    elif n == 1:
        if likely(knows_hash(items[0], &hashed)):
            h = mixed_in(cache, hashed)
            if likely(find_at_once(cache, items[0], h, &i) and is_plain_hit(cache, i)):
                value = take_hit(cache, i)
                xdecref(varied)
                return value
            if likely(is_equal_hit(cache, items[0], h, i)):
                value = take_hit(cache, i)
                xdecref(varied)
                return value
            release((<Cache>cache).lock)
    else:
        describe_simple(&call, NULL, items, n, NULL)
        if likely(knows_hash_of_arguments(&call, 2, &hashed)):
            h = mixed_in(cache, hashed)
            find_call_at_once(cache, &call, 2, h, &i)
            if likely(is_call_at(cache, &call, h, i) and is_plain_hit(cache, i)):
                value = take_hit(cache, i)
                xdecref(varied)
                return value
            release((<Cache>cache).lock)
    xdecref(varied)
    return call_generally(self, args, PyVectorcall_NARGS(nargsf), names)


cdef PyObject* call_simple_method(PyObject* self, PyObject** args, size_t nargsf, PyObject* names) noexcept:
    """A method with its own cache."""
    cdef Py_ssize_t n = PyVectorcall_NARGS(nargsf)
    if unlikely(n == 0 or names != NULL or has_items(blocks) or not takes_weak_references(args[0])):
        return other_method_call(self, args, n, names)
    if n == 1:
        return call_simple(self, args[0], args + 1, 0, 0)
    return call_simple(self, args[0], args + 1, n - 1, 1)


cdef inline PyObject* call_simple(
    PyObject* self, PyObject* receiver, PyObject** args, Py_ssize_t n, Py_ssize_t least
) noexcept:
    """A call whose key is a CallKey of the arguments alone. Inlined with constants, it becomes little code."""
    cdef PyObject* cache = <PyObject*>(<CachedCall>self)._cache
    cdef Call call
    cdef Py_hash_t hashed
    cdef uint32_t i
    describe_simple(&call, receiver, args, n, NULL)
    if unlikely(not knows_hash_of_arguments(&call, least, &hashed)):
        return hash_simple(self, receiver, args, n, NULL)
    if likely(find_call_at_once(cache, &call, least, mixed_in(cache, hashed), &i) and is_plain_hit(cache, i)):
        return take_hit(cache, i)
    return search_simple(self, receiver, args, n, hashed, i)


# --- continuations ----------------------------------------------------------------------------------------------------

cdef PyObject* by_arguments(PyObject* self, PyObject** args, Py_ssize_t n, PyObject* names) noexcept:
    """A call with another number of arguments than expected. The next calls are likely to have as many."""
    if unlikely(has_items(blocks)):
        return call_in_doubt(self, args, n, names)
    if names != NULL:
        return call_with_keywords(self, args, n, names)
    if HAS_GIL:                     # else another thread may make it a method just now
        (<CachedCall>self).vectorcall = <vectorcallfunc>(
            call_nullary if n == 0 else call_single_arg if n == 1 else call_several
        )
    if n == 0:
        return call_nullary(self, args, 0, NULL)
    if n == 1:
        return call_single_arg(self, args, 1, NULL)
    return call_several(self, args, n, NULL)


cdef PyObject* by_keywords(PyObject* self, PyObject** args, Py_ssize_t n, PyObject* names) except NULL:
    return find_simple(self, NULL, args, n, names)


cdef PyObject* by_arguments_of_method(PyObject* self, PyObject** args, Py_ssize_t n, PyObject* names) except NULL:
    """`by_arguments` for `call_simple_method`."""
    if unlikely(has_items(blocks) and is_disabled()):
        return vectorcall(<PyObject*>(<CachedCall>self).function, args, n, names)
    if n == 0 or not takes_weak_references(args[0]):
        return (<CachedCall>self).call_unreceived(args, n, names)
    return find_simple(self, args[0], args + 1, n - 1, names)


cdef inline PyObject* find_simple(
    PyObject* self, PyObject* receiver, PyObject** args, Py_ssize_t n, PyObject* names
) except NULL:
    """`call_simple` with keywords."""
    cdef PyObject* cache = <PyObject*>(<CachedCall>self)._cache
    cdef Call call
    cdef Py_hash_t hashed
    cdef uint32_t i
    describe_simple(&call, receiver, args, n, names)
    if unlikely(not knows_hash_of_call(&call, &hashed)):
        return hash_simple(self, receiver, args, n, names)
    acquire((<Cache>cache).lock)
    i = find_call_quickly(cache, &call, mixed_in(cache, hashed))
    if likely(i != 0 and is_plain_hit(cache, i)):
        return take_hit(cache, i)
    release((<Cache>cache).lock)
    return get_simple(self, receiver, args, n, names, hashed)


cdef PyObject* simple_by_search(
    PyObject* self, PyObject* receiver, PyObject** args, Py_ssize_t n, Py_hash_t hashed, uint32_t i
) except NULL:
    """The end of `call_simple` after `find_call_at_once` set i; takes over the lock."""
    cdef PyObject* cache = <PyObject*>(<CachedCall>self)._cache
    cdef PyObject* value = NULL
    cdef Call call
    describe_simple(&call, receiver, args, n, NULL)
    if likely(is_call_at(cache, &call, mixed_in(cache, hashed), i)):
        if likely(is_plain_hit(cache, i)):
            return take_hit(cache, i)
        value = try_hit(cache, i)
    release((<Cache>cache).lock)
    if value != NULL:
        return value
    return get_simple(self, receiver, args, n, NULL, hashed)


cdef PyObject* simple_by_hashing(
    PyObject* self, PyObject* receiver, PyObject** args, Py_ssize_t n, PyObject* names
) except NULL:
    """`call_simple` if hashing an argument takes a Python call."""
    cdef Call call
    cdef Py_hash_t hashed
    if receiver == NULL and (<CachedCall>self).asks_classes and (<CachedCall>self).receives(args, n, names):
        return (<CachedCall>self).call_received(args, n, names)
    describe_simple(&call, receiver, args, n, names)
    hashed = try_hash_call(&call)
    if unlikely(hashed == -1):
        if receiver == NULL:
            (<CachedCall>self).explain(args, n, names, False)
        else:
            (<CachedCall>self).explain(args - 1, n + 1, names, True)
    return simple_by_hash(self, receiver, args, n, names, hashed)


cdef PyObject* simple_by_hash(
    PyObject* self, PyObject* receiver, PyObject** args, Py_ssize_t n, PyObject* names, Py_hash_t hashed
) except NULL:
    """`call_simple` with a known hash."""
    cdef PyObject* cache = <PyObject*>(<CachedCall>self)._cache
    cdef PyObject* value
    cdef Call call
    describe_simple(&call, receiver, args, n, names)
    value = get_call(cache, &call, mixed_in(cache, hashed))
    if value != NULL:
        return (<CachedCall>self).hit(value)
    if receiver != NULL:
        return (<CachedCall>self).miss_call(args - 1, n + 1, names, hashed, True)
    return (<CachedCall>self).miss_call(args, n, names, hashed, False)


cdef PyObject* single_arg_by_comparing(PyObject* self, PyObject** args, Py_ssize_t n, uint64_t h, uint32_t i) noexcept:
    """The end of `call_single_arg`, with the lock: the part that makes no call."""
    cdef PyObject* cache = <PyObject*>(<CachedCall>self)._cache
    if likely(is_equal_hit(cache, args[0], h, i)):
        return take_hit(cache, i)
    return search_single_arg(self, args, n, h, i)


cdef PyObject* single_arg_by_search(PyObject* self, PyObject** args, Py_ssize_t n, uint64_t h, uint32_t i) except NULL:
    """The end of `single_arg_by_comparing`."""
    cdef bint compared
    cdef PyObject* value = search_and_use(<PyObject*>(<CachedCall>self)._cache, args[0], h, i, &compared)
    if value != NULL:
        return value
    return (<CachedCall>self).miss(<object>args[0], hash_of(args[0]), args, 1, NULL, None)


cdef PyObject* in_doubt(PyObject* self, PyObject** args, Py_ssize_t n, PyObject* names) except NULL:
    """A call while some context or thread is in a block of `disabled`."""
    if is_disabled():
        return vectorcall(<PyObject*>(<CachedCall>self).function, args, n, names)
    if (<CachedCall>self).is_method:
        return by_arguments_of_method(self, args, n, names)
    return call_anyhow(self, args, n, names)


cdef PyObject* call_otherwise(PyObject* self, PyObject** args, size_t nargsf, PyObject* names) except NULL:
    """Any call of a function with its own cache."""
    if unlikely(has_items(blocks)):
        return in_doubt(self, args, PyVectorcall_NARGS(nargsf), names)
    return call_anyhow(self, args, nargsf, names)


cdef PyObject* call_anyhow(PyObject* self, PyObject** args, size_t nargsf, PyObject* names) except NULL:
    cdef PyObject* cache = <PyObject*>(<CachedCall>self)._cache
    cdef PyObject* value
    cdef Py_ssize_t n = PyVectorcall_NARGS(nargsf)
    cdef Py_hash_t hashed
    cdef bint compared
    if n == 0 and names == NULL:
        return (<CachedCall>self).find_nullary(args)
    if not is_single_arg(<CachedCall>self, args, n, names):
        return simple_by_hashing(self, NULL, args, n, names)
    if (<CachedCall>self).asks_classes and (<CachedCall>self).receives(args, n, names):
        return (<CachedCall>self).call(args, n, names, True)
    hashed = try_hash(args[0])
    if unlikely(hashed == -1):
        (<CachedCall>self).explain(args, n, names, False)
    value = get_equal(cache, args[0], mixed_in(cache, hashed), &compared)
    if value != NULL:
        return (<CachedCall>self).hit(value)
    return (<CachedCall>self).miss(<object>args[0], hashed, args, 1, NULL, None)


ctypedef PyObject* (*SimpleRest)(
    PyObject* self, PyObject* receiver, PyObject** args, Py_ssize_t n, PyObject* names
) noexcept
ctypedef PyObject* (*SimpleGet)(
    PyObject* self, PyObject* receiver, PyObject** args, Py_ssize_t n, PyObject* names, Py_hash_t hashed
) noexcept
ctypedef PyObject* (*SimpleSearch)(
    PyObject* self, PyObject* receiver, PyObject** args, Py_ssize_t n, Py_hash_t hashed, uint32_t i
) noexcept
ctypedef PyObject* (*VectorCall)(PyObject* self, PyObject** args, size_t nargsf, PyObject* names) noexcept
cdef VectorCall any_call = <VectorCall>call_anyhow
cdef Rest other_call = by_arguments
cdef Rest call_in_doubt = <Rest>in_doubt
cdef Rest call_generally = <Rest>call_general_
cdef Rest select_call = <Rest>call_selecting_
cdef Rest call_with_keywords = <Rest>by_keywords
cdef Rest other_method_call = <Rest>by_arguments_of_method
cdef Search compare_single_arg = single_arg_by_comparing, search_single_arg = <Search>single_arg_by_search
cdef SimpleRest hash_simple = <SimpleRest>simple_by_hashing
cdef SimpleGet get_simple = <SimpleGet>simple_by_hash
cdef SimpleSearch search_simple = <SimpleSearch>simple_by_search


cdef inline void describe_simple(
    Call* call, PyObject* receiver, PyObject** args, Py_ssize_t n, PyObject* names
) noexcept:
    call.function_id = NULL
    call.receiver = receiver
    call.arguments = args
    call.n = n
    call.names = names
    call.typed = False


cdef PyObject* call_general(PyObject* self, PyObject** args, size_t nargsf, PyObject* names) except NULL:
    if unlikely(has_items(blocks) and is_disabled()):
        return vectorcall(<PyObject*>(<CachedCall>self).function, args, PyVectorcall_NARGS(nargsf), names)
    return (<CachedCall>self).call(args, PyVectorcall_NARGS(nargsf), names, False)


cdef PyObject* call_selecting_(PyObject* self, PyObject** args, Py_ssize_t n, PyObject* names) noexcept:
    return call_selecting(self, args, n, names)


cdef PyObject* call_general_(PyObject* self, PyObject** args, Py_ssize_t n, PyObject* names) except NULL:
    return call_general(self, args, n, names)


cdef PyObject* call_method(PyObject* self, PyObject** args, size_t nargsf, PyObject* names) except NULL:
    if unlikely(has_items(blocks) and is_disabled()):
        return vectorcall(<PyObject*>(<CachedCall>self).function, args, PyVectorcall_NARGS(nargsf), names)
    return (<CachedCall>self).call(args, PyVectorcall_NARGS(nargsf), names, True)


cdef PyObject* call_counted(PyObject* self, PyObject** args, size_t nargsf, PyObject* names) except NULL:
    """`lru_cache(maxsize=0)`: results are not cached, but misses are counted."""
    if likely(not has_items(blocks) or not is_disabled()):
        count(&(<CachedCall>self).misses)
    return vectorcall(<PyObject*>(<CachedCall>self).function, args, PyVectorcall_NARGS(nargsf), names)
