"""Hits of the first tier, in few instructions. Everything less simple is left to the operations (`_ops`)."""

from cpython.object cimport PyObject, PyTypeObject
from libc.math cimport INFINITY
from libc.stdint cimport uint32_t, uint64_t

from cachebox._engine.table cimport UNCERTAIN, Table, decref, incref, lookup, on_hit, take_over
from cachebox._loading.fast_path cimport (
    find_at_once, is_plain_hit, knows_hash, likely, mixed_in, try_get, try_hit, search_and_use, take_hit,
)
from cachebox._platform.clock cimport coarse_now
from cachebox._platform.lock cimport release
from cachebox._platform.method_slot cimport Method, copy_to_subclass, replace_method
from cachebox._store.store cimport Store
from cachebox._store.state cimport hash_in
from cachebox.cache cimport Cache
from cachebox.distributed._embedded.noted cimport Noted, is_current, is_noted, mark
from cachebox.distributed._near.near_cache cimport Tier
from cachebox.stats cimport HITS

from cachebox.cache import MISSING

cdef extern from *:
    bint is_exact_str "PyUnicode_CheckExact"(PyObject*) noexcept


cdef PyObject* exact_get(PyObject* tier, PyObject* key, uint64_t h) noexcept:
    """A hit in a first tier that follows a page: a new reference to the value. NULL: no hit, or not a simple one."""
    cdef PyObject* first = <PyObject*>(<Tier>tier).first
    cdef Table* t = (<Store>first).table
    cdef PyObject* noted
    cdef PyObject* value = NULL
    cdef uint32_t i
    if not find_at_once(first, key, h, &i):         # `find_at_once` has taken the lock
        i = lookup(t, key, h)
    if likely(i != 0 and i != UNCERTAIN and (<Tier>tier).fresh_until == INFINITY):
        noted = t.entries[i].value
        if likely(noted != NULL and is_noted(noted) and is_current(noted)):
            if likely(is_plain_hit(first, i)):
                (<Store>first).counts[HITS] += 1
                on_hit(<PyObject*>(<Store>first).engine, i)
            elif not ends_not(first, i):
                noted = NULL
            if noted != NULL:
                mark(noted)
                value = <PyObject*>(<Noted>noted).value
                incref(value)
    release((<Store>first).lock)
    return value


cdef bint ends_not(PyObject* first, uint32_t i) noexcept:
    """Count a hit on an entry that may have expired. Returns whether it has not."""
    cdef PyObject* noted = try_hit(first, i)
    if noted != NULL:
        decref(noted)                               # the entry has another reference
    return noted != NULL


cdef Tier NOTHING = Tier(Cache(1))
ABSENT = object()                               # what a fast path returns for an absent key, which has been counted


cdef class NearCacheBase:
    """The base of both caches: a hit in the first tier runs no Python code."""
    cdef Tier tier
    cdef object __weakref__

    def __cinit__(self, *args, **kwargs):
        self.tier = NOTHING                     # a subclass may forget to call __init__

    @property
    def _tier(self):
        return self.tier

    @_tier.setter
    def _tier(self, Tier tier not None):
        self.tier = tier

    def _quick(self, key, default):
        """The value of a key that can be served at once, else `default`."""
        cdef PyObject* value
        if not is_exact_str(<PyObject*>key):
            return default
        if self.tier.exact:
            value = exact_get(<PyObject*>self.tier, <PyObject*>key, hash_in(self.tier.first, key))
            if value != NULL:
                return take_over(value)
        elif self.tier.returns_stored and coarse_now() < self.tier.fresh_until:
            value = try_get(<PyObject*>self.tier.first, <PyObject*>key, hash_in(self.tier.first, key))
            if value != NULL:
                return take_over(value)
        return default


cdef class BlockingNearCacheBase(NearCacheBase):

    def get(self, key, default=None):
        """The value of `key`, from the first tier or else from the server; `default` if neither has it.

        Counts one local hit, remote hit, stale serve or miss. O(1); one round trip if the first tier cannot answer.
        Raises TypeError for a key that is not a str; BackendUnavailable if the server cannot be reached and
        ``on_unavailable="raise"``.
        """
        fast_path = self._core.fast_path
        if fast_path is not None:               # here, because a frame of Python costs as much as a tenth of the rest
            value = fast_path.get(key)
            if value is ABSENT:
                return default
            if value is not MISSING:
                return value
        return self._get(key, default)


def with_own_get(cls):
    """Decorate a subclass of `BlockingNearCacheBase`: hits cost a quarter less if the method is the class's own."""
    copy_to_subclass(cls, b"get")
    return cls


# --- what the interpreter calls for a get -----------------------------------------------------------------------------

cdef PyObject* call_get(PyObject* self, PyObject** args, Py_ssize_t n, PyObject* names) except NULL:
    """Replaces `BlockingNearCacheBase.get` in its method slot: a hit that can be served at once."""
    cdef PyObject* tier = <PyObject*>(<NearCacheBase>self).tier         # cast there and back, to take no reference
    cdef PyObject* first
    cdef PyObject* value
    cdef Py_hash_t hashed
    cdef uint64_t h
    cdef uint32_t i
    cdef bint compared
    if likely(
        names == NULL and 1 <= n <= 2 and is_exact_str(args[0]) and knows_hash(args[0], &hashed)
        and (<Tier>tier).returns_stored and coarse_now() < (<Tier>tier).fresh_until
    ):
        first = <PyObject*>(<Tier>tier).first
        h = mixed_in(first, hashed)
        if likely(find_at_once(first, args[0], h, &i) and is_plain_hit(first, i)):
            return take_hit(first, i)
        value = search_and_use(first, args[0], h, i, &compared)
        if value != NULL:
            return value
    elif (<Tier>tier).exact and names == NULL and 1 <= n <= 2 and is_exact_str(args[0]) and knows_hash(args[0], &hashed):
        value = exact_get(tier, args[0], mixed_in(<PyObject*>(<Tier>tier).first, hashed))
        if value != NULL:
            return value
    return compiled_get(self, args, n, names)


cdef Method compiled_get = replace_method(<PyTypeObject*>BlockingNearCacheBase, "get", call_get)
