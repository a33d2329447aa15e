"""A read of the second tier of a folder in few instructions: of one key, without tags, of a file that is open.

What is not so simple is left to the long way (`_ops`), which begins anew.
"""

from cpython.object cimport PyObject
from cpython.unicode cimport PyUnicode_AsUTF8AndSize
from libc.math cimport INFINITY
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcmp

from cachebox._engine.table cimport take_over
from cachebox._store.state cimport hash_in
from cachebox.distributed._embedded.noted cimport Noted, note
from cachebox.distributed._embedded.page cimport Page, load, load8, start_of, store8
from cachebox.distributed._near.near_cache cimport LAG, Tier, exact_get

from time import time_ns
from zlib import crc32

from cachebox.cache import MISSING
from cachebox.distributed._embedded.database import NEVER
from cachebox.distributed._embedded.store import FIND_ANY

cdef extern from *:
    bint PyUnicode_IS_COMPACT_ASCII(PyObject*) noexcept


ABSENT = object()
"""There is no such entry; it has been counted."""

cdef int64_t never = NEVER
cdef uint8_t TAGGED_OR_KEPT = 2 | 16         # flags of an envelope


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
        row = reader.execute(FIND_ANY, (<int64_t>h,)).fetchone()
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
