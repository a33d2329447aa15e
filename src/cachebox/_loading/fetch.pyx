"""Loading what is missing, for `get` of a cache with a loader, `get_or_set` and decorated functions; see `fetch.pxd`."""

from cpython.object cimport PyObject
from libc.math cimport INFINITY
from libc.stdint cimport uint64_t

from cachebox._engine.table cimport incref, mixed, take_over, xdecref
from cachebox._loading.fast_path cimport quick_get, quick_land, quick_lead, quick_miss, quick_set
from cachebox._loading.flight cimport ABANDONED, FLYING, Flight
from cachebox._loading.loader cimport NOTHING, Loader, load_all
from cachebox._loading.refresh cimport serve, serve_at_once
from cachebox._loading.single_flight cimport Leader, Ticket, board, crash, land as land_flight, new_leader, still_leads
from cachebox._platform.caught cimport raise_current
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

cdef PyObject* get_long(Store store, object key, uint64_t h) except? NULL:
    """A new reference to the key's value, or NULL: the long way, for a miss too."""
    if store.loader is not None:
        return get_through(store, key, h)
    return store.own_copy(store.find_and_use(key, h, True))


cdef PyObject* get_through(Store store, object key, uint64_t h) except? NULL:
    """`get_long` of a cache with a loader: a new reference to the value, or NULL: there is none."""
    cdef Loading how
    cdef PyObject* value
    cdef PyObject* argument = <PyObject*>key
    if store.modes & (AHEAD | STALE):
        value = serve(store, key, h)
        if value != NULL:
            return store.own_copy(value)
    if (<Loader>store.loader).is_async:
        value = store.find_and_use(key, h, False)
        if value == NULL:
            (<Loader>store.loader).refuse_to_wait("aget")
        return store.own_copy(value)
    by_loader(&how, store.loader, &argument, store)
    loaded = fetch(store, key, h, &how)
    value = <PyObject*>loaded
    if value == NOTHING:
        return NULL
    incref(value)
    return value


cdef PyObject* find_missing(PyObject* self, PyObject* key, uint64_t h, bint compared) except? NULL:
    """A new reference to the value of a key that was no hit at first sight, or NULL: it is a miss."""
    if compared and (<Store>self).loader is None:
        (<Store>self).count_miss()
        return NULL
    return get_long(<Store>self, <object>key, h)


cdef object fetch(Store store, object key, uint64_t h, Loading* how):
    """The value of a key, loaded if need be: by one that leads, while the others wait for it."""
    cdef Leader leader
    cdef Flight flight
    cdef Ticket ticket
    cdef PyObject* value
    cdef int state
    cdef object known
    if how.unwatched:
        return load_unwatched(store, key, h, how)
    if how.failures != NULL:
        known = (<object>how.failures).find(key)
        if known is not None:
            how.missed = False
            store.count_hit()
            if how.instance == NOTHING and isinstance(known, KeyError):
                return <object>NOTHING
            raise known
    how.began = store.invalidations
    leader = new_leader(store)
    ticket.counted = how.single_flight and quick_lead(store, <PyObject*>key, h, leader)
    if ticket.counted:
        how.missed = True
    else:
        if not how.single_flight:
            leader.alone = new_watch(store)
        while True:
            flight = board(store, key, h, leader, &ticket)
            how.missed = ticket.counted
            if ticket.value != NULL:
                return store.copy_of(take_over(ticket.value))
            if flight is None:
                break
            state = flight.wait()
            if state == FLYING:             # waiting would be for ourselves
                leader.alone = new_watch(store)
            elif state != ABANDONED:
                known = flight.outcome()
                if <PyObject*>known != NOTHING or how.instance == NOTHING:
                    return known            # else a loader said that there is none, but this is a factory
    value = quick_vectorcall(how.function, how.arguments, how.n, how.names)
    if value != NULL and is_simple(how) and <PyObject*>value != how.instance and not may_pass_once(value):
        if quick_land(store, leader, value):
            return take_over(value)
    return land_or_crash(store, key, h, leader, value, how)


cdef object land_or_crash(Store store, object key, uint64_t h, Leader leader, PyObject* value, Loading* how):
    """End a load with its value, or with the exception that is set where that is NULL."""
    try:
        if value == NULL:
            raise_current()
        if how.single_use != STORED and is_only_returned(<object>value, how):
            crash(store, leader, None)       # whoever waits has to get its own
        else:
            land(store, leader, key, h, <object>value, how)
    except BaseException as error:
        xdecref(value)
        if how.failures != NULL:
            remember(store, key, leader, error, <object>how.failures)
        crash(store, leader, error)
        raise
    return take_over(value)


cdef int remember(Store store, object key, Leader leader, object error, object failures) except -1:
    """Remember that a load failed, unless its key was changed meanwhile."""
    if failures.remember(key, error) and not still_leads(store, leader):
        failures.forget(key)                # whoever writes the key does so, too, after that: in any order it is gone
    return 0


cdef int land(Store store, Leader leader, object key, uint64_t h, object value, Loading* how) except -1:
    """End a load with the value that it got."""
    cdef bint wanted = is_wanted(value, how)
    cdef double weight = 0.0
    cdef tuple tags = tags_for(value, how) if wanted and how.tags != NULL else None
    if <PyObject*>value != NOTHING:
        value = store.copy_of(value)         # what the leader gets it may change before those who wait have theirs
    if wanted:
        how.lifetime = store.lifetime_for(how.lifetime, key, value)
        weight = store.weigh(key, value)
    if how.failures != NULL and <PyObject*>value == NOTHING:
        remember(store, key, leader, KeyError(key), <object>how.failures)
    wanted = wanted and weight <= store.bound_weight
    return land_flight(store, key, h, leader, value, how.lifetime, weight, wanted, tags, how.began)


cdef object load_unwatched(Store store, object key, uint64_t h, Loading* how):
    """The value of a key, loaded if need be, whoever else loads or writes it meanwhile."""
    cdef PyObject* found
    how.missed = quick_miss(store, <PyObject*>key, h)
    if not how.missed:
        found = get_long(store, key, h)
        how.missed = found == NULL
        if found != NULL:
            return take_over(found)
    value = vectorcall(how.function, how.arguments, how.n, how.names)
    if not quick_set(store, <PyObject*>key, h, <PyObject*>value, how.first_wins):
        set_weighed(store, key, h, value, how.lifetime, 0.0, how.first_wins)
    return value


cdef int put_result(Store store, object key, uint64_t h, object value, Loading* how) except -1:
    """Store a value as if it had been loaded."""
    cdef Operation op
    cdef double weight
    cdef tuple tags = None
    if not is_wanted(value, how):
        return 0
    if how.tags != NULL:
        tags = tags_for(value, how)
    value = store.copy_of(value)
    how.lifetime = store.lifetime_for(how.lifetime, key, value)
    weight = store.weigh(key, value)
    if weight > store.bound_weight:
        return 0
    start(&op)
    try:
        if tags:
            put_tagged(store, key, h, value, how.lifetime, weight, tags, &op)
        else:
            put(store, key, h, value, how.lifetime, weight, False, &op)
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
        value = quick_get(<PyObject*>store, <PyObject*>key, h)
        if value == NULL and not together:
            value = get_through(store, key, h)
        elif value == NULL and store.modes & (AHEAD | STALE):
            value = serve(store, key, h)
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


# --- for coroutines and warm starts -------------------------------------------------------------------------------------

def find(Store store not None, key):
    """A hit, or what stands for nothing, which counts nothing."""
    cdef PyObject* value = quick_get(<PyObject*>store, <PyObject*>key, hash_in(store, key))
    return take_over(value) if value != NULL else <object>NOTHING


def serve_now(Store store not None, key):
    """What may be served although it is to be loaded anew, or has expired; or what stands for nothing."""
    cdef PyObject* value = store.own_copy(serve_at_once(store, key, hash_in(store, key)))
    return take_over(value) if value != NULL else <object>NOTHING


def known_failure(Store store not None, key):
    """What to raise for a key whose load failed lately, or None."""
    error = store.failures.find(key) if store.failures is not None else None
    if error is not None:
        store.count_hit()
    return error


def count_miss(Store store not None):
    store.count_miss()


def begin_load(Store store not None, key, bint counted, bint alone):
    """Returns (a Leader, None), (None, a flight to wait for), or (None, the value that is there in a tuple)."""
    cdef Ticket ticket
    cdef Leader leader = new_leader(store)
    cdef Flight flight
    ticket.counted = counted
    if alone:
        leader.alone = new_watch(store)
    flight = board(store, key, hash_in(store, key), leader, &ticket)
    leader.began = store.invalidations
    if ticket.value != NULL:
        return None, (store.copy_of(take_over(ticket.value)),)
    return (None, flight) if flight is not None else (leader, None)


def land_loaded(Store store not None, Leader leader not None, key, value):
    """End a load by the loader."""
    cdef Loading how
    by_loader(&how, store.loader, NULL, store)
    how.began = leader.began
    land(store, leader, key, hash_in(store, key), value, &how)


def land_made(Store store not None, Leader leader not None, key, value, double lifetime, tuple tags):
    """End a load by a function."""
    cdef Loading how
    no_arguments(&how, None, lifetime)
    if is_awaitable(<PyObject*>value):
        refuse_awaitable("what factory", value)
    if tags:
        how.tags = <PyObject*>tags
    how.began = leader.began
    land(store, leader, key, hash_in(store, key), value, &how)


def fail_load(Store store not None, Leader leader not None, key, error):
    """End a load by an exception."""
    if store.failures is not None:
        remember(store, key, leader, error, store.failures)
    crash(store, leader, error)


def load_one(Store store not None, key, Loader loader):
    """Load a key, if it is missing. Returns whether it is there then."""
    cdef Loading how
    cdef PyObject* argument = <PyObject*>key
    by_loader(&how, loader, &argument, store)
    loaded = fetch(store, key, hash_in(store, key), &how)
    return <PyObject*>loaded != NOTHING


def load_many(Store store not None, list keys, Loader loader):
    """Load keys together, if they are missing. Returns how many are there then."""
    cdef dict found = {}
    cdef list left = []
    load_all(store, loader, keys, found, left)
    return len(found) + sum([load_one(store, key, loader) for key in left])


# --- what becomes of a value --------------------------------------------------------------------------------------------

cdef void by_loader(Loading* how, Loader loader, PyObject** key, Store store) noexcept:
    """A value comes from a loader."""
    no_arguments(how, loader, store.lifetime)
    how.arguments = key
    how.n = 1
    how.instance = NOTHING
    if store.failures is not None:
        how.failures = <PyObject*>store.failures


cdef bint is_wanted(object value, Loading* how) except -1:
    """Whether a loaded value is to be stored; sets its lifetime."""
    if <PyObject*>value == how.instance:
        return False
    if how.condition != NULL and not plain_result("condition", (<object>how.condition)(value)):
        return False
    if how.ttl_of != NULL:
        ttl = seconds_given(plain_result("ttl", (<object>how.ttl_of)(value)))
        if isinstance(ttl, (int, float)) and ttl <= 0:
            return False
        if ttl is not None:
            how.lifetime = lifetime_of(ttl, "what ttl returned")
    return True


cdef tuple tags_for(object value, Loading* how):
    """The tags of a loaded value."""
    tags = <object>how.tags
    if callable(tags):
        arguments = [<object>how.arguments[k] for k in range(how.n)]
        names = <object>how.names if how.names != NULL else ()
        keywords = {name: <object>how.arguments[how.n + k] for k, name in enumerate(names)}
        tags = plain_result("tags", tags(value, *arguments, **keywords))
    return checked_tags(() if tags is None else tags)


cdef inline bint is_simple(const Loading* how) noexcept:
    """Whether every value is to be stored, and for ever."""
    return how.condition == NULL and how.ttl_of == NULL and how.lifetime == INFINITY and how.tags == NULL


cdef bint is_only_returned(object value, Loading* how) except -1:
    """Whether a computed value must not be stored, because it can be consumed only once. TypeError: a factory was async."""
    if how.single_use == RETURNED and passes_once(value):
        how.single_use = PASSED
        return True
    if how.single_use == REFUSED and is_awaitable(<PyObject*>value):
        refuse_awaitable("factory" if how.n == 0 else "loader", value)
    return False


cdef bint passes_once(object value) except -1:
    """Whether a value can be consumed only once."""
    if is_consumed(<PyObject*>value):
        return True
    if is_heap_type(type(value)):
        if is_context(value):
            return True
        type.__getattribute__(type(value), "__doc__")       # a type gets its version when it is asked for something
        note_harmless(<PyObject*>value)
    return False


cdef object plain_result(str name, object result):
    """What a user's function returned. TypeError where somebody would have to await it."""
    if is_awaitable(<PyObject*>result):
        refuse_awaitable(name, result)
    return result
