"""The in-memory cache: the class that users call.

Each method checks its input, takes a fast path if it can (a built-in policy, no deadlines), and leaves the rest to
`_store` and `_loading`. The file is long because it is one class, the public one, and half of it is documentation.
"""

cimport cython
from cpython.object cimport PyObject, PyTypeObject
from libc.float cimport DBL_MAX
from libc.math cimport INFINITY
from libc.stdint cimport uint32_t, uint64_t
from libc.string cimport memset

from _collections_abc import Mapping, MutableMapping
from sys import intern as sys_intern, maxsize as LARGEST_SIZE

from cachebox._engine.lru cimport LRU
from cachebox._engine.table cimport (
    UNCHANGED, Engine, Entry, decref, hash_of, incref, likely, take_over, unlikely,
)
from cachebox._loading.fast_path cimport (
    ItemRest, ItemSearch, Rest, Search, find_at_once, get_equal, is_equal_hit, is_plain_hit, knows_hash, mixed_in,
    search_and_use, take_hit, try_delete, try_get, try_set, try_set_for, try_touch,
)
from cachebox._loading.fetch cimport (
    LoadSpec, fetch, find_missing, get_many_through, no_arguments, plain_result,
)
from cachebox._loading.loader cimport Loader, check_loading
from cachebox._loading.many cimport delete_all, get_all, set_all
from cachebox._loading.refresh cimport flight_of
from cachebox._platform.lock cimport acquire, release
from cachebox._platform.method_slot cimport Method, replace_method, replace_subscript
from cachebox._store.deadlines cimport deadline
from cachebox._store.duplicate cimport duplicate
from cachebox._store.entries cimport (
    EntryCopy, add_entries, add_entry, copy_entries, copy_into, describe, export, free_copies, restore, snapshot,
)
from cachebox._store.invariants cimport check
from cachebox._store.notices cimport import_causes
from cachebox._store.operation cimport EXPLICIT, Operation, start
from cachebox._store.options cimport (
    as_float, bound_on_bytes, bound_on_weight, check_callables, checked_name, copier_of, is_monotonic, jitter_of,
    lifetime_of, seconds_given,
)
from cachebox._store.python_policy cimport PythonPolicy
from cachebox._store.removals cimport change_bound, remove_tagged, remove_values, take
from cachebox._store.state cimport (
    AHEAD, BY_VALUE, DEFAULTS, DONE, HAS_CALLBACKS, IDLES, ISOLATED, NEGATIVE, PRECISE, PYTHON_POLICY, STALE,
    USER_CLOCK, WEIGHED, Outcome, Watch, every_key, hash_in, new_watch,
)
from cachebox._store.store cimport ROUNDS, Store
from cachebox._store.tags cimport checked_tags
from cachebox._store.weights cimport Weights, bind_weight, forget_weights, sum_of_weights, total_weight
from cachebox._store.writes cimport (
    add_int, look_and_watch, not_an_int, replace, set_slow, set_tagged, setdefault_slow, stop_watching, sum_of,
    touch_value,
)
from cachebox.policies cimport EvictionPolicy, _BuiltInPolicy, checked_size

from cachebox._platform.awaitables import ready, refuse_async
from cachebox._platform.keywords import refuse_unknown
from cachebox._platform.registry import nameless as nameless_caches, register
from cachebox.policies import BUILT_IN, empty_like


cdef extern from *:
    PyObject* None_ "Py_None"
    PyObject* item_of "PyTuple_GET_ITEM"(PyObject*, Py_ssize_t) noexcept

cdef extern from *:
    """
    /* Remove the entry of an object's address, if there is one. Never fails. */
    static void
    cb_take_from_dict(PyObject *dict, PyObject *object)
    {
        PyObject *address = PyLong_FromVoidPtr(object);
        if (address == NULL || PyDict_DelItem(dict, address) < 0) {
            PyErr_Clear();
        }
        Py_XDECREF(address);
    }
    """
    void take_from_dict "cb_take_from_dict"(dict, PyObject*) noexcept
    object address_of "PyLong_FromVoidPtr"(PyObject*)
    object new_weakref "PyWeakref_NewRef"(object, PyObject*)

cdef extern from "_platform/numbers.h":
    bint plain_number "cb_plain_number"(PyObject* given, double* seconds) noexcept

cdef extern from "_platform/results.h":
    bint may_be_async "cb_may_be_async"(PyObject* callable) noexcept


cdef class Missing:
    """The type of `MISSING`, which means "no value" in `Cache.compute`. It is false, and equals only itself."""

    def __repr__(self):
        return "MISSING"

    def __bool__(self):
        return False

    def __reduce__(self):
        return "MISSING"


MISSING = Missing()
"""`Cache.compute` passes it if the key has no value; its function returns it to delete the key."""

cdef tuple OPTIONS = (
    "max_size", "default_ttl", "policy", "on_evict", "time_to_idle", "max_weight", "weigher", "on_removal", "clock",
    "name", "max_bytes", "jitter", "isolate",
    "loader", "refresh_ahead", "stale_ttl", "cache_exceptions", "exception_ttl",
)
cdef dict OTHER_NAMES = {           # names of these options in other packages
    "maxsize": "max_size", "size": "max_size", "capacity": "max_size", "max_entries": "max_size", "ttl": "default_ttl",
    "timeout": "default_ttl", "expire": "default_ttl", "expiry": "default_ttl", "time_to_live": "default_ttl",
    "tti": "time_to_idle", "getsizeof": "weigher", "sizeof": "weigher", "timer": "clock", "callback": "on_removal",
    "on_delete": "on_removal", "listener": "on_removal", "load": "loader", "missing": "loader", "stale": "stale_ttl",
    "eviction_policy": "policy", "max_memory": "max_bytes", "size_limit": "max_bytes", "copy": "isolate",
}

cdef dict nameless = nameless_caches
cdef object NO_DEFAULT = object()
cdef object SIZE_BY_DEFAULT = 1000 + int()   # recognised by its address, because the default depends on other options
cdef object for_coroutines = None               # the module `awaited`; None: no coroutine ever had to load
cdef tuple ENDS = ("default_ttl", "time_to_idle", "stale_ttl", "exception_ttl")      # options that are kept as seconds
cdef str TTL = sys_intern("ttl"), TAGS = sys_intern("tags")
cdef tuple no_tags = ()             # the default of `tags`, recognised by its address


@cython.trashcan(True)              # caches may hold caches, a hundred thousand deep
@cython.collection_type("mapping")  # `match` asks the type, not the abstract class
cdef class Cache(Store):
    """Cache(max_size=1000, default_ttl=None, policy='LRU', on_evict=None, *, time_to_idle=None,
      max_weight=None, weigher=None, on_removal=None, clock=None, name=None, max_bytes=None, jitter=0.0,
      isolate=False, loader=None, refresh_ahead=None, stale_ttl=None, cache_exceptions=(), exception_ttl=None)
--

    A thread-safe in-memory cache with a bound, lifetimes, statistics and callbacks; a `MutableMapping`.

    Args:
        max_size: the most entries it holds, at every instant: an int from 1 on; None: no bound.
        default_ttl: how long an entry lives unless `set` says otherwise: seconds (a number greater than 0) or a
            `timedelta`; None or `math.inf`: without end; or a function ``(key, value)`` that returns one of these.
        policy: which entry a full cache evicts: ``"LRU"``, ``"LFU"``, ``"FIFO"`` or ``"AUTO"`` in any case, an
            `EvictionPolicy` class or an instance of one.
        on_evict: called as ``on_evict(key, value)`` for every entry that is evicted, expires, is deleted or replaced,
            but not by `clear`.
        time_to_idle: how long an entry lives without a hit or a new value, given like `default_ttl`. It can shorten the
            life that the ttl allows, but never prolong it.
        max_weight: the most that all entries may weigh together: a number greater than 0; needs `weigher`.
        weigher: called as ``weigher(key, value)``, returns the weight of an entry: a number that is not negative.
        on_removal: called like `on_evict`, as ``on_removal(key, value, cause)`` with a `RemovalCause`.
        clock: called without arguments, returns the time in seconds, for tests. A cache with a clock of its own is not
            swept in the background. The default clock is monotonic, and may lag by 4 ms. If that is too much, use
            `time.monotonic`, which is exact; it makes a hit slower only in the last second of an entry's life.
        name: its name in `caches` and metrics: a str; None: they do not show it.
        max_bytes: the most memory that keys and values may take together, as `sizeof` measures them when they are
            stored: an int or a text such as ``"256MB"`` (10⁶ bytes each) or ``"1GiB"`` (2³⁰). Excludes `max_weight`.
            If it is given, `max_size` is None by default.
        jitter: the largest share of its lifetime, from 0 to 1, by which each lifetime is shortened at random. So
            entries that were stored together do not expire together.
        isolate: True: the cache stores a deep copy of each value, and lookups return deep copies, so that callers
            cannot change what it holds; immutable values are not copied. Or a function that copies a value.
        loader: loads a missing key for `get`, ``cache[key]`` and `get_many`, and for nothing else. It is a callable of
            the key; a store with a method ``load(key)`` and perhaps ``load_many(keys)``, which returns a dict; another
            cache; or a mapping. A KeyError says that there is no value. An async one loads for `aget` and `aget_many`.
        refresh_ahead: a share of an entry's lifetime, between 0 and 1. In that share, at its end, a lookup starts a
            refresh: the entry is loaded in the background; needs `loader`.
        stale_ttl: how long after its deadline an entry is still served by lookups, given like `default_ttl`, while it
            is loaded in the background or the loader fails; needs `loader`.
        cache_exceptions: classes of exceptions. If a load, or a factory of `get_or_set`, raised one of these, it is not
            tried again for `exception_ttl`; lookups raise a copy instead.
        exception_ttl: how long such a failure is remembered, given like `default_ttl`; None: for `default_ttl`.

    Raises ValueError or TypeError, with the name of the argument, if one makes no sense.

    As a mapping: ``cache[key]`` is a `get` that raises KeyError. ``key in cache``, ``len(cache)`` and iteration see
    live entries only; they count nothing and are no uses for the policy. Iteration runs over a snapshot, next victim
    first. ``cache == mapping`` compares items. An empty cache is false, like any empty mapping. Copies and pickles keep
    the configuration, entries, order and remaining lifetimes; their statistics start at zero.

    Every operation on one key is atomic and safe from any thread; one on many keys is a sequence of such operations.
    No lock is held while keys are compared or callbacks run, and they may use the cache. Callbacks run before the call
    that caused them returns, in its thread. Expired entries that no call asks for are removed within about a second: a
    background thread removes them, and runs their callbacks. An exception of a callback is reported through
    `sys.unraisablehook`.

    >>> cache = Cache(max_size=2)
    >>> cache["a"] = 1
    >>> cache.set("b", 2, ttl=60)
    >>> cache.get("a")
    1
    >>> cache["c"] = 3              # "b" was used least recently
    >>> list(cache)
    ['a', 'c']
    """

    def __cinit__(self):
        self.bound = 1000                       # needed if a subclass does not call __init__
        self.name_of_policy = "LRU"
        self.begin(LRU.__new__(LRU))

    def __init__(
        self,
        max_size=SIZE_BY_DEFAULT,
        default_ttl=None,
        policy="LRU",
        on_evict=None,
        *,
        time_to_idle=None,
        max_weight=None,
        weigher=None,
        on_removal=None,
        clock=None,
        name=None,
        max_bytes=None,
        jitter=0.0,
        isolate=False,
        loader=None,
        refresh_ahead=None,
        stale_ttl=None,
        cache_exceptions=(),
        exception_ttl=None,
        **unknown,
    ):
        if unknown:
            refuse_unknown("Cache", unknown, OPTIONS, OTHER_NAMES)
        if (
            on_evict is None and time_to_idle is None and max_weight is None and weigher is None and on_removal is None
            and clock is None and name is None and max_bytes is None and type(jitter) is float and jitter == 0.0
            and isolate is False and loader is None and refresh_ahead is None and stale_ttl is None
            and cache_exceptions is no_tags and exception_ttl is None and type(policy) is str and policy == "LRU"
            and not callable(default_ttl)
        ):
            self.configure_plainly(max_size, default_ttl)
            return
        self.configure({
            "max_size": None if max_size is SIZE_BY_DEFAULT and max_bytes is not None else max_size,
            "default_ttl": default_ttl,
            "policy": policy,
            "on_evict": on_evict,
            "time_to_idle": time_to_idle,
            "max_weight": max_weight,
            "weigher": weigher,
            "on_removal": on_removal,
            "clock": clock,
            "name": name,
            "max_bytes": max_bytes,
            "jitter": jitter,
            "isolate": isolate,
            "loader": loader,
            "refresh_ahead": refresh_ahead,
            "stale_ttl": stale_ttl,
            "cache_exceptions": cache_exceptions,
            "exception_ttl": exception_ttl,
        })

    cdef int configure(self, dict options) except -1:
        """Check all options, then apply them in one step.

        Checks and the user's policy run code that may use this very cache. The cache has not changed by then. If it has
        been used meanwhile, it does not change at all: its entries must not pass to another engine.
        """
        cdef object max_size = checked_size(options["max_size"])
        cdef bint by_value = callable(options["default_ttl"]) and not isinstance(options["default_ttl"], type)
        cdef double lifetime = BY_VALUE if by_value else lifetime_of(options["default_ttl"], "default_ttl")
        cdef double idle = lifetime_of(options["time_to_idle"], "time_to_idle")
        max_bytes = bound_on_bytes(options)
        cdef double bound_weight = bound_on_weight(options["max_weight"], options["weigher"])
        cdef double jitter = jitter_of(options.get("jitter"))
        cdef double ahead, stale
        cdef Loader loader = None
        cdef Weights weights
        cdef PythonPolicy python_policy = None
        cdef EvictionPolicy policy
        cdef Engine engine
        cdef bint given, is_used
        cdef int modes
        check_callables(options)
        check_loading(options)
        called = checked_name(options.get("name"))
        copier = copier_of(options.get("isolate"))
        if max_bytes is not None:
            bound_weight = max_bytes
        if options["on_removal"] is not None:
            import_causes()                     # an import in a callback might be in the middle of another import
        ahead = as_float(options.get("refresh_ahead") or 0.0)
        stale = lifetime_of(options.get("stale_ttl"), "stale_ttl")
        if options.get("loader") is not None:
            loader = Loader(options["loader"], self.statistics)
        failures = failures_for(options, max_size)
        ends = {name: seconds_given(options.get(name)) for name in ENDS}
        policy = policy_of(options["policy"], max_size)
        given = policy is options["policy"]
        name = name_if_built_in(policy)
        if not isinstance(name, str):
            engine = Engine.__new__(Engine)
            python_policy = PythonPolicy(policy)
        elif not given:
            engine = (<_BuiltInPolicy>policy).engine
        memset(&weights, 0, sizeof(Weights))
        if given and not policy.take():
            raise ValueError(f"policy {policy!r} serves another cache: an instance can serve one cache only")
        try:
            if given and python_policy is None:
                engine = (<_BuiltInPolicy>policy).lend()
            if given:
                policy.max_size = max_size      # the cache's bound is the one that counts
            if bound_weight < INFINITY and not bind_weight(&weights, bound_weight):
                raise MemoryError("no memory left to weigh entries")
            modes = (
                (DEFAULTS if lifetime < INFINITY else 0)
                | (IDLES if idle < INFINITY else 0)
                | (WEIGHED if bound_weight < INFINITY else 0)
                | (0 if options["clock"] is None else PRECISE if is_monotonic(options["clock"]) else USER_CLOCK)
                | (HAS_CALLBACKS if options["on_evict"] is not None or options["on_removal"] is not None else 0)
                | (PYTHON_POLICY if python_policy is not None else 0)
                | (AHEAD if ahead > 0.0 else 0)
                | (STALE if stale < INFINITY or ends["stale_ttl"] is not None else 0)
                | (NEGATIVE if failures is not None else 0)
                | (ISOLATED if copier is not None else 0)
            )
            refreshes = {} if loader is not None else None
            acquire(self.lock)
            is_used = self.ready or self.table.version != UNCHANGED
            if not is_used:
                self.equip(engine)
                self.python_policy = python_policy
                self.name_of_policy = policy if given else name
                self.bound = bound_of(max_size)
                self.unbounded = max_size is None
                self.engine.expect(self.bound)
                self.lifetime = lifetime
                self.ttl_of = options["default_ttl"] if by_value else None
                self.jitter = jitter
                self.dice = self.table.seed ^ <size_t><PyObject*>self
                self.idle = idle
                self.bound_weight = bound_weight
                self.weights = weights
                self.measures = max_bytes is not None
                self.max_bytes_given = max_bytes
                self.weigher = options["weigher"]
                self.called = called
                self.copier = copier
                self.isolate_given = options.get("isolate", False)
                self.clock = options["clock"]
                self.on_evict = options["on_evict"]
                self.on_removal = options["on_removal"]
                self.max_weight_given = options["max_weight"]
                self.default_ttl_given = ends["default_ttl"]
                self.time_to_idle_given = ends["time_to_idle"]
                self.stale_ttl_given = ends["stale_ttl"]
                self.exception_ttl_given = ends["exception_ttl"]
                self.ahead = ahead
                self.stale = min(stale, DBL_MAX / 4) if modes & STALE else 0.0
                self.loader = loader
                self.refreshes = refreshes
                self.failures = failures
                self.modes = modes
                self.ready = True
            release(self.lock)
            if is_used:
                raise used_before()
            weights.room = NULL                 # the cache owns them now
            if given and python_policy is None:
                (<_BuiltInPolicy>policy).serve(engine, self.shared_lock)
        except:
            forget_weights(&weights)
            if given:
                policy.give_back()
            raise
        if called is not None:
            register(called, self, clears=True)
            return 0
        return self.make_known()

    cdef int configure_plainly(self, object max_size, object default_ttl) except -1:
        """`configure` for LRU, and the defaults of all options but these two. Caches are often made by the thousand."""
        cdef object size = checked_size(max_size)
        cdef double lifetime = lifetime_of(default_ttl, "default_ttl")
        cdef object seconds = seconds_given(default_ttl) if default_ttl is not None else None
        cdef bint is_used
        acquire(self.lock)
        is_used = self.ready or self.table.version != UNCHANGED
        if not is_used:
            self.bound = bound_of(size)
            self.unbounded = size is None
            self.engine.expect(self.bound)
            self.lifetime = lifetime
            self.default_ttl_given = seconds
            self.modes = DEFAULTS if lifetime < INFINITY else 0
            self.ready = True
        release(self.lock)
        if is_used:
            raise used_before()
        return self.make_known()

    cdef int make_known(self) except -1:
        """Let `clear_all` know a cache without a name."""
        nameless[address_of(<PyObject*>self)] = new_weakref(self, NULL)
        self.is_nameless = True
        return 0

    def __dealloc__(self):
        if self.is_nameless:
            take_from_dict(nameless, <PyObject*>self)

    # --- one key ----------------------------------------------------------------------------------------------------

    def get(self, key, default=None):
        """The value of `key`, counted as a hit and a use; else `default`, counted as a miss. O(1).

        A cache with a loader loads a missing key, once for all threads that ask for it at the same time. They all get
        its value or its exception. If the key was written, deleted or cleared meanwhile, its value is returned but not
        stored. `default` is for keys of which the loader says, by KeyError, that they have no value.

        >>> cache = Cache()
        >>> cache["a"] = None
        >>> cache.get("a", "nothing"), cache.get("b", "nothing")
        (None, 'nothing')
        """
        cdef uint64_t h = hash_in(self, key)
        cdef bint compared = False
        cdef PyObject* value = get_equal(<PyObject*>self, <PyObject*>key, h, &compared)
        if value == NULL:
            value = find_missing(<PyObject*>self, <PyObject*>key, h, compared)
            if value == NULL:
                return default
        return take_over(value)

    def __getitem__(self, key):
        cdef uint64_t h = hash_in(self, key)
        cdef bint compared = False
        cdef PyObject* value = get_equal(<PyObject*>self, <PyObject*>key, h, &compared)
        if value == NULL:
            value = find_missing(<PyObject*>self, <PyObject*>key, h, compared)
            if value == NULL:
                raise KeyError(key)
        return take_over(value)

    def set(self, key, value, ttl=None, *, tags=()):
        """Store a value under a key; replaces an older value and its deadline. O(1); O(log n) if entries expire.

        Args:
            key: any hashable object, compared as a dict compares it.
            value: any object, None included.
            ttl: how long the entry lives, seconds (a number or a `timedelta`); None: `default_ttl`; infinity: no end.
            tags: for `invalidate_tag`: a str, or an iterable of hashable tags. They replace those of an older value.

        Raises ValueError or TypeError for a `ttl` that is not greater than 0 or not a number, and for a weight that is
        negative or more than `max_weight`; TypeError for an unhashable key. Then nothing is changed.

        >>> cache = Cache()
        >>> cache.set("a", 1)
        >>> cache.set("b", 2, ttl=60)
        >>> cache.ttl("a") is None, 0 < cache.ttl("b") <= 60
        (True, True)
        """
        cdef uint64_t h = hash_in(self, key)
        if tags is not no_tags:
            set_tagged(self, key, h, value, self.lifetime if ttl is None else lifetime_of(ttl, "ttl"), checked_tags(tags))
        else:
            set_for(self, key, h, value, self.lifetime if ttl is None else lifetime_of(ttl, "ttl"))

    def __setitem__(self, key, value):
        cdef uint64_t h = hash_in(self, key)
        if not try_set(self, <PyObject*>key, h, <PyObject*>value, False):
            set_for(self, key, h, value, self.lifetime)

    def add(self, key, value, ttl=None, *, tags=()):
        """Store a value under a key that has none, in one step. Returns whether it did.

        Arguments and exceptions are those of `set`. If the key has a value, nothing is counted, and a value that would
        not fit is no error. O(1); O(log n) if entries expire.

        >>> cache = Cache()
        >>> cache.add("a", 1), cache.add("a", 2), cache["a"]
        (True, False, 1)
        """
        cdef double lifetime = self.lifetime if ttl is None else lifetime_of(ttl, "ttl")
        cdef tuple names = checked_tags(tags) if tags is not no_tags else ()
        cdef bint added
        if key in self:
            return False
        value = self.copy_of(value)
        lifetime = self.lifetime_for(lifetime, key, value)
        added = add_entry(self, key, value, lifetime, self.weigh_checked(key, value), 0, names, False)
        if added:
            self.forget_failure(key)
        return added

    def entry(self, key):
        """The state of a key: an `Entry` with `key`, `value`, `ttl`, `weight`, `tags`; None: it has no live entry.

        It counts neither as a hit nor as a miss, nor as a use for the policy. `ttl` is in seconds; None: no end. O(1).

        >>> cache = Cache()
        >>> cache.set("a", 1, tags="t")
        >>> cache.entry("a")
        Entry(key='a', value=1, ttl=None, weight=1, tags=('t',))
        """
        from cachebox._store.entry import Entry

        found = describe(self, key, hash_in(self, key))
        if found is None:
            return None
        stored, value, left, weight, names = found
        return Entry(stored, self.copy_of(value), left, weight, names)

    def contains(self, key):
        """Whether a key has a live value, like ``key in cache``. Counts nothing. O(1).

        >>> cache = Cache()
        >>> cache.contains("a")
        False
        """
        return key in self

    def delete(self, key):
        """Remove a key. Returns True if a live entry was removed. O(1); O(log n) if entries expire.

        >>> cache = Cache()
        >>> cache["a"] = 1
        >>> cache.delete("a"), cache.delete("a")
        (True, False)
        """
        cdef int deleted = try_delete(self, <PyObject*>key, hash_in(self, key))
        return deleted > 0 if deleted >= 0 else take(self, key, False, NO_DEFAULT) is not NO_DEFAULT

    def __delitem__(self, key):
        cdef int deleted = try_delete(self, <PyObject*>key, hash_in(self, key))
        if deleted == 0 or deleted < 0 and take(self, key, False, NO_DEFAULT) is NO_DEFAULT:
            raise KeyError(key)

    @cython.embedsignature(False)               # it would show NO_DEFAULT, which inspect cannot read
    def pop(self, key, default=NO_DEFAULT):
        """pop($self, /, key, default=...)
--

        Remove a key and return its value; if it is absent, return `default`, or raise KeyError if none was given.

        Counts a delete, but no hit or miss. O(1); O(log n) if entries expire.

        >>> cache = Cache()
        >>> cache["a"] = 1
        >>> cache.pop("a"), cache.pop("a", None)
        (1, None)
        """
        value = take(self, key, True, NO_DEFAULT)
        if value is not NO_DEFAULT:
            return value
        if default is NO_DEFAULT:
            raise KeyError(key)
        return default

    def __contains__(self, key):
        cdef PyObject* value = self.look(key)
        if value == NULL:
            return False
        decref(value)
        return True

    def peek(self, key, default=None):
        """The value of `key`, or `default`. Counts neither as a hit nor as a miss, nor as a use for the policy. O(1).

        >>> cache = Cache()
        >>> cache["a"] = 1
        >>> cache.peek("a"), cache.stats.hits
        (1, 0)
        """
        cdef PyObject* value = self.own_copy(self.look(key))
        return default if value == NULL else take_over(value)

    def setdefault(self, key, default=None):
        """The value of `key`, counted as a hit; if it is absent, a miss: store `default`, for `default_ttl`.

        One atomic step. O(1); O(log n) if entries expire. Raises as `set` does. Use `get_or_set` for a value that takes
        work to make.

        >>> cache = Cache()
        >>> cache.setdefault("a", []).append(1)
        >>> cache.setdefault("a", [])
        [1]
        """
        cdef uint64_t h = hash_in(self, key)
        cdef PyObject* value = try_get(<PyObject*>self, <PyObject*>key, h)
        if value != NULL:
            return take_over(value)
        return setdefault_slow(self, key, h, default)

    def get_or_set(self, key, factory, ttl=None, *, tags=()):
        """The value of `key`; if it is absent, the result of ``factory()``, stored for `ttl`. O(1) and the factory.

        Args:
            key: any hashable object.
            factory: a callable without arguments. It runs without any lock, and may use the cache.
            ttl, tags: as for `set`.

        Of the threads that miss the key at the same time, one runs its factory. The others wait for it and get the same
        value or the same exception (without the GIL, a copy of it); an exception is not stored. Each of them counts a
        miss. If the key is written, deleted or cleared meanwhile, the value is returned but not stored; the same
        applies to a value that weighs more than `max_weight`. A factory that asks for its own key runs the factory
        again; so does a wait that would close a circle of threads. If KeyboardInterrupt ends a factory, a waiter takes
        over.

        >>> cache = Cache()
        >>> cache.get_or_set("answer", lambda: 6 * 7)
        42
        >>> cache.get_or_set("answer", lambda: 0)
        42
        """
        cdef uint64_t h = hash_in(self, key)
        cdef LoadSpec spec
        cdef double lifetime
        cdef PyObject* value
        if not callable(factory):
            raise TypeError(f"factory must be callable, not {type(factory).__name__}")
        if may_be_async(<PyObject*>factory):
            refuse_async("factory", factory, "aget_or_set")
        lifetime = self.lifetime if ttl is None else lifetime_of(ttl, "ttl")
        names = checked_tags(tags) if tags is not no_tags else no_tags
        value = try_get(<PyObject*>self, <PyObject*>key, h)
        if value != NULL:
            return take_over(value)
        no_arguments(&spec, factory, lifetime)
        if names:
            spec.tags = <PyObject*>names
        if self.failures is not None:
            spec.failures = <PyObject*>self.failures
        return fetch(self, key, h, &spec)

    # --- for coroutines: each returns a coroutine at once, and looks for the value at once ----------------------------

    def aget(self, key, default=None):
        """`get` for coroutines: ``await cache.aget(key)``. O(1), and the load.

        A loader may be async. Tasks (even of several event loops) and threads that miss a key at the same time load it
        once. Keys missed in one pass of the event loop go to one call of `load_many`, if the loader has that: at most
        1,000. A plain loader is called in a thread. A load is cancelled with the last of its waiters.

        >>> import asyncio
        >>> async def load(key):
        ...     return key.upper()
        >>> async def main():
        ...     cache = Cache(loader=load)
        ...     return await cache.aget("a"), cache.get("a")
        >>> asyncio.run(main())
        ('A', 'A')
        """
        cdef uint64_t h = hash_in(self, key)
        cdef bint compared = False
        cdef PyObject* value = get_equal(<PyObject*>self, <PyObject*>key, h, &compared)
        if value == NULL:
            if self.loader is not None:
                return loads_for_coroutines().get(self, key, default)
            value = find_missing(<PyObject*>self, <PyObject*>key, h, compared)
            if value == NULL:
                return ready(default)
        return ready(take_over(value))

    def aget_many(self, keys):
        """`get_many` for coroutines: ``await cache.aget_many(keys)`` is a new dict of keys with values. O(len(keys)).

        Missing keys are loaded as by `aget`, together with those that other tasks miss in the same pass.

        >>> import asyncio
        >>> async def main():
        ...     return await Cache(loader=str).aget_many([1, 2])
        >>> asyncio.run(main())
        {1: '1', 2: '2'}
        """
        if self.loader is None:
            return ready(self.get_many(keys))
        wanted = listed(keys, "keys", "an iterable of keys")
        for key in wanted:
            hash_of(<PyObject*>key)
        return loads_for_coroutines().get_many(self, wanted)

    def aget_or_set(self, key, factory, ttl=None, *, tags=()):
        """`get_or_set` for coroutines: ``await cache.aget_or_set(key, factory)``. O(1), and the factory.

        Args:
            key: any hashable object.
            factory: a callable without arguments, async or not; a plain one is called in the event loop.
            ttl, tags: as for `set`.

        Of the tasks and threads that miss the key at the same time, one runs its factory, in a task that is cancelled
        with the last of its waiters. Otherwise as `get_or_set`.

        >>> import asyncio
        >>> async def answer():
        ...     return 42
        >>> async def main():
        ...     return await Cache().aget_or_set("answer", answer)
        >>> asyncio.run(main())
        42
        """
        cdef uint64_t h = hash_in(self, key)
        cdef double lifetime = self.lifetime if ttl is None else lifetime_of(ttl, "ttl")
        cdef tuple names = checked_tags(tags) if tags is not no_tags else ()
        cdef PyObject* value
        if not callable(factory):
            raise TypeError(f"factory must be callable, not {type(factory).__name__}")
        value = try_get(<PyObject*>self, <PyObject*>key, h)
        if value != NULL:
            return ready(take_over(value))
        return loads_for_coroutines().get_or_set(self, key, factory, lifetime, names)

    @property
    def _loader(self):
        return self.loader

    def _refreshing(self, key):
        """The flight of a key's refresh, for a caller that finds no value to serve; None: no refresh is in progress."""
        return flight_of(self, key)

    def _keep_loads(self, make):
        """The object that keeps the loads of event loops, made by ``make()`` at the first use."""
        if self.loads_by_loop is None:
            made = make()
            acquire(self.lock)
            if self.loads_by_loop is None:
                self.loads_by_loop = made
            release(self.lock)
        return self.loads_by_loop

    def compute(self, key, fn):
        """Replace the value of `key` by ``fn(old)``, atomically, and return it. O(1), not counting `fn`.

        Args:
            key: any hashable object.
            fn: called with the old value, or `MISSING` if there is none; returns the new value, or `MISSING` to delete
                the key. It runs without any lock, and again if another thread wrote the key meanwhile; its own writes
                of the key are overwritten.

        An existing entry keeps its deadline, a new one gets `default_ttl`. Counts one set or delete. Raises what `fn`
        raises, or as `set` does; then nothing is changed.

        >>> cache = Cache()
        >>> cache["a"] = [1]
        >>> cache.compute("a", lambda old: old + [2])
        [1, 2]
        >>> cache.compute("a", lambda old: MISSING), "a" in cache
        (MISSING, False)
        """
        cdef uint64_t h = hash_in(self, key)
        cdef Watch watch
        cdef double weight, lifetime
        if not callable(fn):
            raise TypeError(f"fn must be callable, not {type(fn).__name__}")
        if may_be_async(<PyObject*>fn):
            refuse_async("fn", fn)
        watch = new_watch(self)
        watch.ignores_own = True
        while True:
            old = look_and_watch(self, key, h, watch, MISSING)
            lifetime = self.lifetime
            weight = 0.0
            try:
                new = kept = plain_result("fn", fn(self.copy_of(old) if old is not MISSING else old))
                if new is not MISSING:
                    kept = self.copy_of(new)
                    lifetime = self.lifetime_for(lifetime, key, kept)
                    weight = self.weigh_checked(key, kept)
            except:
                stop_watching(self, watch)
                raise
            if replace(self, key, h, watch, old, kept, lifetime, weight, MISSING):
                return new

    def increment(self, key, amount=1):
        """Add `amount` (an int) to the int stored under `key`, atomically, and return the sum. O(1).

        A missing key starts at 0 and gets `default_ttl`; an existing entry keeps its deadline. Counts one set.
        Raises TypeError if `amount` or the value is not an int.

        >>> cache = Cache()
        >>> cache.increment("visits"), cache.increment("visits", 10)
        (1, 11)
        """
        if not isinstance(amount, int):
            raise TypeError(f"amount must be an int, not {type(amount).__name__}")
        if not self.modes & WEIGHED and self.lifetime != BY_VALUE:
            return add_int(self, key, amount)

        def weighed(old):
            if not isinstance(old, int) and old is not MISSING:
                raise not_an_int(key, old)
            return sum_of(0 if old is MISSING else old, amount)

        return self.compute(key, weighed)

    def ttl(self, key):
        """The seconds until an entry's deadline, a float, with its idle limit taken into account; None: no end. O(1).

        Raises KeyError if there is no live entry. Counts nothing.

        >>> cache = Cache(default_ttl=10)
        >>> cache["a"] = 1
        >>> 0 < cache.ttl("a") <= 10
        True
        """
        cdef Operation op
        cdef double now, end = -INFINITY
        cdef uint32_t i
        start(&op)
        try:
            now = self.now(INFINITY)
            i = self.find(key, hash_in(self, key), &op)
            if self.is_live(i, now):
                end = deadline(&self.expiry, i)
            release(self.lock)
        finally:
            self.finish(&op)
        if end == -INFINITY:
            raise KeyError(key)
        return None if end == INFINITY else end - now

    def touch(self, key, ttl=None):
        """Let a live entry expire `ttl` from now, as `set` would, without changing its value. O(log n).

        Returns False if there is none. The idle limit starts again. Counts nothing, and is no use for the policy.
        Raises as `set` does for a `ttl` that makes no sense.

        >>> cache = Cache(default_ttl=10)
        >>> cache["a"] = 1
        >>> cache.touch("a", ttl=60), 10 < cache.ttl("a") <= 60
        (True, True)
        """
        cdef double lifetime = self.lifetime if ttl is None else lifetime_of(ttl, "ttl")
        cdef PyObject* value = NULL
        cdef int touched = -1
        while touched < 0:
            if lifetime == BY_VALUE:
                value = self.look(key)
                if value == NULL:
                    return False
                held = take_over(value)
                touched = touch_value(self, key, self.lifetime_for(lifetime, key, held), value)
            else:
                touched = touch_value(self, key, lifetime, NULL)
        return touched != 0

    # --- many keys: all input is checked first, then one operation follows the other ----------------------------------

    def get_many(self, keys):
        """Get each of `keys` (an iterable). Returns a new dict of the keys that have values. O(len(keys)).

        Counts a hit or a miss for each. A cache with a loader loads missing keys: by one call of its `load_many`, if it
        has that.

        >>> cache = Cache()
        >>> cache.update(a=1, b=2)
        >>> cache.get_many(["a", "b", "c"])
        {'a': 1, 'b': 2}
        """
        cdef list wanted = listed(keys, "keys", "an iterable of keys")
        if self.loader is not None:
            return get_many_through(self, wanted, [hash_of(<PyObject*>key) for key in wanted])
        return get_all(self, wanted)

    def set_many(self, mapping, ttl=None, *, tags=()):
        """Set every item of a mapping, with one `ttl` and the same tags for all. O(len(mapping)).

        Raises what `set` raises for any of the items, before the first is stored.

        >>> cache = Cache()
        >>> cache.set_many({"a": 1, "b": 2}, ttl=60)
        >>> len(cache)
        2
        """
        if not hasattr(mapping, "items"):
            raise TypeError(f"mapping must be a mapping, not {type(mapping).__name__}: use update for pairs")
        cdef double lifetime = self.lifetime if ttl is None else lifetime_of(ttl, "ttl")
        names = checked_tags(tags) if tags is not no_tags else ()
        set_all(self, mapping.copy() if type(mapping) is dict else pairs_of(mapping.items()), lifetime, names)

    def delete_many(self, keys):
        """Delete each of `keys` (an iterable). Returns how many live entries that removed. O(len(keys)).

        >>> cache = Cache()
        >>> cache.update(a=1, b=2)
        >>> cache.delete_many(["a", "b", "c"])
        2
        """
        return delete_all(self, listed(keys, "keys", "an iterable of keys"))

    def update(self, other=(), /, **more):
        """Set every item of a mapping or of an iterable of pairs, then every keyword. O(number of items).

        Each lives for `default_ttl`. Raises what `set` raises for any of the items, before the first is stored.

        >>> cache = Cache()
        >>> cache.update({"a": 1}, b=2)
        >>> dict(cache)
        {'a': 1, 'b': 2}
        """
        cdef list items
        if type(other) is dict and not more:
            set_all(self, other.copy(), self.lifetime, ())
            return
        if isinstance(other, Cache):            # does not count hits
            items = list(other.items())
        elif hasattr(other, "keys"):            # before `items`, like dict
            items = [(key, other[key]) for key in other.keys()]
        elif hasattr(other, "items"):
            items = pairs_of(other.items())
        else:
            items = [pair_of(item) for item in listed(other, "other", "a mapping or an iterable of pairs")]
        items.extend(more.items())
        set_all(self, items, self.lifetime, ())

    # --- the whole cache ----------------------------------------------------------------------------------------------

    def clear(self):
        """Remove all entries and set the statistics to zero. Callbacks are not called. O(n).

        >>> cache = Cache()
        >>> cache["a"] = 1
        >>> cache.clear()
        >>> len(cache), cache.stats.sets
        (0, 0)
        """
        self.empty(True)
        if self.failures is not None:
            self.failures.clear()

    def popitem(self):
        """Remove the next victim and return it as a pair; raises KeyError if the cache is empty. Counts a delete. O(1).

        >>> cache = Cache()
        >>> cache.update(a=1, b=2)
        >>> cache.popitem()
        ('a', 1)
        """
        cdef Operation op
        cdef uint32_t i
        cdef Outcome outcome = DONE
        self.purge(True)
        start(&op)
        try:
            if self.python_policy is not None:
                self.python_policy.enter(&op, self.lock)
                if self.live:
                    i = self.find_victim(&op, ROUNDS)
                else:
                    acquire(self.lock)
                    i = 0
            else:
                acquire(self.lock)
                i = self.engine.victim()
            key = value = None
            if i != 0:
                key = <object>self.table.entries[i].key
                value = <object>self.table.entries[i].value
                outcome = self.remove(i, EXPLICIT, &op)
                op.notified = op.n              # the python policy named the victim, so it knows
                self.give_memory_back()
            if outcome != DONE and self.python_policy is not None:
                self.python_policy.behind = True  # the policy has given up the key, which stays
            release(self.lock)
            if outcome != DONE:
                raise MemoryError("no memory left to remove an entry")
        finally:
            self.finish(&op)
        if i == 0:
            raise KeyError("popitem(): the cache is empty")
        return key, value

    def purge_expired(self):
        """Remove all expired entries. Returns how many were removed. O(k log n) for k of them.

        Rarely needed: reads do not see expired entries, and a background thread removes them soon. In a cache with a
        `stale_ttl`, it also removes entries that could still be served.

        >>> now = 0.0
        >>> cache = Cache(default_ttl=10, clock=lambda: now)
        >>> cache["a"] = 1
        >>> now = 10.0
        >>> cache.purge_expired()
        1
        """
        return self.purge(True)

    def resize(self, max_size):
        """Change the bound: to an int from 1 on, or None for no bound. O(k) if k entries are too many.

        These are removed before it returns: expired ones first, then the others, next victim first. If they are many,
        the bound goes down in steps, so that other threads can use the cache meanwhile; a `resize` by one of them then
        counts. Raises ValueError or TypeError as the constructor does.

        >>> cache = Cache()
        >>> cache.update(a=1, b=2, c=3)
        >>> cache.resize(2)
        >>> list(cache)
        ['b', 'c']
        """
        cdef object size = checked_size(max_size)
        if change_bound(self, bound_of(size), size is None) and isinstance(self.name_of_policy, EvictionPolicy):
            self.name_of_policy.max_size = size

    # --- invalidation: removing entries by other criteria than their keys ---------------------------------------------

    def invalidate_tag(self, tag):
        """Remove all entries that were set with a tag. Returns how many of them were live. O(k) for k of them.

        A load in progress with that tag, by a function that is `cached` with tags, is not stored.

        >>> cache = Cache()
        >>> cache.set("user:1", "Ada", tags="users")
        >>> cache.set("user:1:posts", [], tags=("users", "posts"))
        >>> cache.invalidate_tag("posts"), cache.invalidate_tag("users")
        (1, 1)
        """
        return remove_tagged(self, tag)

    def invalidate_prefix(self, prefix):
        """Remove all entries whose key is a str that starts with `prefix`. Returns how many of them were live. O(n).

        A load of such a key in progress is not stored. Raises TypeError if `prefix` is no str.

        >>> cache = Cache()
        >>> cache.update({"user:1": "Ada", "user:2": "Bob", "post:1": "Hello"})
        >>> cache.invalidate_prefix("user:")
        2
        """
        if not isinstance(prefix, str):
            raise TypeError(f"prefix must be a str, not {type(prefix).__name__}")
        return self.delete_many([key for key in every_key(self, True) if isinstance(key, str) and key.startswith(prefix)])

    def invalidate_glob(self, pattern):
        """Remove all entries whose key is a str that matches a pattern with ``*``, ``?``, ``[a-z]``, ``[!a-z]``. O(n).

        Case matters. Returns how many of them were live. A load of such a key in progress is not stored. Raises
        TypeError if `pattern` is no str.

        >>> cache = Cache()
        >>> cache.update({"user:1:name": "Ada", "user:2:name": "Bob", "user:1:age": 36})
        >>> cache.invalidate_glob("user:*:name")
        2
        """
        if not isinstance(pattern, str):
            raise TypeError(f"pattern must be a str, not {type(pattern).__name__}")
        from fnmatch import translate
        from re import compile

        matches = compile(translate(pattern)).match
        return self.delete_many([key for key in every_key(self, True) if isinstance(key, str) and matches(key)])

    def invalidate_where(self, predicate):
        """Remove all entries for which ``predicate(key, value)`` is true. Returns how many were removed. O(n).

        It is called for a snapshot, without any lock, and before the first removal: if it raises, no entry is removed.
        An entry that gets another value meanwhile stays.

        >>> cache = Cache()
        >>> cache.update(a=1, b=2, c=3)
        >>> cache.invalidate_where(lambda key, value: value > 1)
        2
        """
        if not callable(predicate):
            raise TypeError(f"predicate must be callable, not {type(predicate).__name__}")
        refuse_async("predicate", predicate)
        cdef list doomed = snapshot(self, True, True)
        cdef Py_ssize_t k
        for k in range(len(doomed)):
            key, value = doomed[k]
            if not plain_result("predicate", predicate(key, self.copy_of(value))):
                doomed[k] = None
        return remove_values(self, doomed)

    # --- warm starts: filling a cache before the first request --------------------------------------------------------

    def warm(self, keys, loader=None, *, workers=None, progress=None):
        """Fill the cache before the first request: load keys, or store items. Existing keys stay, and are not loaded.

        Args:
            keys: a mapping is taken for items to store, any other iterable for keys to load.
            loader: a callable of the key, or a store, see `Cache`; None: the cache's own.
            workers: how many threads load, an int from 1 on; None: 1 for a loader with `load_many` or a mapping, else 8.
            progress: called as ``progress(done, total)`` after each key or batch, failures included; True: a progress
                bar on the terminal (extra ``cli``); None: nothing.

        Returns counts with the attributes `loaded`, `failed`, `skipped` and `total`. A key that cannot be loaded counts
        as failed, and does not keep the others from being loaded. After an interruption, call it again: it goes on
        where it was, and tries failed keys again. Raises TypeError if there is no loader.

        >>> cache = Cache()
        >>> report = cache.warm(["a", "b", "c"], str.upper)
        >>> report.loaded, report.failed, cache["a"]
        (3, 0, 'A')
        """
        from cachebox._loading.warming import warm

        source = self.loader if loader is None else Loader(loader, self.statistics)
        if source is not None and not isinstance(keys, Mapping):
            (<Loader>source).refuse_to_wait("aget_many")
        return warm(self, keys, source, workers, progress)

    def _check_entry(self, key, value, ttl, tags):
        """Raise what `set` would raise for these arguments."""
        hash_of(<PyObject*>key)
        lifetime_of(ttl, "ttl")
        if tags is not no_tags:
            checked_tags(tags)
        if self.modes & WEIGHED:
            self.weigh_checked(key, value)

    def _check_ttl(self, ttl):
        """Raise what `set_many` would raise for that lifetime and no items."""
        lifetime_of(ttl, "ttl")

    def dump(self, path, *, serializer="json", secret=None):
        """Write all entries to a file: keys, values, tags, order and deadlines. Returns how many were written. O(n).

        Args:
            path: a str or a path. An older file is replaced in one step, after all data are on the disk: at any time,
                the path has the old file or the new one.
            serializer: ``"json"``: keys and values must be what JSON can hold (a tuple is not), else a TypeError is
                raised; ``"pickle"``: anything that pickle can hold, needs `secret`; or an object with `dumps`, which
                returns bytes, and `loads`, for (key, value, tags).
            secret: bytes or a str. The file is signed with it, and can be loaded only with it.

        >>> import tempfile
        >>> cache = Cache()
        >>> cache.update(a=1, b=2)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     cache.dump(f"{folder}/cache"), Cache().load(f"{folder}/cache")
        (2, 2)
        """
        from cachebox._files.dump import dump

        return dump(self, path, serializer, secret)

    def load(self, path, *, serializer="json", secret=None):
        """Add the entries of a file that `dump` wrote, in its order. Returns how many the cache then holds. O(n).

        Arguments are those of `dump`, and have to be the same. Entries live as long as they would have, by the wall
        clock. An existing key keeps its newer value. If not all have room, those furthest from eviction are added.

        Raises ValueError, which names the file, if it is damaged, cut off, no such file, or signed with another secret.
        Then nothing was added, and nothing in it was unpickled.
        """
        from cachebox._files.dump import load

        return load(self, path, serializer, secret)

    def _export(self):
        """The live entries, next victim first, as columns: keys, values, seconds to live, ranks, tags.

        The last three are None if no entry expires, all ranks are 0, or no entry has a tag.
        """
        keys, values, lefts, ends, _, ranks, tags, _ = export(self)
        return keys, values, lefts if ends is None else ends, ranks, tags

    def _import(self, list entries):
        """Add rows of (key, value, seconds to live, rank, tags), except those whose keys exist. O(n).

        Returns how many of them are then held.
        """
        return add_entries(self, entries)

    def __len__(self):
        return self.size()

    def __iter__(self):
        return iter(self._snapshot(True, False))

    def keys(self):
        """A set-like view of the live keys, next victim first. Each iteration runs over a snapshot, O(n).

        >>> cache = Cache()
        >>> cache.update(a=1, b=2)
        >>> list(cache.keys()), "a" in cache.keys()
        (['a', 'b'], True)
        """
        from cachebox._store.views import CacheKeys

        return CacheKeys(self)

    def values(self):
        """A view of the live values, next victim first. Each iteration runs over a snapshot, O(n), as does ``in``."""
        from cachebox._store.views import CacheValues

        return CacheValues(self)

    def items(self):
        """A set-like view of the live pairs, next victim first. Each iteration runs over a snapshot, O(n)."""
        from cachebox._store.views import CacheItems

        return CacheItems(self)

    def _snapshot(self, bint keys, bint values):
        """The live keys, values or pairs as a list, next victim first. O(n)."""
        cdef list found = snapshot(self, keys, values)
        if not values or not self.modes & ISOLATED:
            return found
        return [(key, self.copy_of(value)) for key, value in found] if keys else [self.copy_of(value) for value in found]

    def __eq__(self, other):
        if not isinstance(other, Mapping):
            return NotImplemented
        return dict(snapshot(self, True, True)) == dict(other.items())

    __hash__ = None
    __reversed__ = None                         # else `reversed` would take the cache for a sequence

    @property
    def stats(self):
        """What the cache did so far, as a `CacheStats`; always the same object."""
        return self.statistics

    @property
    def max_size(self):
        """The most entries it holds, an int; None: no bound. `resize` changes it."""
        return None if self.unbounded else self.bound

    @property
    def default_ttl(self):
        """Seconds that an entry lives unless `set` says otherwise, or the function that returns them; None: no end."""
        return self.default_ttl_given

    @property
    def max_bytes(self):
        """The most bytes that keys and values may take together, an int; None: they are not measured."""
        return self.max_bytes_given

    @property
    def policy(self):
        """The name of a built-in policy, or the policy object that the cache was given."""
        return self.name_of_policy

    @property
    def weight(self):
        """The weight of all live entries, an int or a float. Without a weigher each of them weighs 1."""
        cdef EntryCopy* rows
        cdef Py_ssize_t n, k
        if not self.modes & WEIGHED:
            return len(self)
        self.purge(False)
        if not self.modes & STALE:
            return total_weight(&self.weights, self.lock)
        n = copy_entries(self, &rows)            # some of them may have expired
        try:
            return sum_of_weights([rows[k].weight for k in range(n)])
        finally:
            free_copies(rows, n)

    def __repr__(self):
        bound = "unbounded" if self.max_size is None else f"max_size={self.max_size}"
        policy = self.name_of_policy if isinstance(self.name_of_policy, str) else type(self.name_of_policy).__name__
        rate = self.statistics.hit_rate()
        entries = "entry" if self.live == 1 else "entries"
        return f"<{type(self).__name__} {policy}, {bound}, {self.live} {entries}, hit rate {rate:.1%}>"

    def _repr_html_(self):
        """The cache's configuration and statistics as a table, for notebooks; never its contents."""
        from cachebox._platform.notebook import table

        counts = self.statistics.snapshot()
        rows = [
            ("policy", self.name_of_policy if isinstance(self.name_of_policy, str) else type(self.name_of_policy).__name__),
            ("entries", f"{self.live:,}" + ("" if self.max_size is None else f" of {self.max_size:,}")),
            ("hit rate", f"{counts.hit_rate():.1%}"),
            ("hits", f"{counts.hits:,}"),
            ("misses", f"{counts.misses:,}"),
            ("evictions", f"{counts.evictions:,}"),
            ("expired", f"{counts.expired:,}"),
        ]
        if self.modes & WEIGHED:
            bound = self.max_bytes_given if self.measures else self.max_weight_given
            rows.insert(2, ("bytes" if self.measures else "weight", f"{self._held_weight:,} of {bound:,}"))
        title = type(self).__name__ if self.called is None else f"{type(self).__name__} {self.called}"
        return table(title, [(name, number, "") for name, number in rows])

    @property
    def _name(self):                    # not public: subclasses may have a `name` of their own
        return self.called

    @property
    def _held(self):
        """How many entries it holds, including expired ones that have not been removed yet."""
        return self.live

    @property
    def _held_weight(self):
        """The weight of these entries."""
        return total_weight(&self.weights, self.lock) if self.modes & WEIGHED else self.live

    @classmethod
    def __class_getitem__(cls, parameters):
        from types import GenericAlias

        return GenericAlias(cls, parameters)

    def __sizeof__(self):
        cdef Py_ssize_t size = type(self).__basicsize__ + type(self.engine).__basicsize__
        if self.table.capacity:
            size += (self.table.capacity + 1) * sizeof(Entry) + (self.table.mask + 1) * sizeof(uint32_t)
            if self.table.rests != NULL:
                size += (self.table.capacity + 1) * sizeof(uint32_t)
        size += self.expiry.size * (sizeof(double) + sizeof(uint32_t)) + self.expiry.known * sizeof(uint32_t)
        return size + self.weights.known * sizeof(double) + self.ttls_known * sizeof(double)

    # --- copies and pickles: configuration, entries, order and remaining lifetimes; the statistics start at zero ------

    def close(self):
        """Does nothing, because background threads serve all caches of the process. It exists because other caches have
        it, see `CacheLike`. The cache can be used afterwards."""

    def copy(self):
        """Another cache with the same configuration, entries (not copied), order and remaining lifetimes. O(n).

        Its statistics start at zero. A policy of your own is deep-copied.
        """
        return self.__copy__()

    def __copy__(self):
        cdef Cache copied = type(self).__new__(type(self))
        if type(self) is not Cache or self.python_policy is not None:
            copied.__setstate__(self.__reduce__()[2])
            return copied
        self.purge(False)
        copied.configure_like(self.options())
        if not duplicate(copied, self):
            copy_into(copied, self)
        return copied

    cdef dict options(self):
        """What it was configured with."""
        return {
            "max_size": self.max_size,
            "default_ttl": self.default_ttl_given,
            "policy": self.name_of_policy if self.python_policy is None else "LRU",
            "on_evict": self.on_evict,
            "time_to_idle": self.time_to_idle_given,
            "max_weight": self.max_weight_given,
            "weigher": self.weigher,
            "on_removal": self.on_removal,
            "clock": self.clock,
            "name": self.called,
            "max_bytes": self.max_bytes_given,
            "jitter": self.jitter,
            "isolate": self.isolate_given,
            "loader": (<Loader>self.loader).given if self.loader is not None else None,
            "refresh_ahead": self.ahead or None if self.loader is not None else None,
            "stale_ttl": self.stale_ttl_given,
            "cache_exceptions": self.failures.kinds if self.failures is not None else (),
            "exception_ttl": self.exception_ttl_given,
        }

    cdef int configure_like(self, dict options) except -1:
        """`configure` with the options of another cache, whose policy object it must not share."""
        if isinstance(options["policy"], EvictionPolicy):
            options["policy"] = empty_like(options["policy"])
        return self.configure(options)

    def __reduce__(self):
        cdef Operation op
        cdef tuple entries
        cdef dict options
        policy = None
        self.purge(False)                       # its callbacks must not run under the policy lock
        start(&op)
        try:
            if self.python_policy is not None:
                self.python_policy.enter(&op, self.lock)
            while True:
                options = self.options()
                entries = export(self)
                if options["max_size"] is None or len(<list>entries[0]) <= options["max_size"]:
                    break                       # else it was resized meanwhile
            if op.strays:
                name = type(self.python_policy.policy).__name__
                raise RuntimeError(f"policy {name} cannot be copied: one of its methods does not return")
            if self.python_policy is not None:  # a copy of its policy that orders the same keys, as they are now
                from copy import deepcopy

                policy = deepcopy(self.python_policy.policy, {id(key): key for key in entries[0]})
        finally:
            self.finish(&op)
        return make, (type(self),), {
            "options": options,
            "policy": policy,
            "entries": entries,
            "attributes": object.__getstate__(self),    # from a subclass: its __dict__, its slots, or both
        }

    def __setstate__(self, dict state):
        cdef dict options = dict(state["options"])
        if state["policy"] is None:
            self.configure_like(options)
        else:
            options["policy"] = <EvictionPolicy?>state["policy"]
            self.configure(options)
        attributes, slots = state["attributes"] if isinstance(state["attributes"], tuple) else (state["attributes"], None)
        if attributes:
            self.__dict__.update(attributes)
        for name, value in (slots or {}).items():
            setattr(self, name, value)
        restore(self, state["entries"])

    # --- for the sweeper and for tests --------------------------------------------------------------------------------

    @property
    def _refreshes(self):
        """Whether its loader may be called for existing entries."""
        return self.loader is not None and (self.modes & (AHEAD | STALE)) != 0

    @property
    def _clock(self):
        return self.clock

    def _sweep(self):
        """Remove expired entries. Returns the monotonic time of the sweeper's next visit; infinity: none."""
        return self.sweep()

    def _check(self):
        """Verify every invariant of the cache. Raises AssertionError if one does not hold. O(n)."""
        check(self)


cdef object used_before():
    return RuntimeError("__init__ must run only once, before anything is stored: make another cache")


cdef object loads_for_coroutines():
    """The module that loads for coroutines; it imports asyncio."""
    global for_coroutines
    if for_coroutines is None:
        from cachebox._loading import awaited

        for_coroutines = awaited
    return for_coroutines


cdef object failures_for(dict options, object max_size):
    """The negative cache of a cache with these options, or None."""
    if not options.get("cache_exceptions"):
        return None
    from cachebox._loading.negative_cache import Failures

    ttl = options.get("exception_ttl")
    if ttl is None and callable(options["default_ttl"]):
        raise ValueError("exception_ttl must be given where default_ttl is a function: a failure has no value")
    lives = seconds_given(options["default_ttl"] if ttl is None else ttl)
    return Failures(options["cache_exceptions"], Cache(max_size, lives, clock=options["clock"]))


cdef EvictionPolicy policy_of(object given, object max_size):
    """The policy for the option: the given instance, or a new one."""
    if isinstance(given, str):
        if given.upper() not in BUILT_IN:
            raise ValueError(f"policy must be one of {', '.join(BUILT_IN)}, or an EvictionPolicy, not {given!r}")
        return BUILT_IN[given.upper()](max_size)
    if isinstance(given, type) and issubclass(given, EvictionPolicy):
        return given(max_size)
    if isinstance(given, EvictionPolicy):
        return given
    raise TypeError(
        f"policy must be a name ({', '.join(BUILT_IN)}), an EvictionPolicy class or an instance, not {given!r}"
    )


cdef object name_if_built_in(EvictionPolicy policy):
    """The name of a built-in policy; for any other policy, even a subclass of a built-in one, the policy itself."""
    for name, known in BUILT_IN.items():
        if type(policy) is known:
            return name
    return policy


cdef Py_ssize_t bound_of(object size) except -1:
    return LARGEST_SIZE if size is None else <Py_ssize_t>min(size, LARGEST_SIZE)


cdef int set_for(Store self, object key, uint64_t h, object value, double lifetime) except -1:
    """`set`, if the fastest path cannot."""
    if not try_set_for(self, <PyObject*>key, h, <PyObject*>value, lifetime):
        set_slow(self, key, h, value, lifetime)
    return 0


cdef list listed(object given, str name, str wanted):
    if not hasattr(given, "__iter__") and not hasattr(given, "__getitem__"):
        raise TypeError(f"{name} must be {wanted}, not {type(given).__name__}")
    return list(given)


cdef list pairs_of(object items):
    """The items of a mapping, as a list of tuples."""
    return [item if type(item) is tuple and len(<tuple>item) == 2 else pair_of(item) for item in items]


cdef tuple pair_of(object item):
    if type(item) is tuple and len(<tuple>item) == 2:
        return item
    cdef list pair = listed(item, "other", "an iterable of pairs")
    if len(pair) != 2:
        raise ValueError(f"other must be an iterable of pairs, but one of them has the length {len(pair)}")
    return tuple(pair)


def tags_as_given(tags):
    """Check tags that were given to `cached`: a function of the result and the arguments, or the tags themselves."""
    return tags if callable(tags) else checked_tags(tags)


def make(cls):
    """Make the cache that unpickling fills; `__setstate__` configures it."""
    return cls.__new__(cls)


MutableMapping.register(Cache)


# --- what the interpreter calls for the hottest methods ---------------------------------------------------------------
# These functions replace Cython's own; see `_platform/method_slot.pxd`, and `_loading/fast_path.pxd` for what they do.

cdef PyObject* call_get(PyObject* self, PyObject** args, Py_ssize_t n, PyObject* names) noexcept:
    cdef Py_hash_t hashed
    cdef uint64_t h
    cdef uint32_t i
    if unlikely(names != NULL or n < 1 or n > 2 or not knows_hash(args[0], &hashed)):
        return get_otherwise(self, args, n, names)
    h = mixed_in(self, hashed)
    if unlikely(not find_at_once(self, args[0], h, &i)):
        return compare_and_get(self, args, n, h, i)
    if unlikely(not is_plain_hit(self, i)):
        return search_and_get(self, args, n, h, i)
    return take_hit(self, i)


cdef PyObject* get_by_any_means(PyObject* self, PyObject** args, Py_ssize_t n, PyObject* names) except NULL:
    """`get` with other arguments, or with a key whose hash takes a Python call."""
    cdef uint64_t h
    cdef PyObject* value
    cdef bint compared = False
    if names != NULL or n < 1 or n > 2:
        return compiled_get(self, args, n, names)
    h = mixed_in(self, hash_of(args[0]))
    value = get_equal(self, args[0], h, &compared)
    return value if value != NULL else get_missing(self, args, n, h, compared)


cdef PyObject* get_by_comparing(PyObject* self, PyObject** args, Py_ssize_t n, uint64_t h, uint32_t i) noexcept:
    """The end of `call_get`, with the lock: the part that makes no call."""
    if likely(is_equal_hit(self, args[0], h, i)):
        return take_hit(self, i)
    return search_and_get(self, args, n, h, i)


cdef PyObject* get_by_search(PyObject* self, PyObject** args, Py_ssize_t n, uint64_t h, uint32_t i) except NULL:
    """The end of a `get`, with the lock."""
    cdef bint compared = False
    cdef PyObject* value = search_and_use(self, args[0], h, i, &compared)
    return value if value != NULL else get_missing(self, args, n, h, compared)


cdef PyObject* get_missing(PyObject* self, PyObject** args, Py_ssize_t n, uint64_t h, bint compared) except NULL:
    """The end of a `get` that the fast path did not find."""
    cdef PyObject* value = find_missing(self, args[0], h, compared)
    if value == NULL:
        value = args[1] if n == 2 else None_
        incref(value)
    return value


cdef PyObject* call_getitem(PyObject* self, PyObject* key) noexcept:
    cdef Py_hash_t hashed
    cdef uint64_t h
    cdef uint32_t i
    if unlikely(not knows_hash(key, &hashed)):
        return hash_and_getitem(self, key)
    h = mixed_in(self, hashed)
    if unlikely(not find_at_once(self, key, h, &i)):
        return compare_and_getitem(self, key, h, i)
    if unlikely(not is_plain_hit(self, i)):
        return search_and_getitem(self, key, h, i)
    return take_hit(self, i)


cdef PyObject* getitem_by_hashing(PyObject* self, PyObject* key) except NULL:
    """`self[key]` if hashing the key takes a Python call."""
    cdef uint64_t h = mixed_in(self, hash_of(key))
    cdef bint compared = False
    cdef PyObject* value = get_equal(self, key, h, &compared)
    return value if value != NULL else getitem_missing(self, key, h, compared)


cdef PyObject* getitem_by_comparing(PyObject* self, PyObject* key, uint64_t h, uint32_t i) noexcept:
    """The end of `call_getitem`, with the lock: the part that makes no call."""
    if likely(is_equal_hit(self, key, h, i)):
        return take_hit(self, i)
    return search_and_getitem(self, key, h, i)


cdef PyObject* getitem_by_search(PyObject* self, PyObject* key, uint64_t h, uint32_t i) except NULL:
    """The end of a `self[key]`, with the lock."""
    cdef bint compared = False
    cdef PyObject* value = search_and_use(self, key, h, i, &compared)
    return value if value != NULL else getitem_missing(self, key, h, compared)


cdef PyObject* getitem_missing(PyObject* self, PyObject* key, uint64_t h, bint compared) except NULL:
    cdef PyObject* value = find_missing(self, key, h, compared)
    if value == NULL:
        raise KeyError(<object>key)
    return value


cdef PyObject* call_set(PyObject* self, PyObject** args, Py_ssize_t n, PyObject* names) except NULL:
    if n != 2 or names != NULL or not try_set(
        <Cache>self, args[0], mixed_in(self, hash_of(args[0])), args[1], False
    ):
        return set_otherwise(self, args, n, names)
    incref(None_)
    return None_


cdef PyObject* set_by_any_means(PyObject* self, PyObject** args, Py_ssize_t n, PyObject* names) except NULL:
    """`set` with a lifetime or a tag, or in a cache with modes."""
    cdef uint64_t h
    cdef double lifetime = (<Store>self).lifetime
    cdef bint is_tagged = False
    if names != NULL and n == 2 and len(<tuple>names) == 1:         # one argument by keyword
        is_tagged = item_of(names, 0) == <PyObject*>TAGS
        if not is_tagged and item_of(names, 0) != <PyObject*>TTL:   # names in calls are interned
            return compiled_set(self, args, n, names)
    elif names != NULL or n < 2 or n > 3:
        return compiled_set(self, args, n, names)
    h = mixed_in(self, hash_of(args[0]))
    if is_tagged:
        set_tagged(<Store>self, <object>args[0], h, <object>args[1], lifetime, checked_tags(<object>args[2]))
    else:
        if (n == 3 or names != NULL) and args[2] != None_ and not plain_number(args[2], &lifetime):
            lifetime = lifetime_of(<object>args[2], "ttl")
        if not try_set_for(<Store>self, args[0], h, args[1], lifetime):
            set_slow(<Store>self, <object>args[0], h, <object>args[1], lifetime)
    incref(None_)
    return None_


cdef Method set_otherwise = set_by_any_means
cdef PyObject* call_touch(PyObject* self, PyObject** args, Py_ssize_t n, PyObject* names) except NULL:
    cdef double lifetime = (<Store>self).lifetime
    cdef int touched = -1
    if names == NULL and (n == 1 or n == 2 and plain_number(args[1], &lifetime)):
        touched = try_touch(<Store>self, args[0], mixed_in(self, hash_of(args[0])), lifetime)
    if touched < 0:
        return compiled_touch(self, args, n, names)
    answer = touched != 0
    incref(<PyObject*>answer)
    return <PyObject*>answer


cdef Rest get_otherwise = <Rest>get_by_any_means
cdef Search compare_and_get = get_by_comparing, search_and_get = <Search>get_by_search
cdef ItemRest hash_and_getitem = <ItemRest>getitem_by_hashing
cdef ItemSearch compare_and_getitem = getitem_by_comparing, search_and_getitem = <ItemSearch>getitem_by_search
cdef Method compiled_get = replace_method(<PyTypeObject*>Cache, "get", <Method>call_get)
cdef Method compiled_set = replace_method(<PyTypeObject*>Cache, "set", call_set)
cdef Method compiled_touch = replace_method(<PyTypeObject*>Cache, "touch", call_touch)
replace_subscript(<PyTypeObject*>Cache, call_getitem)
