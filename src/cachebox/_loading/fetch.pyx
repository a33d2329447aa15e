"""Loads of missing values, for `get` with a loader, `get_or_set` and decorated functions; see `fetch.pxd`."""

from cpython.object cimport PyObject
from libc.math cimport INFINITY
from libc.stdint cimport uint64_t

from cachebox._engine.table cimport incref, mixed, take_over, xdecref
from cachebox._loading.fast_path cimport try_complete, try_get, try_lead, try_miss, try_set
from cachebox._loading.flight cimport ABANDONED, PENDING, Flight
from cachebox._loading.loader cimport NOTHING, Loader, load_all
from cachebox._loading.refresh cimport get_now, get_or_refresh
from cachebox._loading.single_flight cimport Joined, Leader, complete, fail, join_or_lead, new_leader, still_leads
from cachebox._platform.caught cimport raise_current
from cachebox._platform.lock cimport acquire, release
from cachebox._store.operation cimport Operation, start
from cachebox._store.options cimport lifetime_of, seconds_given
from cachebox._store.state cimport AHEAD, STALE, hash_in, new_watch
from cachebox._store.store cimport Store
from cachebox._store.tags cimport checked_tags
from cachebox._store.writes cimport put, put_tagged, set_weighed

from cachebox._platform.awaitables import is_context, refuse_awaitable


cdef extern from *:
    object vectorcall "PyObject_Vectorcall"(PyObject*, PyObject**, size_t, PyObject*)
    PyObject* quick_vectorcall "PyObject_Vectorcall"(PyObject*, PyObject**, size_t, PyObject*) noexcept

cdef extern from "_platform/results.h":
    bint is_consumed "cb_is_consumed"(PyObject* value) noexcept
    bint is_heap_type "cb_is_heap_type"(type) noexcept
    void note_harmless "cb_note_harmless"(PyObject* value) noexcept


# --- one key ----------------------------------------------------------------------------------------------------------

cdef PyObject* get_slow(Store store, object key, uint64_t h) except? NULL:
    """The slow path of `get`: a new reference to the key's value; NULL: a miss."""
    if store.loader is not None:
        return get_through(store, key, h)
    return store.own_copy(store.find_and_use(key, h, True))


cdef PyObject* get_through(Store store, object key, uint64_t h) except? NULL:
    """`get_slow` of a cache with a loader: a new reference to the value; NULL: the loader has none."""
    cdef LoadSpec spec
    cdef PyObject* value
    cdef PyObject* argument = <PyObject*>key
    if store.modes & (AHEAD | STALE):
        value = get_or_refresh(store, key, h)
        if value != NULL:
            return store.own_copy(value)
    if (<Loader>store.loader).is_async:
        value = store.find_and_use(key, h, False)
        if value == NULL:
            (<Loader>store.loader).refuse_to_wait("aget")
        return store.own_copy(value)
    by_loader(&spec, store.loader, &argument, store)
    loaded = fetch(store, key, h, &spec)
    value = <PyObject*>loaded
    if value == NOTHING:
        return NULL
    incref(value)
    return value


cdef PyObject* find_missing(PyObject* self, PyObject* key, uint64_t h, bint compared) except? NULL:
    """A new reference to the value of a key that the fast path did not find; NULL: a miss."""
    if compared and (<Store>self).loader is None:
        acquire((<Store>self).lock)
        (<Store>self).note_miss(h)
        release((<Store>self).lock)
        return NULL
    return get_slow(<Store>self, <object>key, h)


cdef object fetch(Store store, object key, uint64_t h, LoadSpec* spec):
    """The value of a key. If it is missing, one caller leads the load, and the others wait for it."""
    cdef Leader leader
    cdef Flight flight
    cdef Joined joined
    cdef PyObject* value
    cdef int state
    cdef object known
    if spec.functools_rules:
        return load_by_functools_rules(store, key, h, spec)
    if spec.failures != NULL:
        known = (<object>spec.failures).find(key)
        if known is not None:
            spec.missed = False
            store.count_hit()
            if spec.instance == NOTHING and isinstance(known, KeyError):
                return <object>NOTHING
            raise known
    spec.began = store.invalidations
    leader = new_leader(store)
    joined.counted = spec.single_flight and try_lead(store, <PyObject*>key, h, leader)
    if joined.counted:
        spec.missed = True
    else:
        if not spec.single_flight:
            leader.side_load = new_watch(store)
        while True:
            flight = join_or_lead(store, key, h, leader, &joined)
            spec.missed = joined.counted
            if joined.value != NULL:
                return store.copy_of(take_over(joined.value))
            if flight is None:
                break
            state = flight.wait()
            if state == PENDING:            # the wait would be circular
                leader.side_load = new_watch(store)
            elif state != ABANDONED:
                known = flight.outcome()
                if <PyObject*>known != NOTHING or spec.instance == NOTHING:
                    return known            # else a loader said that there is no value, but this caller has a factory
    value = quick_vectorcall(spec.function, spec.arguments, spec.n, spec.names)
    if value != NULL and is_simple(spec) and <PyObject*>value != spec.instance and not may_pass_once(value):
        if try_complete(store, leader, value):
            return take_over(value)
    return end_load(store, key, h, leader, value, spec)


cdef object end_load(Store store, object key, uint64_t h, Leader leader, PyObject* value, LoadSpec* spec):
    """End a load with its value; NULL: with the current exception."""
    try:
        if value == NULL:
            raise_current()
        if spec.single_use != STORED and is_only_returned(<object>value, spec):
            fail(store, leader, None)        # each waiter has to load its own
        else:
            complete_load(store, leader, key, h, <object>value, spec)
    except BaseException as error:
        xdecref(value)
        if spec.failures != NULL:
            remember(store, key, leader, error, <object>spec.failures)
        fail(store, leader, error)
        raise
    return take_over(value)


cdef int remember(Store store, object key, Leader leader, object error, object failures) except -1:
    """Remember that a load failed, unless its key was changed meanwhile."""
    if failures.remember(key, error) and not still_leads(store, leader):
        failures.forget(key)                # a writer stores first and forgets then: in any order, no failure stays
    return 0


cdef int complete_load(Store store, Leader leader, object key, uint64_t h, object value, LoadSpec* spec) except -1:
    """End a load with its value."""
    cdef bint wanted = is_wanted(value, spec)
    cdef double weight = 0.0
    cdef tuple tags = tags_for(value, spec) if wanted and spec.tags != NULL else None
    if <PyObject*>value != NOTHING:
        value = store.copy_of(value)         # the leader may change its copy before the waiters have theirs
    if wanted:
        spec.lifetime = store.lifetime_for(spec.lifetime, key, value)
        weight = store.weigh(key, value)
    if spec.failures != NULL and <PyObject*>value == NOTHING:
        remember(store, key, leader, KeyError(key), <object>spec.failures)
    wanted = wanted and weight <= store.bound_weight
    return complete(store, key, h, leader, value, spec.lifetime, weight, wanted, tags, spec.began)


cdef object load_by_functools_rules(Store store, object key, uint64_t h, LoadSpec* spec):
    """The value of a key, loaded if need be. Other loads and writes of the key do not matter."""
    cdef PyObject* found
    spec.missed = try_miss(store, <PyObject*>key, h)
    if not spec.missed:
        found = get_slow(store, key, h)
        spec.missed = found == NULL
        if found != NULL:
            return take_over(found)
    value = vectorcall(spec.function, spec.arguments, spec.n, spec.names)
    if not try_set(store, <PyObject*>key, h, <PyObject*>value, spec.keep_first):
        set_weighed(store, key, h, value, spec.lifetime, 0.0, spec.keep_first)
    return value


cdef int put_result(Store store, object key, uint64_t h, object value, LoadSpec* spec) except -1:
    """Store a value as if it had been loaded."""
    cdef Operation op
    cdef double weight
    cdef tuple tags = None
    if not is_wanted(value, spec):
        return 0
    if spec.tags != NULL:
        tags = tags_for(value, spec)
    value = store.copy_of(value)
    spec.lifetime = store.lifetime_for(spec.lifetime, key, value)
    weight = store.weigh(key, value)
    if weight > store.bound_weight:
        return 0
    start(&op)
    try:
        if tags:
            put_tagged(store, key, h, value, spec.lifetime, weight, tags, &op)
        else:
            put(store, key, h, value, spec.lifetime, weight, False, &op)
    finally:
        store.finish(&op)
    return store.forget_failure(key)


# --- many keys ----------------------------------------------------------------------------------------------------------

cdef object get_many_through(Store store, list keys, list hashes):
    """`get_many` of a cache with a loader."""
    cdef PyObject* value
    cdef uint64_t h
    cdef dict found = {}, missing = {}
    cdef list left = []
    cdef bint together = (<Loader>store.loader).many is not None
    for key, hashed in zip(keys, hashes):
        h = mixed(store.table, hashed)
        value = try_get(<PyObject*>store, <PyObject*>key, h)
        if value == NULL and not together:
            value = get_through(store, key, h)
        elif value == NULL and store.modes & (AHEAD | STALE):
            value = get_or_refresh(store, key, h)
        if value != NULL:
            found[key] = take_over(value)
        elif together and key in missing:
            store.count_miss()
        elif together:
            known = store.failures.find(key) if store.failures is not None else None
            if known is None:
                missing[key] = None
            else:
                store.count_hit()
                if not isinstance(known, KeyError):
                    raise known
    if missing:
        load_all(store, store.loader, list(missing), found, left)
        for key in left:
            value = get_through(store, key, hash_in(store, key))
            if value != NULL:
                found[key] = take_over(value)
    return {key: found[key] for key in keys if key in found} if together else found


# --- for coroutines and warm starts
# -------------------------------------------------------------------------------------

def find(Store store not None, key):
    """The value of a hit, or NOTHING. A miss is not counted."""
    cdef PyObject* value = try_get(<PyObject*>store, <PyObject*>key, hash_in(store, key))
    return take_over(value) if value != NULL else <object>NOTHING


def get_now_(Store store not None, key):
    """A value that may be served although it is due for a refresh or has expired; or NOTHING."""
    cdef PyObject* value = store.own_copy(get_now(store, key, hash_in(store, key)))
    return take_over(value) if value != NULL else <object>NOTHING


def known_failure(Store store not None, key):
    """The exception to raise for a key whose load failed lately, or None."""
    error = store.failures.find(key) if store.failures is not None else None
    if error is not None:
        store.count_hit()
    return error


def count_miss(Store store not None):
    store.count_miss()


def begin_load(Store store not None, key, bint counted, bint alone):
    """Returns (a Leader, None), (None, a flight to wait for), or (None, a tuple of the existing value)."""
    cdef Joined joined
    cdef Leader leader = new_leader(store)
    cdef Flight flight
    joined.counted = counted
    if alone:
        leader.side_load = new_watch(store)
    flight = join_or_lead(store, key, hash_in(store, key), leader, &joined)
    leader.began = store.invalidations
    if joined.value != NULL:
        return None, (store.copy_of(take_over(joined.value)),)
    return (None, flight) if flight is not None else (leader, None)


def complete_loaded(Store store not None, Leader leader not None, key, value):
    """End a load by the loader."""
    cdef LoadSpec spec
    by_loader(&spec, store.loader, NULL, store)
    spec.began = leader.began
    complete_load(store, leader, key, hash_in(store, key), value, &spec)


def complete_made(Store store not None, Leader leader not None, key, value, double lifetime, tuple tags):
    """End a load by a factory."""
    cdef LoadSpec spec
    no_arguments(&spec, None, lifetime)
    if is_awaitable(<PyObject*>value):
        refuse_awaitable("what factory", value)
    if tags:
        spec.tags = <PyObject*>tags
    spec.began = leader.began
    complete_load(store, leader, key, hash_in(store, key), value, &spec)


def fail_load(Store store not None, Leader leader not None, key, error):
    """End a load by an exception."""
    if store.failures is not None:
        remember(store, key, leader, error, store.failures)
    fail(store, leader, error)


def load_one(Store store not None, key, Loader loader):
    """Load a key, if it is missing. Returns whether it has a value then."""
    cdef LoadSpec spec
    cdef PyObject* argument = <PyObject*>key
    by_loader(&spec, loader, &argument, store)
    loaded = fetch(store, key, hash_in(store, key), &spec)
    return <PyObject*>loaded != NOTHING


def load_many(Store store not None, list keys, Loader loader):
    """Load the missing ones of many keys, together. Returns how many keys have a value then."""
    cdef dict found = {}
    cdef list left = []
    load_all(store, loader, keys, found, left)
    return len(found) + sum([load_one(store, key, loader) for key in left])


# --- what becomes of a value --------------------------------------------------------------------------------------------

cdef void by_loader(LoadSpec* spec, Loader loader, PyObject** key, Store store) noexcept:
    """A value comes from a loader."""
    no_arguments(spec, loader, store.lifetime)
    spec.arguments = key
    spec.n = 1
    spec.instance = NOTHING
    if store.failures is not None:
        spec.failures = <PyObject*>store.failures


cdef bint is_wanted(object value, LoadSpec* spec) except -1:
    """Whether to store a loaded value. Sets its lifetime."""
    if <PyObject*>value == spec.instance:
        return False
    if spec.condition != NULL and not plain_result("condition", (<object>spec.condition)(value)):
        return False
    if spec.ttl_of != NULL:
        ttl = seconds_given(plain_result("ttl", (<object>spec.ttl_of)(value)))
        if isinstance(ttl, (int, float)) and ttl <= 0:
            return False
        if ttl is not None:
            spec.lifetime = lifetime_of(ttl, "what ttl returned")
    return True


cdef tuple tags_for(object value, LoadSpec* spec):
    """The tags of a loaded value."""
    tags = <object>spec.tags
    if callable(tags):
        arguments = [<object>spec.arguments[k] for k in range(spec.n)]
        names = <object>spec.names if spec.names != NULL else ()
        keywords = {name: <object>spec.arguments[spec.n + k] for k, name in enumerate(names)}
        tags = plain_result("tags", tags(value, *arguments, **keywords))
    return checked_tags(() if tags is None else tags)


cdef inline bint is_simple(const LoadSpec* spec) noexcept:
    """Whether every value is to be stored, without a deadline."""
    return spec.condition == NULL and spec.ttl_of == NULL and spec.lifetime == INFINITY and spec.tags == NULL


cdef bint is_only_returned(object value, LoadSpec* spec) except -1:
    """Whether a computed value must not be stored, because it can be consumed only once.

    Raises TypeError for a factory that was async.
    """
    if spec.single_use == RETURNED and passes_once(value):
        spec.single_use = PASSED
        return True
    if spec.single_use == REFUSED and is_awaitable(<PyObject*>value):
        refuse_awaitable("factory" if spec.n == 0 else "loader", value)
    return False


cdef bint passes_once(object value) except -1:
    """Whether a value can be consumed only once."""
    if is_consumed(<PyObject*>value):
        return True
    if is_heap_type(type(value)):
        if is_context(value):
            return True
        type.__getattribute__(type(value), "__doc__")       # a type gets its version when an attribute is looked up
        note_harmless(<PyObject*>value)
    return False


cdef object plain_result(str name, object result):
    """What a user's function returned. Raises TypeError for an awaitable, which no code would await."""
    if is_awaitable(<PyObject*>result):
        refuse_awaitable(name, result)
    return result
