"""Read-through; `loader.pxd` has the overview.

One key is loaded as by `Cache.get_or_set`, with the loader as the factory. Many keys go to the loader's `load_many`
together. Each key is a flight of its own that this thread leads, so that others wait only for the keys they want.
"""

from cpython.object cimport PyObject
from libc.stdint cimport uint64_t

from _collections_abc import Mapping
from time import perf_counter_ns

from cachebox._engine.table cimport hash_of, mixed, take_over
from cachebox._loading.flight cimport ABANDONED, PENDING, Flight
from cachebox._loading.single_flight cimport Joined, Leader, complete, fail, join_or_lead, new_leader, still_leads
from cachebox._platform.lock cimport acquire, release
from cachebox._store.options cimport lifetime_of, number_of
from cachebox._store.store cimport Store
from cachebox.stats cimport LOAD_FAILURE, LOAD_SUCCESS, LOAD_TIME, CacheStats

from cachebox._platform.awaitables import is_async, lookup_to_await, refuse_awaitable
from cachebox._store.options import check_failures


cdef extern from "_platform/results.h":
    bint is_awaitable "cb_is_awaitable"(PyObject* value) noexcept


cdef object nothing = <object>NOTHING
NOTHING_LOADED = nothing
"""Stands for "no value"."""


cdef class Loader:

    def __init__(self, given, CacheStats statistics not None, str name="loader"):
        self.given = given
        self.statistics = statistics
        if is_source(given):
            self.one = lookup_in(given)
            self.many = getattr(given, "get_many", None)
        else:
            self.one = getattr(given, "load", None)
            self.many = getattr(given, "load_many", None) if self.one is not None else None
        if self.one is None:
            self.one = given
        if not callable(self.one):
            raise TypeError(
                f"{name} must be callable, a mapping or a cache, or have a method `load`, not {type(given).__name__}"
            )
        if self.many is not None and not callable(self.many):
            raise TypeError(f"{name}.load_many must be callable, not {type(self.many).__name__}")
        self.is_async = is_async(self.one) or is_async(self.many)

    def __call__(self, key):
        """Load one key. Returns its value, or NOTHING."""
        self.refuse_to_wait("aget")
        began = perf_counter_ns()
        try:
            value = self.one(key)
            self.refuse_awaitable(value)
        except KeyError:
            self.count(False, began)
            return nothing
        except:
            self.count(False, began)
            raise
        self.count(True, began)
        return value

    def load_many(self, list keys):
        """Load many keys. Returns a dict of those that have a value."""
        self.refuse_to_wait("aget_many")
        began = perf_counter_ns()
        try:
            values = self.many(keys)
            self.refuse_awaitable(values)
            if not hasattr(values, "keys"):
                raise TypeError(f"load_many must return a dict, not {type(values).__name__}")
        except KeyError:                        # of an unknown key: find out which by loading each
            self.count(False, began)
            values = {key: self(key) for key in keys}
            return {key: value for key, value in values.items() if value is not nothing}
        except:
            self.count(False, began)
            raise
        self.count(True, began)
        return values

    def refuse_to_wait(self, instead):
        """Raise TypeError if the loader is async, because the caller is not."""
        if self.is_async:
            raise TypeError(f"the loader is async, so what is missing has to be awaited: await cache.{instead}(...)")

    def refuse_awaitable(self, value):
        """Raise TypeError if a plain loader returned an awaitable."""
        if is_awaitable(<PyObject*>value):
            refuse_awaitable("loader", value)

    def note(self, bint succeeded, began):
        """Count a call of the loader that began at `began` (`perf_counter_ns`)."""
        self.count(succeeded, began)

    def is_nothing(self, value):
        """Whether a value stands for "no value"."""
        return value is nothing

    cdef int count(self, bint succeeded, object began) except -1:
        cdef long long took = perf_counter_ns() - began
        acquire(&self.statistics.shared_lock.lock)
        self.statistics.counts[LOAD_SUCCESS if succeeded else LOAD_FAILURE] += 1
        self.statistics.counts[LOAD_TIME] += took
        release(&self.statistics.shared_lock.lock)
        return 0


def is_source(given):
    """Whether keys are looked up in it: it is a mapping, or a cache of any kind, whose `load` reads files."""
    if hasattr(given, "get_or_set") and hasattr(given, "get"):
        return True
    return isinstance(given, Mapping) and not hasattr(given, "load")


def lookup_in(given):
    """A loader that looks keys up in a mapping or a cache. `__missing__` is not called."""
    get = given.get

    def look(key):
        value = get(key, nothing)
        if value is nothing:
            raise KeyError(key)
        return value

    return lookup_to_await(get, nothing) if is_async(get) else look


cdef int load_all(Store store, Loader loader, list keys, dict found, list left) except -1:
    """Load different keys that the fast path did not find, together. Each counts a miss.

    Puts values into `found`. Keys that must still be loaded one by one are put into `left`: another caller's load of
    them was interrupted, or a wait for it would be circular.
    """
    cdef Joined joined
    cdef Leader leader
    cdef Flight flight
    cdef list leads = [], waits = []
    cdef double weight, lifetime
    cdef uint64_t h
    cdef int state
    loader.refuse_to_wait("aget_many")
    failure = None
    for key in keys:
        h = mixed(store.table, hash_of(<PyObject*>key))
        leader = new_leader(store)              # if it is dropped, it ends its flight
        joined.counted = False
        flight = join_or_lead(store, key, h, leader, &joined)
        if joined.value != NULL:
            found[key] = store.copy_of(take_over(joined.value))
        elif flight is not None:
            waits.append((key, flight))
        else:
            leads.append((key, leader))
    if leads:
        try:
            values = loader.load_many([key for key, _ in leads])
            for key, _ in leads:
                if key in values:
                    found[key] = values[key]
        except BaseException as error:
            for _, leader in leads:
                fail(store, leader, error)
            raise
    for key, leader in leads:
        h = mixed(store.table, hash_of(<PyObject*>key))
        try:
            value = found.get(key, nothing)
            weight = 0.0
            lifetime = store.lifetime
            if value is not nothing:
                value = store.copy_of(value)
                weight = store.weigh(key, value)
                lifetime = store.lifetime_for(lifetime, key, value)
            if value is nothing and store.failures is not None and store.failures.remember(key, KeyError(key)):
                if not still_leads(store, leader):
                    store.failures.forget(key)
            complete(
                store, key, h, leader, value, lifetime, weight,
                value is not nothing and weight <= store.bound_weight, None, 0,
            )
        except BaseException as error:
            fail(store, leader, error)
            failure = error if failure is None else failure
    if failure is not None:
        raise failure
    for key, flight in waits:
        state = flight.wait()
        if state == PENDING or state == ABANDONED:
            left.append(key)
        else:
            value = flight.outcome()
            if value is not nothing:
                found[key] = value
    return 0


cdef int check_loading(dict options) except -1:
    """Check the options that concern loading."""
    for name in ("refresh_ahead", "stale_ttl"):
        if options.get(name) is not None and options.get("loader") is None:
            raise ValueError(f"{name} needs loader: what is to refresh the values?")
    if options.get("loader") is not None:
        Loader(options["loader"], CacheStats())
    check_refreshing(options)
    check_failures(options.get("cache_exceptions", ()), options.get("exception_ttl"))
    return 0


def check_refreshing(options):
    """Check `refresh_ahead` and `stale_ttl`. Raises TypeError or ValueError if they make no sense."""
    given = options.get("refresh_ahead")
    if given is not None:
        if isinstance(given, bool) or not hasattr(type(given), "__float__"):
            raise TypeError(f"refresh_ahead must be a number or None, not {type(given).__name__}")
        if not 0.0 < number_of(given, "refresh_ahead", "a number") < 1.0:
            raise ValueError(f"refresh_ahead must be greater than 0 and less than 1, not {given!r}")
    lifetime_of(options.get("stale_ttl"), "stale_ttl")
