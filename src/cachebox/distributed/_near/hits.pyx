"""Hits of the first tier, and reads of one entry in a folder, in few instructions.

What is not so simple is left to the operations (`_ops`), which begin anew.
"""

from cpython.object cimport PyObject, PyTypeObject
from cpython.unicode cimport PyUnicode_AsUTF8AndSize
from libc.math cimport INFINITY
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcmp

from cachebox._engine.table cimport UNCERTAIN, Table, decref, incref, lookup, note_use
from cachebox._loading.fast_path cimport (
    find_at_once, is_plain_hit, knows_hash, likely, mixed_in, quick_get, quick_use, search_and_use, take_hit,
)
from cachebox._platform.clock cimport coarse_now
from cachebox._platform.lock cimport release
from cachebox._platform.method_slot cimport Method, adopt, stand_in_front
from cachebox._store.store cimport Store
from cachebox.cache cimport Cache, hash_in
from cachebox.distributed._embedded.noted cimport Noted, is_current, is_noted, mark, note
from cachebox.distributed._embedded.page cimport Page, load, load8, start_of, store8
from cachebox.distributed._near.near_cache cimport LAG, Tier
from cachebox.stats cimport HITS

from time import time_ns
from zlib import crc32

from cachebox.cache import MISSING

cdef extern from *:
    """
    #define CB_TAKE_HIT(reference) ((PyObject *)(reference))
    """
    object take_over "CB_TAKE_HIT"(PyObject*)
    bint is_exact_str "PyUnicode_CheckExact"(PyObject*) noexcept
    bint PyUnicode_IS_COMPACT_ASCII(PyObject*) noexcept


cdef PyObject* exact_get(PyObject* tier, PyObject* key, uint64_t h) noexcept:
    """A hit in a first tier that follows a page: a new reference to the value. NULL: it is none, or not so simple."""
    cdef PyObject* first = <PyObject*>(<Tier>tier).first
    cdef Table* t = (<Store>first).table
    cdef PyObject* noted
    cdef PyObject* value = NULL
    cdef uint32_t i
    if not find_at_once(first, key, h, &i):         # it has taken the lock
        i = lookup(t, key, h)
    if likely(i != 0 and i != UNCERTAIN and (<Tier>tier).fresh_until == INFINITY):
        noted = t.entries[i].value
        if likely(noted != NULL and is_noted(noted) and is_current(noted)):
            if likely(is_plain_hit(first, i)):
                (<Store>first).counts[HITS] += 1
                note_use(<PyObject*>(<Store>first).engine, i)
            elif not ends_not(first, i):
                noted = NULL
            if noted != NULL:
                mark(noted)
                value = <PyObject*>(<Noted>noted).value
                incref(value)
    release((<Store>first).lock)
    return value


cdef bint ends_not(PyObject* first, uint32_t i) noexcept:
    """A hit on an entry that may have ended: whether it has not. Counts it."""
    cdef PyObject* noted = quick_use(first, i)
    if noted != NULL:
        decref(noted)                               # the entry has another reference
    return noted != NULL


cdef Tier NOTHING = Tier(Cache(1))


cdef class Front:
    """The base of both caches: a hit in the first tier, without any Python code on its way."""
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
        elif self.tier.plain and coarse_now() < self.tier.fresh_until:
            value = quick_get(<PyObject*>self.tier.first, <PyObject*>key, hash_in(self.tier.first, key))
            if value != NULL:
                return take_over(value)
        return default


cdef class BlockingFront(Front):

    def get(self, key, default=None):
        """The value of `key`, from the first tier or else from the server; `default` where neither has it.

        Counts one local hit, remote hit, stale serve or miss. O(1); one round trip where the first tier cannot tell.
        Raises TypeError for a key that is not a str; BackendUnavailable where the server cannot be reached and
        ``on_unavailable="raise"``.
        """
        return self._get(key, default)


def with_own_get(cls):
    """Decorate a subclass of `BlockingFront`: hits are a quarter cheaper where the method is its own."""
    adopt(cls, b"get")
    return cls


# --- what the interpreter calls for a get -----------------------------------------------------------------------------

cdef PyObject* call_get(PyObject* self, PyObject** args, Py_ssize_t n, PyObject* names) except NULL:
    """Stands in front of `BlockingFront.get`: a hit that can be served at once."""
    cdef PyObject* tier = <PyObject*>(<Front>self).tier         # cast to and fro, to take no reference
    cdef PyObject* first
    cdef PyObject* value
    cdef Py_hash_t hashed
    cdef uint64_t h
    cdef uint32_t i
    cdef bint compared
    if likely(
        names == NULL and 1 <= n <= 2 and is_exact_str(args[0]) and knows_hash(args[0], &hashed)
        and (<Tier>tier).plain and coarse_now() < (<Tier>tier).fresh_until
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


cdef Method compiled_get = stand_in_front(<PyTypeObject*>BlockingFront, "get", call_get)


# --- reads of a folder ------------------------------------------------------------------------------------------------

ABSENT = object()
"""There is no such entry; it has been counted."""

cdef int64_t never
cdef object find_any = None              # the query; None: `never` is not set either
cdef uint8_t TAGGED_OR_KEPT = 2 | 16         # flags of an envelope


cdef int learn() except -1:
    """Import what is known of a folder: it brings SQLite, which caches on a server do not need."""
    global never, find_any
    from cachebox.distributed._embedded.database import NEVER
    from cachebox.distributed._embedded.store import FIND_ANY

    never = NEVER
    find_any = FIND_ANY
    return 0


def short_read(Tier tier not None, store, codec, key):
    """The value of a key, from either tier, counted, and kept here; ABSENT; or MISSING: the long way has to find out."""
    cdef Page page = tier.page
    cdef uint64_t h, count
    cdef uint8_t* visited
    cdef uint64_t generation
    cdef int64_t end, g
    cdef uint32_t found_sum
    cdef list idle
    cdef Py_ssize_t size
    cdef const char* name_here
    cdef bytes data, name
    cdef const uint8_t* envelope
    cdef double lifetime = INFINITY
    cdef Noted noted
    cdef PyObject* value_here
    found = store._database
    if page is None or found is None or not tier.exact or tier.fresh_until != INFINITY or type(key) is not str:
        return MISSING
    number, database = <tuple>found
    if find_any is None:
        learn()
    if number != load(&page.head.data):
        return MISSING
    value_here = exact_get(<PyObject*>tier, <PyObject*>key, hash_in(tier.first, key))
    if value_here != NULL:
        return take_over(value_here)
    name_here = PyUnicode_AsUTF8AndSize(key, &size) if PyUnicode_IS_COMPACT_ASCII(<PyObject*>key) else NULL
    if name_here == NULL:
        return MISSING
    h = page.hash_bytes(<const uint8_t*>name_here, size)
    count = load(&page.bucket_of(h).count)
    generation = load(&page.head.generation)
    idle = <list>database._idle
    try:
        reader = idle.pop()
    except IndexError:
        return MISSING
    try:
        row = reader.execute(find_any, (<int64_t>h,)).fetchone()
    except Exception:
        database.drop(reader)
        return MISSING
    idle.append(reader)
    if count & 1 or generation == 0 or load(&page.bucket_of(h).count) != count:
        return MISSING                          # or the generation may have been another
    if row is not None:
        name, g, e, found_sum, data = <tuple>row
        envelope = data
        end = e
    if row is None or <uint64_t>g != generation:
        with tier.lock:
            tier.misses += 1
            tier.invalidations += tier.first.delete(key)
        return ABSENT
    if (
        len(name) != size or memcmp(<const char*>name, name_here, size) != 0 or len(data) < 21
        or envelope[4] & TAGGED_OR_KEPT
        or found_sum != crc32(data, start_of(h, generation, <uint64_t>end))
    ):
        return MISSING
    if end < never:
        lifetime = (end - <int64_t>(time_ns() // 1000000)) / 1000.0
        if lifetime <= 0:
            return MISSING
        lifetime -= LAG
    try:
        kind, payload, _ = codec.open(key, data)
        value = codec.loads(kind, payload)
    except Exception:
        return MISSING
    visited = page.visited_at(h)
    if load8(visited) == 0:
        store8(visited, 1)
    with tier.lock:
        tier.remote_hits += 1
        tier.invalidations += tier.first.peek(key, MISSING) is not MISSING      # and was not current
        if lifetime > 0 and load(&page.bucket_of(h).count) == count and tier.page is page:
            noted = note(page, value, h, count, ())
            if tier.tags:
                tier.tags.pop(key, None)
            tier.first.set_long(key, hash_in(tier.first, key), noted, lifetime)
    return value
