"""The objects that `cached` and `lru_cache` make of functions: their set-up, and what users call on them."""

cimport cython
from cpython.object cimport PyObject, PyObject_GenericGetAttr, PyTypeObject
from libc.stdint cimport uint64_t

from types import FunctionType, MethodType

from cachebox._calls.cached_call cimport ALWAYS, NEVER, NO_KEY, PLAIN, CachedCall, count, items_of, vectorcallfunc
from cachebox._calls.call_key cimport keys_of_function, remember
from cachebox._calls.entry_points cimport (
    call_counted, call_general, call_method, call_otherwise, call_selecting, call_varying, likely_call, method_call,
)
from cachebox._engine.table cimport hash_of, take_over
from cachebox._loading.fast_path cimport get_equal, mixed_in
from cachebox._loading.fetch cimport (
    PASSED, LoadSpec, complete_load, end_load, is_awaitable, may_pass_once, passes_once, put_result,
    remember as remember_failure,
)
from cachebox._loading.refresh cimport Refresh, flight_of, keep_due
from cachebox._loading.single_flight cimport (
    Joined, Leader, complete, fail, join_or_lead, lead_reload, leader_by_watch, new_leader,
)
from cachebox._store.options cimport lifetime_of
from cachebox._store.state cimport new_watch
from cachebox.cache cimport Cache
from cachebox.stats cimport HITS, MISSES

from cachebox._calls.cached_call import HasNoKey
from cachebox._calls.call_key import CallKey, Member, Receiver
from cachebox._calls.methods import bound_by_class, may_be_class_method
from cachebox._calls.disabling import is_disabled
from cachebox._calls.returned_awaitables import reload_called, load_called
from cachebox._platform.awaitables import is_async, refuse_awaitable
from cachebox.cache import MISSING


cdef extern from *:
    """
    /* Make instances of a type callable by vectorcall. Call it before there are any. */
    static void
    cb_enable_vectorcall(PyTypeObject *type, Py_ssize_t offset, int like_a_function)
    {
        type->tp_vectorcall_offset = offset;
        type->tp_call = PyVectorcall_Call;
        type->tp_flags |= Py_TPFLAGS_HAVE_VECTORCALL | (like_a_function ? Py_TPFLAGS_METHOD_DESCRIPTOR : 0);
        PyType_Modified(type);
    }

    /* Call with one more argument in front. Uses the place that the interpreter may leave for it. */
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
    void enable_vectorcall "cb_enable_vectorcall"(PyTypeObject*, Py_ssize_t, bint)
    PyObject* call_with_first "cb_call_with_first"(
        vectorcallfunc, PyObject*, PyObject*, PyObject**, size_t, PyObject*
    ) except NULL
    void set_type "Py_SET_TYPE"(PyObject*, PyTypeObject*)
    PyObject* quick_vectorcall "PyObject_Vectorcall"(PyObject*, PyObject**, size_t, PyObject*) noexcept


cdef extern from *:
    object new_tuple "PyTuple_Type.tp_new"(PyTypeObject* kind, tuple arguments, PyObject* names)

cdef object info_type = None        # CacheInfo, imported at the first use
cdef frozenset CONTROLS = frozenset(("cache_key", "invalidate", "peek", "refresh", "set"))      # methods for one call


@cython.trashcan(True)              # a function may be an attribute of another one, a hundred thousand deep
cdef class CachedFunction(CachedCall):
    """A function with a cache in front: the result of `cached` and `lru_cache`, which have the documentation."""

    def __init__(
        self, function, Cache cache not None, *, function_id=None, typed=False, only_plain_alone=False, binds_weakly=True,
        is_method=False, single_flight=True, functools_rules=False, keep_first=False, ttl=None, condition=None,
        key_func=None, tags=None, own_tag=None, failures=None, coroutines=None, claim=None, first_name=None, stores=True,
        parameters=(), key_arguments=None, refresh_ahead=None, stale_ttl=None,
    ):
        self.function_id = function_id
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
            keep_due(cache, self.ahead, self.stale)
        self.first_name = first_name
        self.claim = claim
        self.own_tag = own_tag
        self.single_flight = single_flight
        self.functools_rules = functools_rules
        self.keep_first = keep_first
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
        self.failures = failures if failures is not None or functools_rules else cache.failures
        self.key_func = key_func
        self.ready = coroutines.ready if coroutines is not None else None
        self.load_async = coroutines.load_async if coroutines is not None else None
        self.reload_async = coroutines.reload_async if coroutines is not None else None
        self.parameters = dict(parameters)
        self.is_simple = function_id is None and not typed and key_func is None and key_arguments is None
        if not stores:
            self.vectorcall = <vectorcallfunc>call_counted
        elif self.is_method:
            self.vectorcall = method_call(self)
        elif key_arguments is not None:
            self.single_arg = ALWAYS if function_id is None and not typed else NEVER
            is_quick = self.single_arg == ALWAYS and self.ready is None
            self.vectorcall = <vectorcallfunc>call_general
            if is_quick:
                self.vectorcall = <vectorcallfunc>call_selecting
                if self.key_arguments.takes_one and self.key_arguments.source != NULL:
                    self.vectorcall = <vectorcallfunc>call_varying
        elif not self.is_simple:
            self.vectorcall = <vectorcallfunc>call_general
        else:
            self.single_arg = PLAIN if only_plain_alone else ALWAYS
            self.vectorcall = likely_call(function) if self.ready is None else <vectorcallfunc>call_otherwise

    # --- calling -----------------------------------------------------------------------------------------------------

    def __call__(self, *args, **kwargs):
        cdef tuple flat = args + tuple(kwargs.values()), names = tuple(kwargs)
        return take_over(
            self.vectorcall(<PyObject*>self, items_of(flat), len(args), <PyObject*>names if kwargs else NULL)
        )

    def _complete_refreshed(self, Refresh refresh not None, value, tuple args, dict kwargs, receiver):
        """Store the result of a refreshed call, unless the key was written meanwhile."""
        cdef Leader lead = leader_by_watch(self._cache, refresh.watch)
        if lead is None:
            return
        lead.began = self._cache.invalidations
        try:
            self._complete(lead, refresh.key, hash_of(<PyObject*>refresh.key), value, receiver, args, kwargs)
        except:
            fail(self._cache, lead, None)
            raise

    def _refreshing(self, key):
        """The flight of a refresh, to wait for before the result is computed; or None."""
        return flight_of(self._cache, key) if self.serves else None

    cdef int become_async(self) except -1:
        """Return coroutines from now on."""
        from cachebox._calls.coroutines import ready

        self.ready = ready
        self.load_async = load_called
        if self.is_method:
            self.vectorcall = method_call(self)
        elif self.is_simple:
            self.vectorcall = <vectorcallfunc>call_otherwise
        return 0

    def _become_method(self):
        if not self.is_method and self.asks_classes:
            become_method(self)

    # --- loading in a coroutine: for `coroutines.load_async` ----------------------------------------------------------

    def _join_or_lead(self, key, Py_hash_t hashed, bint counted, bint alone):
        """Returns (a Leader, None), (None, a flight to wait for), or (None, a tuple of the existing value)."""
        cdef Joined joined
        cdef Leader lead = new_leader(self._cache)
        joined.counted = counted
        if alone:
            lead.side_load = new_watch(self._cache)
        flight = join_or_lead(self._cache, key, mixed_in(<PyObject*>self._cache, hashed), lead, &joined)
        if self.function_id is not None and not counted:
            count(&self.misses if joined.counted else &self.hits)
        lead.began = self._cache.invalidations
        if joined.value != NULL:
            return None, (self._cache.copy_of(take_over(joined.value)),)
        return (None, flight) if flight is not None else (lead, None)

    def _complete(self, Leader lead, key, Py_hash_t hashed, value, receiver, tuple args, dict kwargs):
        """End a load with a value."""
        cdef LoadSpec spec
        cdef tuple flat, names
        instance = receiver() if receiver is not None else None
        if may_pass_once(<PyObject*>value) and passes_once(value):
            fail(self._cache, lead, None)
            self._report(value)
            return
        self.prepare(&spec)
        spec.began = lead.began
        if self.tags is not None:               # it may be a function of the arguments
            flat, names = args + tuple(kwargs.values()), tuple(kwargs)
            spec.arguments = items_of(flat)
            spec.n = len(args)
            spec.names = <PyObject*>names if names else NULL
        spec.instance = <PyObject*>instance if receiver is not None else NULL
        if self.failures is not None:
            self.failures.forget(key)           # only a refresh loads a key with a remembered failure
        try:
            complete_load(self._cache, lead, key, mixed_in(<PyObject*>self._cache, hashed), value, &spec)
        finally:
            if receiver is not None:
                remember(receiver, hashed, self._cache)

    # --- many keys: for `many.CachedMany` -----------------------------------------------------------------------------

    def _find_many(self, tuple prefix, list keys, dict found, bint reload):
        """Put the results of calls with one argument each into `found`. Returns the other arguments, with their keys.

        `prefix`: the receiver of a method, or nothing. `reload`: look for no results.
        """
        cdef PyObject* value
        cdef bint compared, is_single_arg = self.is_simple and not prefix
        cdef list left = []
        for key in keys:
            made = key
            if not is_single_arg or type(key) is CallKey:
                made = self.key_of((*prefix, key), {}, len(prefix) != 0, False)
            if not reload:
                value = get_equal(
                    <PyObject*>self._cache, <PyObject*>made,
                    mixed_in(<PyObject*>self._cache, hash_of(<PyObject*>made)), &compared
                )
                if value != NULL:
                    found[key] = take_over(value)
                    if self.function_id is not None:
                        count(&self.hits)
                    continue
            left.append((key, made))
        return left

    def _complete_absent(self, Leader lead, key, Py_hash_t hashed, value, ttl):
        """End a load that found no value: store a value that says so, for `ttl` seconds; None: do not store it."""
        cdef double lifetime = lifetime_of(ttl, "missing_ttl")
        cdef tuple tags = None if self.own_tag is None else (self.own_tag,)
        receiver = self.receiver_in(key)
        try:
            complete(
                self._cache, key, mixed_in(<PyObject*>self._cache, hashed), lead, value, lifetime, 0.0, ttl is not None,
                tags, self._cache.invalidations,
            )
        finally:
            if receiver is not None:
                remember(receiver, hashed, self._cache)

    def _receiver_in(self, key):
        return self.receiver_in(key)

    def _lead_reload(self, key, Py_hash_t hashed):
        """A Leader for a load, even if there is a value or another leader."""
        cdef Leader lead = new_leader(self._cache)
        lead_reload(self._cache, key, mixed_in(<PyObject*>self._cache, hashed), lead)
        lead.began = self._cache.invalidations
        return lead

    def _reload_function(self):
        return self.reload_function()

    def _known_failure(self, key):
        """The exception to raise for a call that failed lately, or None."""
        error = self.failures.find(key) if self.failures is not None else None
        if error is not None:
            self._cache.count_hit()
            if self.function_id is not None:
                count(&self.hits)
        return error

    def _failed(self, Leader lead, key, error):
        """Remember that a load failed, if such failures are remembered."""
        if self.failures is not None:
            remember_failure(self._cache, key, lead, error, self.failures)

    _is_cached_function = True

    @property
    def _single_flight(self):
        return self.single_flight

    # --- for users ----------------------------------------------------------------------------------------------------

    @property
    def cache(self):
        """The cache that holds the results."""
        return self._cache

    def cache_info(self):
        """Hits, misses, maxsize and currsize, as a named tuple in the shape that functools has.

        In a shared cache hits and misses are this function's, the sizes are the cache's. O(1), not counting the removal
        of expired entries.
        """
        global info_type
        if info_type is None:
            from cachebox._calls.cache_info import CacheInfo

            info_type = CacheInfo
        if self.parameters["maxsize"] == 0:
            numbers = 0, self.misses, 0, 0
        elif self.function_id is not None:
            numbers = self.hits, self.misses, self._cache.max_size, self._cache.size()
        else:
            stats = self._cache.statistics
            numbers = stats.count(HITS), stats.count(MISSES), self._cache.max_size, self._cache.size()
        return new_tuple(<PyTypeObject*>info_type, (numbers,), NULL)   # its own `__new__` is written in Python

    def cache_clear(self):
        """Forget all results and set the statistics to zero. In a shared cache, only this function's. O(n).

        If the wrapped function has a cache of its own and a `cache_clear`, that is called first.
        """
        below = getattr(self.function, "cache_clear", None)
        if not self.functools_rules and callable(below) and not is_async(below):
            below()
        self.hits = self.misses = 0
        if self.own_failures:
            self.failures.clear()
        if self.function_id is None:
            self._cache.clear()
        elif self.own_tag is not None:
            self._cache.invalidate_tag(self.own_tag)
        else:
            self._cache.delete_many(keys_of_function(self._cache, self.function_id))

    def cache_parameters(self):
        """How the function is cached, as a new dict: maxsize and typed; from `cached`, policy and ttl too."""
        return dict(self.parameters)

    def cache_key(self, *args, **kwargs):
        """The key of the call with these arguments in the cache. Raises TypeError if one is not hashable. O(1)."""
        return self.key_of(args, kwargs, self.is_method, False)

    def invalidate(self, *args, **kwargs):
        """Forget the result of the call with these arguments. Returns True if there was one. O(1).

        If the wrapped function has a cache of its own and an `invalidate`, that is called, too.
        """
        return self.invalidate_call(args, kwargs, self.is_method)

    def peek(self, *args, **kwargs):
        """The result of the call with these arguments, or `MISSING` if it is not cached. Makes no call. O(1).

        It counts neither as a hit nor as a miss, nor as a use for the policy. The result of an async function is
        returned without `await`.
        """
        return self.peek_call(args, kwargs, self.is_method)

    def refresh(self, *args, **kwargs):
        """Make the call with these arguments now, store its result in place of an older one, and return it.

        It counts neither as a hit nor as a miss. Callers meanwhile get the older result; if there is none, they wait
        for the new one. Results that others were computing for these arguments when it began are not stored. A write of
        the result meanwhile wins, and an exception changes nothing. If the wrapped function has a cache of its own,
        that is refreshed as well. For an async function, await it.
        """
        return self.refresh_call(args, kwargs, self.is_method)

    def set(self, value, /, *args, **kwargs):
        """Store `value` as the result of the call with these arguments, as if it had been computed. O(1).

        `condition`, `ttl` and `tags` apply. For an async function, `value` is the awaited result.
        """
        self.set_call(value, args, kwargs, self.is_method)

    cdef bint invalidate_call(self, tuple args, dict kwargs, bint as_method) except -1:
        return self.forget_below(args, kwargs) | self.forget_call(self.key_of(args, kwargs, as_method, True))

    cdef object peek_call(self, tuple args, dict kwargs, bint as_method):
        key = self.key_of(args, kwargs, as_method, True)
        return MISSING if key is <object>NO_KEY else self._cache.peek(key, MISSING)

    cdef object refresh_call(self, tuple args, dict kwargs, bint as_method):
        cdef LoadSpec spec
        cdef Leader leader
        cdef PyObject* value
        cdef Py_hash_t hashed
        cdef uint64_t h
        cdef tuple flat = args + tuple(kwargs.values()), names = tuple(kwargs)
        cdef PyObject* names_or_none = <PyObject*>names if names else NULL
        function = self.reload_function()
        if not self.stores or is_disabled():
            return function(*args, **kwargs)
        try:
            key = self.key_of(args, kwargs, as_method, False)
        except HasNoKey:
            return function(*args, **kwargs)
        hashed = hash_of(<PyObject*>key)
        receiver = self.receiver_in(key)
        if self.load_async is not None:
            load_async = reload_called if self.load_async is load_called else self.reload_async
            return self.begin(load_async, key, hashed, items_of(flat), len(args), names_or_none, receiver)
        instance = receiver() if receiver is not None else None
        self.prepare(&spec)
        spec.function = <PyObject*>function
        spec.arguments = items_of(flat)
        spec.n = len(args)
        spec.names = names_or_none
        spec.instance = <PyObject*>instance if receiver is not None else NULL
        spec.began = self._cache.invalidations
        leader = new_leader(self._cache)
        h = mixed_in(<PyObject*>self._cache, hashed)
        lead_reload(self._cache, key, h, leader)
        value = quick_vectorcall(spec.function, spec.arguments, spec.n, spec.names)
        result = end_load(self._cache, key, h, leader, value, &spec)
        if spec.single_use == PASSED:
            return take_over(self.passed(
                result, key, hashed, items_of(flat), len(args), names_or_none, receiver, True
            ))
        if self.failures is not None:
            self.failures.forget(key)
        return result

    cdef object reload_function(self):
        """The callable that computes a new result: the function, or its `refresh` if it is a cached function itself."""
        refresh = getattr(type(self.function), "refresh", None)
        if refresh is None or not hasattr(type(self.function), "_is_cached_function"):
            return self.function
        return self.function.refresh

    cdef int set_call(self, object value, tuple args, dict kwargs, bint as_method) except -1:
        cdef LoadSpec spec
        cdef tuple flat = args + tuple(kwargs.values()), names = tuple(kwargs)
        if is_awaitable(<PyObject*>value):
            refuse_awaitable("value", value)
        if may_pass_once(<PyObject*>value) and passes_once(value):
            self._report(value)
            return 0
        key = self.key_of(args, kwargs, as_method, False)
        receiver = self.receiver_in(key)
        instance = receiver() if receiver is not None else None
        self.prepare(&spec)
        spec.arguments = items_of(flat)
        spec.n = len(args)
        spec.names = <PyObject*>names if names else NULL
        spec.instance = <PyObject*>instance if receiver is not None else NULL
        if self.stores:
            put_result(self._cache, key, mixed_in(<PyObject*>self._cache, hash_of(<PyObject*>key)), value, &spec)
            if self.own_failures:
                self.failures.forget(key)
        return 0

    cdef object receiver_in(self, object key):
        """The Receiver in the key of a call, or None."""
        cdef Py_ssize_t at = self.function_id is not None
        if self.key_func is None and type(key) is CallKey and len(<tuple>key) > at:
            found = (<tuple>key)[at]
            if type(found) is Receiver or type(found) is Member:
                return found
        return None

    cdef bint forget_below(self, tuple args, dict kwargs) except -1:
        below = getattr(self.function, "invalidate", None)
        return bool(below(*args, **kwargs)) if callable(below) and not is_async(below) else False

    cdef bint forget_call(self, object key) except -1:
        if key is <object>NO_KEY:
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
        """For code that looks for a function: frameworks, `inspect`. `type` returns the true type."""
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
    """A cached method bound to its receiver: the value of `instance.method`. It is called without the receiver."""

    def __cinit__(self, CachedFunction function not None, instance):
        self.__func__ = function
        self.__self__ = instance
        self.vectorcall = <vectorcallfunc>call_bound

    def __call__(self, *args, **kwargs):
        cdef tuple flat = args + tuple(kwargs.values()), names = tuple(kwargs)
        return take_over(
            self.vectorcall(<PyObject*>self, items_of(flat), len(args), <PyObject*>names if kwargs else NULL)
        )

    def cache_key(self, *args, **kwargs):
        """The key under which the cache holds the result of this call."""
        return self.__func__.key_of((self.__self__, *args), kwargs, True, False)

    def invalidate(self, *args, **kwargs):
        """Forget the result of the call with these arguments. Returns True if there was one. O(1)."""
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


cdef int become_method(CachedFunction function) except -1:
    """Treat the first argument as the receiver from now on."""
    function.is_method = True
    function.single_arg = NEVER
    function.vectorcall = method_call(function)
    set_type(<PyObject*>function, <PyTypeObject*>CachedMethod)
    return 0


# --- what the interpreter calls ---------------------------------------------------------------------------------------

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
