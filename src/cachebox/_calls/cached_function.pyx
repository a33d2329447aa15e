"""What `cached` and `lru_cache` make of a function.

A hit must cost less than the call of an empty function, so nothing is allocated on its way: the interpreter hands the
arguments over where they are (vectorcall, PEP 590), they are hashed there and compared with the keys in the cache.
"""

cimport cython
from cpython.object cimport PyObject, PyObject_GenericGetAttr, PyTypeObject
from libc.stdint cimport int64_t, uint32_t, uint64_t

import gc
from _weakref import ref
from types import FunctionType, MethodType

from cachebox._calls.key_arguments cimport FAILED, FEW, Arguments, drop, get_variable, select_quickly
from cachebox._engine.table cimport decref, xdecref
from cachebox.cache cimport PASSED, RETURNED, STORED, Cache, Loading, hash_of, is_awaitable, may_pass_once, passes_once
from cachebox._calls.call_key cimport (
    Call, call_key, find_call_at_once, find_call_quickly, find_pair_at_once, get_call, hash_call, is_call_at,
    key_of_call, keys_of_hash, keys_of_token, knows_hash_of_arguments, knows_hash_of_call, knows_hash_of_pair, likely,
    try_hash_call, type_of, unlikely,
)
from cachebox._loading.single_flight cimport (
    FLYING, Flight, Leader, Ticket, board, crash, land, lead_anew, leader_by_watch, new_leader,
)
from cachebox._platform.lock cimport HAS_GIL, acquire, release
from cachebox._store.options cimport lifetime_of
from cachebox._loading.fast_path cimport (
    Rest, Search, find_at_once, find_quickly, get_equal, go_on, is_equal_hit, is_plain_hit, knows_hash, mixed_in, quick_use,
    search_and_use, take_hit,
)
from cachebox._loading.refresh cimport Refresh, find_servable, flight_of, open_refresh
from cachebox._store.state cimport Watch

from cachebox._calls.disabling import BLOCKS, is_disabled
from cachebox._calls.returned_awaitables import fly_anew_called, fly_begun, fly_called
from cachebox._platform.awaitables import is_async, refuse_awaitable, warn_of_one_shot
from cachebox.cache import MISSING
from cachebox._calls.call_key import CallKey, Member, Receiver
from cachebox._calls.methods import bound_by_class, is_lasting, may_be_class_method


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
    #define cb_has_items(list) (((PyVarObject *)(list))->ob_size != 0)

    /* Let the instances of a type be called by vectorcall, before there are any. */
    static void
    cb_enable_vectorcall(PyTypeObject *type, Py_ssize_t offset, int like_a_function)
    {
        type->tp_vectorcall_offset = offset;
        type->tp_call = PyVectorcall_Call;
        type->tp_flags |= Py_TPFLAGS_HAVE_VECTORCALL | (like_a_function ? Py_TPFLAGS_METHOD_DESCRIPTOR : 0);
        PyType_Modified(type);
    }

    /* Call with one more argument in front, in the place that the interpreter leaves for it if there is one. */
    static PyObject *
    cb_call_with_first(
        vectorcallfunc call, PyObject *callable, PyObject *first, PyObject **args, size_t nargsf, PyObject *names)
    {
        Py_ssize_t n = PyVectorcall_NARGS(nargsf), total = n + (names ? PyTuple_GET_SIZE(names) : 0);
        PyObject *few[8], **all = few, *result;
        if (nargsf & PY_VECTORCALL_ARGUMENTS_OFFSET) {
            PyObject *kept = args[-1];
            args[-1] = first;
            result = call(callable, args - 1, (size_t)n + 1, names);
            args[-1] = kept;
            return result;
        }
        if (total >= 8) {
            all = (PyObject **)PyMem_Malloc((size_t)(total + 1) * sizeof(PyObject *));
            if (all == NULL) {
                return PyErr_NoMemory();
            }
        }
        all[0] = first;
        if (total) {
            memcpy(all + 1, args, (size_t)total * sizeof(PyObject *));
        }
        result = call(callable, all, (size_t)n + 1, names);
        if (all != few) {
            PyMem_Free(all);
        }
        return result;
    }
    """
    bint is_class "PyType_Check"(PyObject*) noexcept
    void count "cb_count"(int64_t*)
    bint is_function "PyFunction_Check"(object)
    int VARARGS "CO_VARARGS"
    bint is_plain "cb_is_plain"(PyObject*) noexcept
    bint takes_weak_references "cb_takes_weak_references"(PyObject*) noexcept
    bint is_finalized "PyObject_GC_IsFinalized"(object) noexcept
    PyObject** items_of "cb_items"(tuple)
    bint has_items "cb_has_items"(PyObject* list) noexcept
    void enable_vectorcall "cb_enable_vectorcall"(PyTypeObject*, Py_ssize_t, bint)
    PyObject* call_with_first "cb_call_with_first"(
        vectorcallfunc, PyObject*, PyObject*, PyObject**, size_t, PyObject*
    ) except NULL
    void set_type "Py_SET_TYPE"(PyObject*, PyTypeObject*)
    PyObject* new_reference "Py_NewRef"(object)
    object taken_over "(PyObject *)"(PyObject*)
    PyObject* vectorcall "PyObject_Vectorcall"(PyObject*, PyObject**, size_t, PyObject*) except NULL
    PyObject* quick_vectorcall "PyObject_Vectorcall"(PyObject*, PyObject**, size_t, PyObject*) noexcept
    Py_ssize_t PyVectorcall_NARGS(size_t)


cdef extern from "_platform/results.h":
    uint32_t version_of "cb_version_of"(PyTypeObject*) noexcept
    bint is_heap_type "cb_is_heap_type"(PyTypeObject*) noexcept


cdef object NO_KEY = object()
cdef frozenset CONTROLS = frozenset(("cache_key", "invalidate", "peek", "refresh", "set"))      # work on one call
cdef PyObject* blocks = <PyObject*>BLOCKS           # see `disabling`


class HasNoKey(TypeError):
    """A call on an instance that takes no weak reference: nobody would know when its result is to go."""


@cython.trashcan(True)              # one may be an attribute of another, a hundred thousand deep
cdef class CachedFunction:
    """A function with a cache in front: what `cached` and `lru_cache` return; they have the documentation."""

    def __cinit__(self, function, Cache cache not None, **options):
        self.function = function                # what other methods take for granted, be __init__ called or not
        self._cache = cache
        self.parameters = {}
        self.receivers = {}
        self.members = {}

    def __init__(
        self, function, Cache cache not None, *, token=None, typed=False, only_plain_alone=False, binds_weakly=True,
        is_method=False, single_flight=True, unwatched=False, first_wins=False, ttl=None, condition=None, key_func=None,
        tags=None, own_tag=None, failures=None, coroutines=None, claim=None, first_name=None, stores=True, parameters=(),
        key_arguments=None, refresh_ahead=None, stale_ttl=None,
    ):
        self.token = token
        self.typed = typed
        self.key_arguments = key_arguments
        self.binds_weakly = binds_weakly
        self.by_instance = key_func is None and (key_arguments is None or not key_arguments.ignores_first)
        self.is_method = is_method and self.by_instance
        self.asks_classes = binds_weakly and self.by_instance
        self._may_be_class_method = binds_weakly and may_be_class_method(function)
        self.stores = stores
        self.ahead = refresh_ahead or 0.0
        self.stale = lifetime_of(stale_ttl, "stale_ttl") if stale_ttl is not None else 0.0
        self.serves = self.ahead > 0.0 or self.stale > 0.0
        if self.serves:
            cache.keep_due(self.ahead, self.stale)
        self.first_name = first_name
        self.claim = claim
        self.own_tag = own_tag
        self.single_flight = single_flight
        self.unwatched = unwatched
        self.first_wins = first_wins
        try:
            self.lifetime = cache.lifetime if ttl is None or callable(ttl) else lifetime_of(ttl, "ttl")
        except TypeError:
            kind = type(ttl).__name__
            raise TypeError(
                f"ttl must be a number of seconds, a timedelta, a function of the result, or None, not {kind}"
            ) from None
        self.ttl_of = ttl if callable(ttl) else None
        self.condition = condition
        self.tags = tags
        self.own_failures = failures is not None
        self.failures = failures if failures is not None or unwatched else cache.failures
        self.key_func = key_func
        self.ready = coroutines.ready if coroutines is not None else None
        self.fly = coroutines.fly if coroutines is not None else None
        self.fly_anew = coroutines.fly_anew if coroutines is not None else None
        self.parameters = dict(parameters)
        self.is_simple = token is None and not typed and key_func is None and key_arguments is None
        if not stores:
            self.vectorcall = <vectorcallfunc>call_counted
        elif self.is_method:
            self.vectorcall = method_call(self)
        elif key_arguments is not None:
            self.lone = ALWAYS if token is None and not typed else NEVER
            is_quick = self.lone == ALWAYS and self.ready is None
            self.vectorcall = <vectorcallfunc>call_general
            if is_quick:
                self.vectorcall = <vectorcallfunc>call_selecting
                if self.key_arguments.takes_one and self.key_arguments.source != NULL:
                    self.vectorcall = <vectorcallfunc>call_varying
        elif not self.is_simple:
            self.vectorcall = <vectorcallfunc>call_general
        else:
            self.lone = PLAIN if only_plain_alone else ALWAYS
            self.vectorcall = likely_call(function) if self.ready is None else <vectorcallfunc>call_otherwise

    # --- calling -----------------------------------------------------------------------------------------------------

    def __call__(self, *args, **kwargs):
        cdef tuple flat = args + tuple(kwargs.values()), names = tuple(kwargs)
        return taken_over(
            self.vectorcall(<PyObject*>self, items_of(flat), len(args), <PyObject*>names if kwargs else NULL)
        )

    cdef PyObject* call(self, PyObject** args, Py_ssize_t n, PyObject* names, bint as_method) except NULL:
        """Any call: a new reference to its result."""
        cdef Call call
        cdef Py_hash_t hashed
        cdef PyObject* value
        cdef PyObject* lone
        cdef bint compared
        if self.key_arguments is not None:
            return self.call_selected(args, n, names, as_method and self.by_instance)
        self.describe(&call, args, n, names)
        if self.key_func is not None:
            key = taken_over(vectorcall(<PyObject*>self.key_func, args, n, names))
            lone = <PyObject*>key
            if unlikely(is_awaitable(lone)):
                refuse_awaitable("key_func", key)
            hashed = hash_of(lone)
            value = get_equal(
                <PyObject*>self._cache, lone, mixed_in(<PyObject*>self._cache, hashed), &compared
            )
            if value != NULL:
                return self.hit(value)
            if n != 0 and is_class(args[0]):
                self.receives(args, n, names)   # a class method is to know its class: see `is_received`
            return self.miss(key, hashed, args, n, names, None)
        if not as_method and self.asks_classes and self.receives(args, n, names):
            return self.call_received(args, n, names)
        if as_method:
            if n == 0 or not takes_weak_references(args[0]):
                return self.call_unreceived(args, n, names)
            call.receiver = args[0]
            call.arguments += 1
            call.n -= 1
        hashed = try_hash_call(&call)
        if unlikely(hashed == -1):
            self.explain(args, n, names, as_method)
        value = get_call(<PyObject*>self._cache, &call, mixed_in(<PyObject*>self._cache, hashed))
        if value != NULL:
            return self.hit(value)
        receiver = self.receiver_of(<object>call.receiver, False) if call.receiver != NULL else None
        return self.miss(key_of_call(&call, receiver), hashed, args, n, names, receiver)

    cdef PyObject* call_selected(self, PyObject** args, Py_ssize_t n, PyObject* names, bint as_method) except NULL:
        """Any call, where not all arguments belong to the key, or not as they are."""
        cdef Arguments taken
        cdef Call call
        cdef Py_hash_t hashed = 0
        cdef PyObject* value
        cdef bint is_heaped = not as_method and self.asks_classes and n != 0 and is_heap_type(type_of(args[0]))
        receiver = None
        if unlikely(is_heaped and self.receives(args, n, names)):
            return self.call_received(args, n, names)
        if unlikely(as_method and (n == 0 or not takes_weak_references(args[0]))):
            return self.call_unreceived(args, n, names)
        if not self.key_arguments.take(args, n, names, as_method, &taken):
            return vectorcall(<PyObject*>self.function, args, n, names)     # which says what is wrong with them
        try:
            self.describe(&call, taken.items, taken.n, taken.names)
            if as_method:
                call.receiver = args[0]
            value = self.find_selected(&call, &hashed, args, n, names, as_method)
            if value != NULL:
                return self.hit(value)
            if as_method:
                receiver = self.receiver_of(<object>args[0], False)
            if call.receiver == NULL and is_lone(self, taken.items, taken.n, taken.names):
                key = <object>taken.items[0]
            else:
                key = key_of_call(&call, receiver)
        finally:
            drop(&taken)
        return self.miss(key, hashed, args, n, names, receiver)

    cdef PyObject* find_selected(
        self, const Call* call, Py_hash_t* hashed, PyObject** args, Py_ssize_t n, PyObject* names, bint as_method
    ) except? NULL:
        """A hit: a new reference to the value. NULL: it is a miss."""
        cdef PyObject* cache = <PyObject*>self._cache
        cdef uint32_t i
        cdef uint64_t h
        cdef bint compared
        if call.receiver == NULL and is_lone(self, call.arguments, call.n, call.names):
            if knows_hash(call.arguments[0], hashed):
                h = mixed_in(cache, hashed[0])
                if likely(find_at_once(cache, call.arguments[0], h, &i) and is_plain_hit(cache, i)):
                    return take_hit(cache, i)
                return search_and_use(cache, call.arguments[0], h, i, &compared)
            hashed[0] = try_hash(call.arguments[0])
            if unlikely(hashed[0] == -1):
                self.explain(args, n, names, as_method)
            return get_equal(cache, call.arguments[0], mixed_in(cache, hashed[0]), &compared)
        if call.token == NULL and not call.typed and knows_hash_of_call(call, hashed):
            acquire((<Cache>cache).lock)
            i = find_call_quickly(cache, call, mixed_in(cache, hashed[0]))
            if likely(i != 0 and is_plain_hit(cache, i)):
                return take_hit(cache, i)
            release((<Cache>cache).lock)
        else:
            hashed[0] = try_hash_call(call)
            if unlikely(hashed[0] == -1):
                self.explain(args, n, names, as_method)
        return get_call(cache, call, mixed_in(cache, hashed[0]))

    cdef int explain(self, PyObject** args, Py_ssize_t n, PyObject* names, bint as_method) except -1:
        """Raise what hashing a call raised: where an argument cannot be hashed, with its name and what to do."""
        cdef Py_ssize_t k
        try:
            raise_current()
        except TypeError as error:
            if self.unwatched:
                raise                           # functools' own words
            from cachebox._calls.unhashable import explained

            arguments = [<object>args[k] for k in range(n)]
            keywords = {name: <object>args[n + k] for k, name in enumerate(<object>names)} if names != NULL else {}
            better = explained(self.function, arguments, keywords, error, as_method, self.key_arguments)
            if better is None:
                raise
            raise better from error
        return 0

    cdef PyObject* miss_call(
        self, PyObject** args, Py_ssize_t n, PyObject* names, Py_hash_t hashed, bint as_method
    ) except NULL:
        """What a call returns that `quick_call` did not find."""
        cdef Call call
        receiver = None
        self.describe(&call, args, n, names)
        if as_method:
            receiver = self.receiver_of(<object>args[0], False)
            call.receiver = args[0]
            call.arguments += 1
            call.n -= 1
        return self.miss(key_of_call(&call, receiver), hashed, args, n, names, receiver)

    cdef void describe(self, Call* call, PyObject** args, Py_ssize_t n, PyObject* names) noexcept:
        call.token = <PyObject*>self.token if self.token is not None else NULL
        call.receiver = NULL
        call.arguments = args
        call.n = n
        call.names = names
        call.typed = self.typed

    cdef PyObject* hit(self, PyObject* value) except NULL:
        """What a call returns for a value that was there; takes over the reference."""
        if self.token is not None:
            count(&self.hits)
        if self.ready is None:
            return value
        return new_reference(self.ready(taken_over(value)))

    cdef PyObject* miss(
        self, object key, Py_hash_t hashed, PyObject** args, Py_ssize_t n, PyObject* names, object receiver
    ) except NULL:
        """What a call returns that had no value at first sight."""
        cdef Loading how
        cdef PyObject* found
        if receiver is None and self.asks_classes and self.receives(args, n, names):
            return self.call_received(args, n, names)
        if self.serves:
            found = self.serve(key, hashed, args, n, names, receiver)
            if found != NULL:
                return self.hit(found)
        if self.fly is not None:
            return new_reference(self.begin(self.fly, key, hashed, args, n, names, receiver))
        self.prepare(&how)
        how.arguments = args
        how.n = n
        how.names = names
        how.instance = args[0] if receiver is not None else NULL
        if receiver is None and self.token is None:
            value = self._cache.fetch(key, mixed_in(<PyObject*>self._cache, hashed), &how)
            if unlikely(how.single_use == PASSED):
                return self.passed(value, key, hashed, args, n, names, receiver, False)
            return new_reference(value)
        try:
            value = self._cache.fetch(key, mixed_in(<PyObject*>self._cache, hashed), &how)
            if how.single_use == PASSED:
                return self.passed(value, key, hashed, args, n, names, receiver, False)
            return new_reference(value)
        finally:
            if receiver is not None:
                remember(receiver, hashed, self._cache)
            if self.token is not None and how.missed >= 0:
                count(&self.misses if how.missed else &self.hits)

    cdef PyObject* serve(
        self, object key, Py_hash_t hashed, PyObject** args, Py_ssize_t n, PyObject* names, object receiver
    ) except? NULL:
        """A new reference to a result that may be served although it is due to be computed anew, or has ended.

        Counted in the cache's statistics. NULL: there is none.
        """
        cdef uint64_t h = mixed_in(<PyObject*>self._cache, hashed)
        cdef PyObject* value
        cdef bint due, joined = False
        cdef Flight flight
        while True:
            value = find_servable(self._cache, key, h, self.ahead, self.stale, &due)
            if value != NULL or joined or self.fly is not None:     # a coroutine waits for itself
                break
            flight = flight_of(self._cache, key)
            if flight is None or flight.wait() == FLYING:
                break
            joined = True
        if value == NULL:
            return NULL
        result = taken_over(value)
        if due:
            self.start_refresh(key, h, args, n, names, receiver)
        return new_reference(self._cache.copy_of(result))

    cdef int start_refresh(
        self, object key, uint64_t h, PyObject** args, Py_ssize_t n, PyObject* names, object receiver
    ) except -1:
        """Have this call made anew in the background, unless that is under way."""
        cdef Py_ssize_t k
        cdef Refresh refresh = open_refresh(self._cache, key, h, self.ahead, True)
        if refresh is None:
            return 0
        try:
            from cachebox._calls.refresh_call import RefreshCall

            arguments = tuple([<object>args[k] for k in range(n)])
            keywords = {name: <object>args[n + k] for k, name in enumerate(<object>names)} if names != NULL else {}
            started = RefreshCall(self, refresh, arguments, keywords, receiver).start(self.fly is not None)
        except:
            refresh.end()
            raise
        if not started:
            refresh.end()
        return 0

    def _land_refreshed(self, Refresh refresh not None, value, tuple args, dict kwargs, receiver):
        """Store the result of a call that was made anew, unless the key was written meanwhile."""
        cdef Leader lead = leader_by_watch(self._cache, refresh.watch)
        if lead is None:
            return
        lead.began = self._cache.invalidations
        try:
            self._land(lead, refresh.key, hash_of(<PyObject*>refresh.key), value, receiver, args, kwargs)
        except:
            crash(self._cache, lead, None)
            raise

    def _refreshing(self, key):
        """What to wait for before a result is computed that is being computed anew already; or None."""
        return flight_of(self._cache, key) if self.serves else None

    cdef object begin(
        self, object fly, object key, Py_hash_t hashed, PyObject** args, Py_ssize_t n, PyObject* names, object receiver
    ):
        """A coroutine that has the value of a call."""
        cdef Py_ssize_t k
        arguments = tuple([<object>args[k] for k in range(n)])
        keywords = {name: <object>args[n + k] for k, name in enumerate(<object>names)} if names != NULL else {}
        coroutine = fly(self, key, hashed, arguments, keywords, receiver)
        name = getattr(self, "__qualname__", None)
        if isinstance(name, str):
            coroutine.__qualname__ = name                   # for warnings, and for whoever looks at a task
        return coroutine

    cdef PyObject* passed(
        self, object value, object key, Py_hash_t hashed, PyObject** args, Py_ssize_t n, PyObject* names, object receiver,
        bint anew,
    ) except NULL:
        """What a call returns whose result can be consumed only once. One that returned an awaitable is async."""
        if not is_awaitable(<PyObject*>value):
            self._report(value)
            return new_reference(value)
        if self.fly is None:
            self.become_async()

        def go_on(wrapper, key, hashed, arguments, keywords, receiver):
            return fly_begun(wrapper, value, key, hashed, arguments, keywords, receiver, anew)

        return new_reference(self.begin(go_on, key, hashed, args, n, names, receiver))

    cdef int become_async(self) except -1:
        """Return coroutines from now on."""
        from cachebox._calls.coroutines import ready

        self.ready = ready
        self.fly = fly_called
        if self.is_method:
            self.vectorcall = method_call(self)
        elif self.is_simple:
            self.vectorcall = <vectorcallfunc>call_otherwise
        return 0

    def _report(self, value):
        """Say once that results can be consumed only once."""
        if not self.warned:
            self.warned = True
            warn_of_one_shot(getattr(self, "__qualname__", repr(self.function)), value)

    # --- methods that other decorators hide ---------------------------------------------------------------------------

    cdef bint receives(self, PyObject** args, Py_ssize_t n, PyObject* names) except -1:
        """Whether a call is one of a method on its first argument, which comes in front as that of a plain function.

        The class of the first argument tells, once in each of its states: see `methods`.
        """
        cdef PyObject* first
        cdef PyTypeObject* owner
        cdef uint32_t version
        cdef uint64_t known
        cdef bint of_class
        if n != 0:
            first = args[0]
        elif names != NULL and self.first_name is not None:
            first = NULL
            for k, name in enumerate(<object>names):
                if name == self.first_name:
                    first = args[k]
            if first == NULL:
                return False
        else:
            return False
        of_class = is_class(first)
        owner = <PyTypeObject*>first if of_class else type_of(first)
        if not is_heap_type(owner):
            return False
        version = version_of(owner)
        if version != 0:
            known = self.known[version & 7] ^ ((<uint64_t>version * 2 + of_class) * 2)
            if known < 2:
                return known
        return self.ask_class(first, version)

    cdef bint ask_class(self, PyObject* first, uint32_t version) except -1:
        from cachebox.decorators import is_received

        cdef bint of_class = is_class(first), answer
        cdef PyTypeObject* owner = <PyTypeObject*>first if of_class else type_of(first)
        type.__getattribute__(<object>owner, "__doc__")     # a type gets its version when it is asked for something
        version = version_of(owner)
        answer = is_received(self, <object>first)
        if version != 0 and version == version_of(owner):
            self.known[version & 7] = (<uint64_t>version * 2 + of_class) * 2 + answer
        return answer

    cdef PyObject* call_received(self, PyObject** args, Py_ssize_t n, PyObject* names) except NULL:
        """A call of a method, with the instance in front, or as a keyword."""
        cdef tuple flat, rest
        if n != 0:
            return self.call(args, n, names, True)
        keywords = {name: <object>args[k] for k, name in enumerate(<object>names)}
        first = keywords.pop(self.first_name)
        flat, rest = (first, *keywords.values()), tuple(keywords)
        return self.call(items_of(flat), 1, <PyObject*>rest if rest else NULL, True)

    cdef PyObject* call_unreceived(self, PyObject** args, Py_ssize_t n, PyObject* names) except NULL:
        """A call of a method without an instance in front that takes weak references."""
        if n == 0 and names != NULL and self.receives(args, n, names):
            return self.call_received(args, n, names)
        return self.call_uncached(args, n, names)

    cdef int warn_uncached(self, object instance) except -1:
        """Say once why a method of a class that was made by a tool is not cached."""
        if not self.warned:
            self.warned = True
            from cachebox.decorators import warn_of_slots

            warn_of_slots(self, instance)
        return 0

    def _become_method(self):
        if not self.is_method and self.asks_classes:
            become_method(self)

    cdef int prepare(self, Loading* how) except -1:
        how.function = <PyObject*>self.function
        how.lifetime = self.lifetime
        how.ttl_of = <PyObject*>self.ttl_of if self.ttl_of is not None else NULL
        how.condition = <PyObject*>self.condition if self.condition is not None else NULL
        how.tags = <PyObject*>self.tags if self.tags is not None else NULL
        how.failures = <PyObject*>self.failures if self.failures is not None else NULL
        how.single_flight = self.single_flight
        how.single_use = STORED if self.unwatched else RETURNED
        how.unwatched = self.unwatched
        how.first_wins = self.first_wins
        how.missed = -1
        return 0

    cdef PyObject* call_lasting(self, PyObject** args, Py_ssize_t n, PyObject* names) except NULL:
        """A call on an instance that takes no weak reference, but needs none."""
        cdef Call call
        cdef Py_hash_t hashed
        cdef PyObject* value
        cdef Py_ssize_t k, more = len(<object>names) if names != NULL else 0
        member = self.member_of(<object>args[0])
        cdef tuple flat = (member, *[<object>args[k] for k in range(1, n + more)])
        cdef tuple keywords
        self.describe(&call, items_of(flat), n, names)
        if self.key_arguments is not None:
            values = [<object>args[k] for k in range(n + more)]
            given = dict(zip(<object>names, values[n:])) if names != NULL else {}
            chosen = self.key_arguments.of(tuple(values[:n]), given, True)
            if chosen is None:
                return vectorcall(<PyObject*>self.function, args, n, names)
            varied, positional, given = chosen
            flat, keywords = (member, *varied, *positional, *given.values()), tuple(given)
            self.describe(
                &call, items_of(flat), 1 + len(varied) + len(positional), <PyObject*>keywords if keywords else NULL
            )
        hashed = try_hash_call(&call)
        if unlikely(hashed == -1):
            self.explain(args, n, names, True)
        value = get_call(<PyObject*>self._cache, &call, mixed_in(<PyObject*>self._cache, hashed))
        if value != NULL:
            return self.hit(value)
        return self.miss(key_of_call(&call, None), hashed, args, n, names, member)

    cdef object member_of(self, object instance):
        known = self.members.get(id(instance))
        return known if known is not None else self.members.setdefault(id(instance), Member(instance))

    cdef PyObject* call_uncached(self, PyObject** args, Py_ssize_t n, PyObject* names) except NULL:
        if n != 0 and is_lasting(<object>args[0]):
            return self.call_lasting(args, n, names)
        self._cache.count_miss()
        if self.token is not None:
            count(&self.misses)
        if not self.warned and n != 0:
            self.warn_uncached(<object>args[0])
        return vectorcall(<PyObject*>self.function, args, n, names)

    # --- calling, where the short ways below do not lead to the end: methods, which are not inlined there -------------

    cdef PyObject* find_nullary(self, PyObject** args) except NULL:
        """A call without arguments: the key is an object that we know."""
        cdef PyObject* cache = <PyObject*>self._cache
        cdef PyObject* value
        cdef Py_hash_t hashed
        cdef uint64_t h
        cdef uint32_t i, slot
        cdef bint compared
        acquire((<Cache>cache).lock)
        key = self.nullary
        release((<Cache>cache).lock)
        if key is None:
            made = self.key_of((), {}, False, False)
            acquire((<Cache>cache).lock)
            if self.nullary is None:
                self.nullary = made
            key = self.nullary
            release((<Cache>cache).lock)
        hashed = hash_of(<PyObject*>key)
        h = mixed_in(cache, hashed)
        acquire((<Cache>cache).lock)
        i = find_quickly(cache, <PyObject*>key, h, &slot)
        if i != 0:
            self.nullary_at = i
        value = go_on(cache, <PyObject*>key, h, slot, i, &compared)
        return self.hit(value) if value != NULL else self.miss(key, hashed, args, 0, NULL, None)

    # --- loading in a coroutine: what `coroutines.fly` needs ----------------------------------------------------------

    def _board(self, key, Py_hash_t hashed, bint counted, bint alone):
        """Returns (a Leader, None), (None, a flight to wait for), or (None, the value that is there in a tuple)."""
        cdef Ticket ticket
        cdef Leader lead = new_leader(self._cache)
        ticket.counted = counted
        if alone:
            lead.alone = Watch.__new__(Watch)
            lead.alone.store = self._cache
        flight = board(self._cache, key, mixed_in(<PyObject*>self._cache, hashed), lead, &ticket)
        if self.token is not None and not counted:
            count(&self.misses if ticket.counted else &self.hits)
        lead.began = self._cache.invalidations
        if ticket.value != NULL:
            return None, (self._cache.copy_of(taken_over(ticket.value)),)
        return (None, flight) if flight is not None else (lead, None)

    def _land(self, Leader lead, key, Py_hash_t hashed, value, receiver, tuple args, dict kwargs):
        """End a load with a value."""
        cdef Loading how
        cdef tuple flat, names
        instance = receiver() if receiver is not None else None
        if may_pass_once(<PyObject*>value) and passes_once(value):
            crash(self._cache, lead, None)
            self._report(value)
            return
        self.prepare(&how)
        how.began = lead.began
        if self.tags is not None:               # which may be a function of the arguments
            flat, names = args + tuple(kwargs.values()), tuple(kwargs)
            how.arguments = items_of(flat)
            how.n = len(args)
            how.names = <PyObject*>names if names else NULL
        how.instance = <PyObject*>instance if receiver is not None else NULL
        if self.failures is not None:
            self.failures.forget(key)           # it is known to have failed only where it is loaded anew
        try:
            self._cache.land(lead, key, mixed_in(<PyObject*>self._cache, hashed), value, &how)
        finally:
            if receiver is not None:
                remember(receiver, hashed, self._cache)

    # --- many keys: what `many.CachedMany` needs ----------------------------------------------------------------------

    def _find_many(self, tuple prefix, list keys, dict found, bint anew):
        """Put the results of calls with one argument each into `found`. Returns the others, with their keys.

        `prefix`: the instance of a method, or nothing. `anew`: look for none.
        """
        cdef PyObject* value
        cdef bint compared, is_lone = self.is_simple and not prefix
        cdef list left = []
        for key in keys:
            made = key
            if not is_lone or type(key) is CallKey:
                made = self.key_of((*prefix, key), {}, len(prefix) != 0, False)
            if not anew:
                value = get_equal(
                    <PyObject*>self._cache, <PyObject*>made,
                    mixed_in(<PyObject*>self._cache, hash_of(<PyObject*>made)), &compared
                )
                if value != NULL:
                    found[key] = taken_over(value)
                    if self.token is not None:
                        count(&self.hits)
                    continue
            left.append((key, made))
        return left

    def _land_absent(self, Leader lead, key, Py_hash_t hashed, value, ttl):
        """End a load that found nothing with a value that says so, stored for `ttl` seconds; None: not at all."""
        cdef double lifetime = lifetime_of(ttl, "missing_ttl")
        cdef tuple tags = None if self.own_tag is None else (self.own_tag,)
        receiver = self.receiver_in(key)
        try:
            land(
                self._cache, key, mixed_in(<PyObject*>self._cache, hashed), lead, value, lifetime, 0.0, ttl is not None,
                tags, self._cache.invalidations,
            )
        finally:
            if receiver is not None:
                remember(receiver, hashed, self._cache)

    def _receiver_in(self, key):
        return self.receiver_in(key)

    def _lead_anew(self, key, Py_hash_t hashed):
        """A Leader for a load, whatever value there is, and whoever is loading it."""
        cdef Leader lead = new_leader(self._cache)
        lead_anew(self._cache, key, mixed_in(<PyObject*>self._cache, hashed), lead)
        lead.began = self._cache.invalidations
        return lead

    def _function_anew(self):
        return self.anew()

    def _known_failure(self, key):
        """What to raise for a call that failed lately, or None."""
        error = self.failures.find(key) if self.failures is not None else None
        if error is not None:
            self._cache.count_hit()
            if self.token is not None:
                count(&self.hits)
        return error

    def _failed(self, Leader lead, key, error):
        """A load failed: remember that, if it is to be remembered."""
        if self.failures is not None:
            self._cache.remember(key, lead, error, self.failures)

    _is_cached_function = True

    @property
    def _single_flight(self):
        return self.single_flight

    # --- keys ---------------------------------------------------------------------------------------------------------

    cdef object key_of(self, tuple args, dict kwargs, bint as_method, bint known_only):
        """The key of a call. NO_KEY: `known_only`, and the instance has no results."""
        cdef Call call
        cdef Py_hash_t hashed
        cdef tuple flat = args + tuple(kwargs.values()), flat_given
        cdef tuple names = tuple(kwargs), names_given
        cdef Py_ssize_t n_given
        receiver = None
        as_method = as_method and self.by_instance
        self.describe(&call, items_of(flat), len(args), <PyObject*>names if names else NULL)
        if self.key_func is not None:
            key = self.key_func(*args, **kwargs)
            if is_awaitable(<PyObject*>key):
                refuse_awaitable("key_func", key)
            hash_of(<PyObject*>key)
            return key
        if not as_method and self.asks_classes and self.receives(
            call.arguments, call.n, call.names
        ):
            if not args:
                args = (kwargs[self.first_name],)
                kwargs = {name: value for name, value in kwargs.items() if name != self.first_name}
            return self.key_of(args, kwargs, True, known_only)
        if as_method and not args:
            raise TypeError(f"{self!r} is a method: its first argument must be the instance")
        flat_given, names_given, n_given = flat, names, len(args)
        if self.key_arguments is not None:
            chosen = self.key_arguments.of(args, kwargs, as_method)
            if chosen is None:
                refuse_arguments(self.function, args, kwargs)
            varied, positional, kwargs = chosen
            args = (*args[:as_method], *varied, *positional)
            flat, names = args + tuple(kwargs.values()), tuple(kwargs)
            self.describe(&call, items_of(flat), len(args), <PyObject*>names if names else NULL)
        if as_method:
            if not takes_weak_references(call.arguments[0]) and is_lasting(args[0]):
                flat = (self.member_of(args[0]), *flat[1:])
                self.describe(&call, items_of(flat), len(args), call.names)
                hash_call(&call)
                return key_of_call(&call, None)
            receiver = self.receiver_of(args[0], known_only)
            if receiver is None:
                return NO_KEY
            call.receiver = call.arguments[0]
            call.arguments += 1
            call.n -= 1
        hashed = try_hash_call(&call)
        if unlikely(hashed == -1):              # unhashable arguments have no key
            self.explain(items_of(flat_given), n_given, <PyObject*>names_given if names_given else NULL, as_method)
        if not as_method and is_lone(self, call.arguments, call.n, call.names):
            return args[0]
        if receiver is not None and not known_only:
            remember(receiver, hashed, self._cache)     # the caller may store something under the key
        return key_of_call(&call, receiver)

    cdef object receiver_of(self, object instance, bint known_only):
        """What stands for an instance in keys. None: `known_only`, and it has no results."""
        known = self.receivers.get(id(instance))
        if known is not None and known() is instance:
            return known
        if known_only:
            return None
        if not takes_weak_references(<PyObject*>instance):
            raise HasNoKey(
                f"a call on this {type(instance).__name__} has no key: it takes no weak reference (__slots__ without "
                "__weakref__), so its results are not cached"
            )
        receiver = Receiver(instance, forget_receiver)
        receiver.address = (<size_t><PyObject*>instance) >> 4
        receiver.hashes = set()
        receiver.limit = 64
        receiver.cache = ref(self._cache)
        receiver.known = self.receivers
        receiver.id = id(instance)
        if known is not None:                   # of a dead instance whose end nobody was told of yet
            self.receivers.pop(id(instance), None)
        if is_finalized(instance):
            watch_over(receiver)
        return self.receivers.setdefault(id(instance), receiver)

    # --- for users ----------------------------------------------------------------------------------------------------

    @property
    def cache(self):
        """The cache that holds the results."""
        return self._cache

    def cache_info(self):
        """Hits, misses, maxsize and currsize, as a named tuple in the shape that functools has.

        In a shared cache hits and misses are this function's, the sizes are the cache's. O(1), beside the removal of
        what has expired.
        """
        from cachebox._calls.cache_info import CacheInfo

        if self.parameters["maxsize"] == 0:
            return CacheInfo(0, self.misses, 0, 0)
        stats = self._cache.stats
        hits, misses = (self.hits, self.misses) if self.token is not None else (stats.hits, stats.misses)
        return CacheInfo(hits, misses, self._cache.max_size, len(self._cache))

    def cache_clear(self):
        """Forget all results and set the statistics to zero. In a shared cache, only this function's. O(n).

        Where the function has a cache of its own below this one, and a `cache_clear`, that is emptied first.
        """
        below = getattr(self.function, "cache_clear", None)
        if not self.unwatched and callable(below) and not is_async(below):
            below()
        self.hits = self.misses = 0
        if self.own_failures:
            self.failures.clear()
        if self.token is None:
            self._cache.clear()
        elif self.own_tag is not None:
            self._cache.invalidate_tag(self.own_tag)
        else:
            self._cache.delete_many(keys_of_token(self._cache, self.token))

    def cache_parameters(self):
        """How the function is cached, as a new dict: maxsize and typed; from `cached`, policy and ttl too."""
        return dict(self.parameters)

    def cache_key(self, *args, **kwargs):
        """The key of the call with these arguments in the cache; TypeError where one of them is not hashable. O(1)."""
        return self.key_of(args, kwargs, self.is_method, False)

    def invalidate(self, *args, **kwargs):
        """Forget the result of the call with these arguments. True where there was one. O(1).

        Where the function has a cache of its own below this one, and an `invalidate`, it forgets it, too.
        """
        return self.invalidate_call(args, kwargs, self.is_method)

    def peek(self, *args, **kwargs):
        """The result of the call with these arguments, or `MISSING` where it is not cached. Makes no call. O(1).

        It counts neither as a hit nor as a miss, and the policy is not told. The result of an async function is there
        without `await`.
        """
        return self.peek_call(args, kwargs, self.is_method)

    def refresh(self, *args, **kwargs):
        """Make the call with these arguments now, store its result in place of an older one, and return it.

        It counts neither as a hit nor as a miss. Whoever calls meanwhile gets the older result, or waits for this one
        where there is none; what others were computing for these arguments when it began is not stored. A write of the
        result meanwhile wins, and an exception changes nothing. Where the function has a cache of its own below this
        one, that is refreshed as well. To be awaited where the function is.
        """
        return self.refresh_call(args, kwargs, self.is_method)

    def set(self, value, /, *args, **kwargs):
        """Store `value` as the result of the call with these arguments, as if it had been computed. O(1).

        `condition`, `ttl` and `tags` apply. The value of an async function is what awaiting it would give.
        """
        self.set_call(value, args, kwargs, self.is_method)

    cdef bint invalidate_call(self, tuple args, dict kwargs, bint as_method) except -1:
        return self.forget_below(args, kwargs) | self.forget_call(self.key_of(args, kwargs, as_method, True))

    cdef object peek_call(self, tuple args, dict kwargs, bint as_method):
        key = self.key_of(args, kwargs, as_method, True)
        return MISSING if key is NO_KEY else self._cache.peek(key, MISSING)

    cdef object refresh_call(self, tuple args, dict kwargs, bint as_method):
        cdef Loading how
        cdef Leader leader
        cdef PyObject* value
        cdef Py_hash_t hashed
        cdef uint64_t h
        cdef tuple flat = args + tuple(kwargs.values()), names = tuple(kwargs)
        cdef PyObject* names_or_none = <PyObject*>names if names else NULL
        function = self.anew()
        if not self.stores or (has_items(blocks) and is_disabled()):
            return function(*args, **kwargs)
        try:
            key = self.key_of(args, kwargs, as_method, False)
        except HasNoKey:
            return function(*args, **kwargs)
        hashed = hash_of(<PyObject*>key)
        receiver = self.receiver_in(key)
        if self.fly is not None:
            fly = fly_anew_called if self.fly is fly_called else self.fly_anew
            return self.begin(fly, key, hashed, items_of(flat), len(args), names_or_none, receiver)
        instance = receiver() if receiver is not None else None
        self.prepare(&how)
        how.function = <PyObject*>function
        how.arguments = items_of(flat)
        how.n = len(args)
        how.names = names_or_none
        how.instance = <PyObject*>instance if receiver is not None else NULL
        how.began = self._cache.invalidations
        leader = new_leader(self._cache)
        h = mixed_in(<PyObject*>self._cache, hashed)
        lead_anew(self._cache, key, h, leader)
        value = quick_vectorcall(how.function, how.arguments, how.n, how.names)
        result = self._cache.land_or_crash(key, h, leader, value, &how)
        if how.single_use == PASSED:
            return taken_over(self.passed(
                result, key, hashed, items_of(flat), len(args), names_or_none, receiver, True
            ))
        if self.failures is not None:
            self.failures.forget(key)
        return result

    cdef object anew(self):
        """What computes a result, whatever is cached: the function, or how it is refreshed where it is cached itself."""
        refresh = getattr(type(self.function), "refresh", None)
        if refresh is None or not hasattr(type(self.function), "_is_cached_function"):
            return self.function
        return self.function.refresh

    cdef int set_call(self, object value, tuple args, dict kwargs, bint as_method) except -1:
        cdef Loading how
        cdef tuple flat = args + tuple(kwargs.values()), names = tuple(kwargs)
        if is_awaitable(<PyObject*>value):
            refuse_awaitable("value", value)
        if may_pass_once(<PyObject*>value) and passes_once(value):
            self._report(value)
            return 0
        key = self.key_of(args, kwargs, as_method, False)
        receiver = self.receiver_in(key)
        instance = receiver() if receiver is not None else None
        self.prepare(&how)
        how.arguments = items_of(flat)
        how.n = len(args)
        how.names = <PyObject*>names if names else NULL
        how.instance = <PyObject*>instance if receiver is not None else NULL
        if self.stores:
            self._cache.put_result(key, mixed_in(<PyObject*>self._cache, hash_of(<PyObject*>key)), value, &how)
            if self.own_failures:
                self.failures.forget(key)
        return 0

    cdef object receiver_in(self, object key):
        """The Receiver in the key of a call, or None."""
        cdef Py_ssize_t at = self.token is not None
        if self.key_func is None and type(key) is CallKey and len(<tuple>key) > at:
            found = (<tuple>key)[at]
            if type(found) is Receiver or type(found) is Member:
                return found
        return None

    cdef bint forget_below(self, tuple args, dict kwargs) except -1:
        below = getattr(self.function, "invalidate", None)
        return bool(below(*args, **kwargs)) if callable(below) and not is_async(below) else False

    cdef bint forget_call(self, object key) except -1:
        if key is NO_KEY:
            return False
        if self.own_failures:
            self.failures.forget(key)
        return self._cache.delete(key)

    def __get__(self, instance, owner):
        if instance is None:
            return self
        if not self.binds_weakly:
            return MethodType(self, instance)
        return BoundFunction(self, instance)

    def __set_name__(self, owner, name):
        self._may_be_class_method = False
        qualname = getattr(self.function, "__qualname__", None)
        if self.asks_classes and qualname == f"{owner.__qualname__}.{name}":
            from cachebox._calls.methods import wraps_static_method

            if not wraps_static_method(self.function):
                become_method(self)

    def __getattribute__(self, name):
        if self._may_be_class_method and name in CONTROLS:
            bound = bound_by_class(self)
            if bound is not None:
                return getattr(bound, name)
        return PyObject_GenericGetAttr(self, name)

    def __getattr__(self, name):
        return getattr(self.function, name)         # `__code__` of a function, `delay` of a task

    def __dir__(self):
        return sorted({*dir(type(self)), *vars(self)})

    @property
    def __class__(self):
        """For whoever looks for a function: frameworks, `inspect`. `type` tells the truth."""
        return FunctionType if isinstance(self.function, FunctionType) else type(self)

    def __reduce__(self):
        return self.__qualname__

    def __copy__(self):
        return self

    def __deepcopy__(self, memo):
        return self

    def __repr__(self):
        return f"<cached {getattr(self, '__qualname__', self.function)}>"


@cython.trashcan(True)
cdef class CachedMethod(CachedFunction):
    """A cached function that the interpreter calls as a method without binding it first."""


@cython.trashcan(True)
cdef class BoundFunction:
    """A cached method bound to its instance: what `instance.method` is. It is called without the instance."""

    def __cinit__(self, CachedFunction function not None, instance):
        self.__func__ = function
        self.__self__ = instance
        self.vectorcall = <vectorcallfunc>call_bound

    def __call__(self, *args, **kwargs):
        cdef tuple flat = args + tuple(kwargs.values()), names = tuple(kwargs)
        return taken_over(
            self.vectorcall(<PyObject*>self, items_of(flat), len(args), <PyObject*>names if kwargs else NULL)
        )

    def cache_key(self, *args, **kwargs):
        """The key under which the cache holds the result of this call."""
        return self.__func__.key_of((self.__self__, *args), kwargs, True, False)

    def invalidate(self, *args, **kwargs):
        """Forget the result of the call with these arguments. True where there was one. O(1)."""
        return self.__func__.invalidate_call((self.__self__, *args), kwargs, True)

    def peek(self, *args, **kwargs):
        """The result of the call with these arguments, or `MISSING`. Makes no call, and counts nothing. O(1)."""
        return self.__func__.peek_call((self.__self__, *args), kwargs, True)

    def refresh(self, *args, **kwargs):
        """Make the call with these arguments now, store its result, and return it."""
        return self.__func__.refresh_call((self.__self__, *args), kwargs, True)

    def set(self, value, /, *args, **kwargs):
        """Store `value` as the result of the call with these arguments, as if it had been computed. O(1)."""
        self.__func__.set_call(value, (self.__self__, *args), kwargs, True)

    def __getattr__(self, name):
        return getattr(self.__func__, name)

    def __dir__(self):
        return sorted({*dir(type(self)), *dir(self.__func__)})

    @property
    def __class__(self):
        return MethodType

    @property
    def __doc__(self):
        return self.__func__.__doc__

    @property
    def __module__(self):
        return self.__func__.__module__

    def __eq__(self, other):
        if not isinstance(other, BoundFunction):
            return NotImplemented
        return self.__self__ is other.__self__ and self.__func__ is (<BoundFunction>other).__func__

    def __hash__(self):
        return hash((id(self.__self__), self.__func__))

    def __reduce__(self):
        return getattr, (self.__self__, self.__func__.__name__)

    def __repr__(self):
        return f"<bound {self.__func__!r} of {self.__self__!r}>"


cdef int raise_current() except -1:
    """Let the exception that is set take its course."""
    return -1


cdef Py_hash_t hash_one(PyObject* item) except? -1:
    return hash_of(item)


cdef int refuse_arguments(object function, tuple args, dict kwargs) except -1:
    """TypeError for arguments that a function does not take."""
    from inspect import signature

    signature(function).bind(*args, **kwargs)
    raise TypeError(f"{getattr(function, '__qualname__', function)} does not take these arguments")


cdef int become_method(CachedFunction function) except -1:
    """Take the first argument for the instance from now on."""
    function.is_method = True
    function.lone = NEVER
    function.vectorcall = method_call(function)
    set_type(<PyObject*>function, <PyTypeObject*>CachedMethod)
    return 0


# --- what the interpreter calls ---------------------------------------------------------------------------------------

cdef inline bint is_lone(CachedFunction self, PyObject** args, Py_ssize_t n, PyObject* names) noexcept:
    """Whether the key of a call is its one argument."""
    if n != 1 or names != NULL:
        return False
    return type_of(args[0]) != call_key if self.lone == ALWAYS else self.lone == PLAIN and is_plain(args[0])


cdef vectorcallfunc likely_call(object function) except NULL:
    """What to call for a function that has its cache to itself. Each does for any call, and best for the likeliest."""
    if is_function(function) and not function.__code__.co_flags & VARARGS:
        if function.__code__.co_argcount == 0:
            return <vectorcallfunc>call_nullary
        if function.__code__.co_argcount - len(function.__defaults__ or ()) >= 2:
            return <vectorcallfunc>call_several
    return <vectorcallfunc>call_lone


cdef vectorcallfunc method_call(CachedFunction function) except NULL:
    """The same for a method."""
    if function.is_simple and function.ready is None:
        return <vectorcallfunc>call_simple_method
    return <vectorcallfunc>call_method


cdef PyObject* call_lone(PyObject* self, PyObject** args, size_t nargsf, PyObject* names) noexcept:
    """A function that has its cache to itself, called with one argument that is its key."""
    cdef PyObject* cache = <PyObject*>(<CachedFunction>self)._cache
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
    return compare_lone(self, args, 1, h, i)


cdef PyObject* call_nullary(PyObject* self, PyObject** args, size_t nargsf, PyObject* names) noexcept:
    """The same without arguments: the entry is likely to be where it was."""
    cdef PyObject* cache = <PyObject*>(<CachedFunction>self)._cache
    cdef Py_ssize_t n = PyVectorcall_NARGS(nargsf)
    cdef uint32_t i = (<CachedFunction>self).nullary_at
    if unlikely(n != 0 or names != NULL or has_items(blocks)):
        return other_call(self, args, n, names)
    acquire((<Cache>cache).lock)
    if likely(i != 0 and i < (<Cache>cache).table.fresh and is_plain_hit(cache, i)):
        if likely((<Cache>cache).table.entries[i].key == <PyObject*>(<CachedFunction>self).nullary):
            return take_hit(cache, i)
    release((<Cache>cache).lock)
    return any_call(self, args, 0, NULL)


cdef PyObject* call_several(PyObject* self, PyObject** args, size_t nargsf, PyObject* names) noexcept:
    """The same with more than one argument."""
    cdef Py_ssize_t n = PyVectorcall_NARGS(nargsf)
    if unlikely(n < 2 or names != NULL or has_items(blocks)):
        return other_call(self, args, n, names)
    return call_simple(self, NULL, args, n, 2)


cdef PyObject* call_varying(PyObject* self, PyObject** args, size_t nargsf, PyObject* names) noexcept:
    """The same with one argument, where keys vary by one context variable."""
    cdef PyObject* cache = <PyObject*>(<CachedFunction>self)._cache
    cdef Py_ssize_t n = PyVectorcall_NARGS(nargsf)
    cdef PyObject* varied
    cdef PyObject* value
    cdef Py_hash_t hashed
    cdef uint32_t i
    if unlikely(n != 1 or names != NULL or has_items(blocks)):
        return select_call(self, args, n, names)
    if unlikely(get_variable((<CachedFunction>self).key_arguments.source, &varied) < 0):
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
    """A function that has its cache to itself, and keys that need not have all arguments, or have more than these."""
    cdef PyObject* cache = <PyObject*>(<CachedFunction>self)._cache
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
    n = select_quickly((<CachedFunction>self).key_arguments, args, n, names, items, &varied)
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
    """A method that has its cache to itself."""
    cdef Py_ssize_t n = PyVectorcall_NARGS(nargsf)
    if unlikely(n == 0 or names != NULL or has_items(blocks) or not takes_weak_references(args[0])):
        return other_method_call(self, args, n, names)
    if n == 1:
        return call_simple(self, args[0], args + 1, 0, 0)
    return call_simple(self, args[0], args + 1, n - 1, 1)


cdef inline PyObject* call_simple(
    PyObject* self, PyObject* receiver, PyObject** args, Py_ssize_t n, Py_ssize_t least
) noexcept:
    """A call whose key is a CallKey of the arguments alone. Inlined with constants, this becomes little code."""
    cdef PyObject* cache = <PyObject*>(<CachedFunction>self)._cache
    cdef Call call
    cdef Py_hash_t hashed
    cdef uint32_t i
    describe_simple(&call, receiver, args, n, NULL)
    if unlikely(not knows_hash_of_arguments(&call, least, &hashed)):
        return hash_simple(self, receiver, args, n, NULL)
    if likely(find_call_at_once(cache, &call, least, mixed_in(cache, hashed), &i) and is_plain_hit(cache, i)):
        return take_hit(cache, i)
    return search_simple(self, receiver, args, n, hashed, i)


# --- where they do not lead to the end --------------------------------------------------------------------------------

cdef PyObject* by_arguments(PyObject* self, PyObject** args, Py_ssize_t n, PyObject* names) noexcept:
    """A call with other arguments than are likely. The next ones are likely to be as many."""
    if unlikely(has_items(blocks)):
        return call_in_doubt(self, args, n, names)
    if names != NULL:
        return call_with_keywords(self, args, n, names)
    if HAS_GIL:                     # else another thread may make it a method just now
        (<CachedFunction>self).vectorcall = <vectorcallfunc>(
            call_nullary if n == 0 else call_lone if n == 1 else call_several
        )
    if n == 0:
        return call_nullary(self, args, 0, NULL)
    if n == 1:
        return call_lone(self, args, 1, NULL)
    return call_several(self, args, n, NULL)


cdef PyObject* by_keywords(PyObject* self, PyObject** args, Py_ssize_t n, PyObject* names) except NULL:
    return find_simple(self, NULL, args, n, names)


cdef PyObject* by_arguments_of_method(PyObject* self, PyObject** args, Py_ssize_t n, PyObject* names) except NULL:
    """The same for `call_simple_method`."""
    if unlikely(has_items(blocks) and is_disabled()):
        return vectorcall(<PyObject*>(<CachedFunction>self).function, args, n, names)
    if n == 0 or not takes_weak_references(args[0]):
        return (<CachedFunction>self).call_unreceived(args, n, names)
    return find_simple(self, args[0], args + 1, n - 1, names)


cdef inline PyObject* find_simple(
    PyObject* self, PyObject* receiver, PyObject** args, Py_ssize_t n, PyObject* names
) except NULL:
    """`call_simple` with keywords."""
    cdef PyObject* cache = <PyObject*>(<CachedFunction>self)._cache
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
    """The rest of `call_simple` where `find_call_at_once` told i, with the lock."""
    cdef PyObject* cache = <PyObject*>(<CachedFunction>self)._cache
    cdef PyObject* value = NULL
    cdef Call call
    describe_simple(&call, receiver, args, n, NULL)
    if likely(is_call_at(cache, &call, mixed_in(cache, hashed), i)):
        if likely(is_plain_hit(cache, i)):
            return take_hit(cache, i)
        value = quick_use(cache, i)
    release((<Cache>cache).lock)
    if value != NULL:
        return value
    return get_simple(self, receiver, args, n, NULL, hashed)


cdef PyObject* simple_by_hashing(
    PyObject* self, PyObject* receiver, PyObject** args, Py_ssize_t n, PyObject* names
) except NULL:
    """`call_simple` where hashing an argument takes a call of Python's."""
    cdef Call call
    cdef Py_hash_t hashed
    if receiver == NULL and (<CachedFunction>self).asks_classes and (<CachedFunction>self).receives(args, n, names):
        return (<CachedFunction>self).call_received(args, n, names)
    describe_simple(&call, receiver, args, n, names)
    hashed = try_hash_call(&call)
    if unlikely(hashed == -1):
        if receiver == NULL:
            (<CachedFunction>self).explain(args, n, names, False)
        else:
            (<CachedFunction>self).explain(args - 1, n + 1, names, True)
    return simple_by_hash(self, receiver, args, n, names, hashed)


cdef PyObject* simple_by_hash(
    PyObject* self, PyObject* receiver, PyObject** args, Py_ssize_t n, PyObject* names, Py_hash_t hashed
) except NULL:
    """The same once it is hashed."""
    cdef PyObject* cache = <PyObject*>(<CachedFunction>self)._cache
    cdef PyObject* value
    cdef Call call
    describe_simple(&call, receiver, args, n, names)
    value = get_call(cache, &call, mixed_in(cache, hashed))
    if value != NULL:
        return (<CachedFunction>self).hit(value)
    if receiver != NULL:
        return (<CachedFunction>self).miss_call(args - 1, n + 1, names, hashed, True)
    return (<CachedFunction>self).miss_call(args, n, names, hashed, False)


cdef PyObject* lone_by_comparing(PyObject* self, PyObject** args, Py_ssize_t n, uint64_t h, uint32_t i) noexcept:
    """The rest of `call_lone`, with the lock: what takes no call."""
    cdef PyObject* cache = <PyObject*>(<CachedFunction>self)._cache
    if likely(is_equal_hit(cache, args[0], h, i)):
        return take_hit(cache, i)
    return search_lone(self, args, n, h, i)


cdef PyObject* lone_by_search(PyObject* self, PyObject** args, Py_ssize_t n, uint64_t h, uint32_t i) except NULL:
    """The rest of that."""
    cdef bint compared
    cdef PyObject* value = search_and_use(<PyObject*>(<CachedFunction>self)._cache, args[0], h, i, &compared)
    if value != NULL:
        return value
    return (<CachedFunction>self).miss(<object>args[0], hash_of(args[0]), args, 1, NULL, None)


cdef PyObject* in_doubt(PyObject* self, PyObject** args, Py_ssize_t n, PyObject* names) except NULL:
    """A call while some are in a block of `disabled`."""
    if is_disabled():
        return vectorcall(<PyObject*>(<CachedFunction>self).function, args, n, names)
    if (<CachedFunction>self).is_method:
        return by_arguments_of_method(self, args, n, names)
    return call_anyhow(self, args, n, names)


cdef PyObject* call_otherwise(PyObject* self, PyObject** args, size_t nargsf, PyObject* names) except NULL:
    """Any call of a function that has its cache to itself."""
    if unlikely(has_items(blocks)):
        return in_doubt(self, args, PyVectorcall_NARGS(nargsf), names)
    return call_anyhow(self, args, nargsf, names)


cdef PyObject* call_anyhow(PyObject* self, PyObject** args, size_t nargsf, PyObject* names) except NULL:
    cdef PyObject* cache = <PyObject*>(<CachedFunction>self)._cache
    cdef PyObject* value
    cdef Py_ssize_t n = PyVectorcall_NARGS(nargsf)
    cdef Py_hash_t hashed
    cdef bint compared
    if n == 0 and names == NULL:
        return (<CachedFunction>self).find_nullary(args)
    if not is_lone(<CachedFunction>self, args, n, names):
        return simple_by_hashing(self, NULL, args, n, names)
    if (<CachedFunction>self).asks_classes and (<CachedFunction>self).receives(args, n, names):
        return (<CachedFunction>self).call(args, n, names, True)
    hashed = try_hash(args[0])
    if unlikely(hashed == -1):
        (<CachedFunction>self).explain(args, n, names, False)
    value = get_equal(cache, args[0], mixed_in(cache, hashed), &compared)
    if value != NULL:
        return (<CachedFunction>self).hit(value)
    return (<CachedFunction>self).miss(<object>args[0], hashed, args, 1, NULL, None)


ctypedef PyObject* (*SimpleRest)(
    PyObject* self, PyObject* receiver, PyObject** args, Py_ssize_t n, PyObject* names
) noexcept
ctypedef PyObject* (*SimpleGet)(
    PyObject* self, PyObject* receiver, PyObject** args, Py_ssize_t n, PyObject* names, Py_hash_t hashed
) noexcept
ctypedef PyObject* (*SimpleSearch)(
    PyObject* self, PyObject* receiver, PyObject** args, Py_ssize_t n, Py_hash_t hashed, uint32_t i
) noexcept
ctypedef Py_hash_t (*TryHash)(PyObject* item) noexcept      # -1: an exception is set
ctypedef PyObject* (*Entry)(PyObject* self, PyObject** args, size_t nargsf, PyObject* names) noexcept
cdef Entry any_call = <Entry>call_anyhow
cdef Rest other_call = by_arguments
cdef Rest call_in_doubt = <Rest>in_doubt
cdef Rest call_generally = <Rest>call_general_
cdef Rest select_call = <Rest>call_selecting_
cdef Rest call_with_keywords = <Rest>by_keywords
cdef Rest other_method_call = <Rest>by_arguments_of_method
cdef Search compare_lone = lone_by_comparing, search_lone = <Search>lone_by_search
cdef TryHash try_hash = <TryHash>hash_one
cdef SimpleRest hash_simple = <SimpleRest>simple_by_hashing
cdef SimpleGet get_simple = <SimpleGet>simple_by_hash
cdef SimpleSearch search_simple = <SimpleSearch>simple_by_search


cdef inline void describe_simple(
    Call* call, PyObject* receiver, PyObject** args, Py_ssize_t n, PyObject* names
) noexcept:
    call.token = NULL
    call.receiver = receiver
    call.arguments = args
    call.n = n
    call.names = names
    call.typed = False


cdef PyObject* call_general(PyObject* self, PyObject** args, size_t nargsf, PyObject* names) except NULL:
    if unlikely(has_items(blocks) and is_disabled()):
        return vectorcall(<PyObject*>(<CachedFunction>self).function, args, PyVectorcall_NARGS(nargsf), names)
    return (<CachedFunction>self).call(args, PyVectorcall_NARGS(nargsf), names, False)


cdef PyObject* call_selecting_(PyObject* self, PyObject** args, Py_ssize_t n, PyObject* names) noexcept:
    return call_selecting(self, args, n, names)


cdef PyObject* call_general_(PyObject* self, PyObject** args, Py_ssize_t n, PyObject* names) except NULL:
    return call_general(self, args, n, names)


cdef PyObject* call_method(PyObject* self, PyObject** args, size_t nargsf, PyObject* names) except NULL:
    if unlikely(has_items(blocks) and is_disabled()):
        return vectorcall(<PyObject*>(<CachedFunction>self).function, args, PyVectorcall_NARGS(nargsf), names)
    return (<CachedFunction>self).call(args, PyVectorcall_NARGS(nargsf), names, True)


cdef PyObject* call_counted(PyObject* self, PyObject** args, size_t nargsf, PyObject* names) except NULL:
    """`lru_cache(maxsize=0)`: nothing is cached, but misses are counted."""
    if likely(not has_items(blocks) or not is_disabled()):
        count(&(<CachedFunction>self).misses)
    return vectorcall(<PyObject*>(<CachedFunction>self).function, args, PyVectorcall_NARGS(nargsf), names)


cdef PyObject* call_bound(PyObject* self, PyObject** args, size_t nargsf, PyObject* names) except NULL:
    cdef CachedFunction function = (<BoundFunction>self).__func__
    return call_with_first(
        <vectorcallfunc>call_method, <PyObject*>function, <PyObject*>(<BoundFunction>self).__self__, args, nargsf, names
    )


cdef int enable(type kind, Py_ssize_t offset, bint like_a_function) except -1:
    enable_vectorcall(<PyTypeObject*>kind, offset, like_a_function)
    return 0


cdef CachedFunction _sample = CachedFunction.__new__(CachedFunction, None, Cache(1))
cdef BoundFunction _bound_sample = BoundFunction.__new__(BoundFunction, _sample, None)
enable(CachedFunction, <char*>&_sample.vectorcall - <char*><PyObject*>_sample, False)
enable(CachedMethod, <char*>&_sample.vectorcall - <char*><PyObject*>_sample, True)
enable(BoundFunction, <char*>&_bound_sample.vectorcall - <char*><PyObject*>_bound_sample, False)
_sample = _bound_sample = None


# --- the results of methods -------------------------------------------------------------------------------------------

cdef int remember(object receiver, Py_hash_t hashed, Cache cache) except -1:
    """Note that an instance has a result of that hash, so that it can go when the instance does.

    Hashes are noted, not keys: a key would keep its arguments alive after the cache has evicted it. Those whose entries
    are gone are dropped when they have become as many as the others. Any thread may add one at any time, which it does
    after the entry came into being; so one is dropped first and then, if it has an entry after all, added again.
    """
    hashes = receiver.hashes
    if len(hashes) >= receiver.limit:
        for old in list(hashes):
            hashes.discard(old)
            if keys_of_hash(cache, old):
                hashes.add(old)
        receiver.limit = max(64, 2 * len(hashes))
    hashes.add(hashed)
    return 0


cdef list finalized = []                # receivers of instances that were finalised before they were seen

cdef int watch_over(receiver) except -1:
    """Look after each collection whether an instance has ended. Newer collectors clear a weak reference that was made
    while its object was finalised, and call nobody."""
    finalized.append(receiver)
    if forget_finalized not in gc.callbacks:
        gc.callbacks.append(forget_finalized)
    return 0


def forget_finalized(phase, info):
    if phase != "stop":
        return
    alive = []
    try:
        while finalized:
            receiver = finalized.pop()
            if receiver() is None:
                forget_receiver(receiver)
            else:
                alive.append(receiver)          # it came back to life, or belongs to an older generation
    finally:
        finalized.extend(alive)


def forget_receiver(receiver):
    """An instance is about to end: its results must not outlive it."""
    if receiver.known.get(receiver.id) is receiver:
        del receiver.known[receiver.id]
    cache = receiver.cache()
    failure = None
    if cache is not None:
        for hashed in receiver.hashes:
            for key in keys_of_hash(cache, hashed):
                if type(key) is CallKey and any([item is receiver for item in (<tuple>key)[:2]]):
                    try:
                        cache.delete(key)
                    except BaseException as error:      # a callback's KeyboardInterrupt: the others must go too
                        failure = error
    if failure is not None:
        raise failure
