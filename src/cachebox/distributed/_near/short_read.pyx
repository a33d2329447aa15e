"""A read of the second tier of a folder in few instructions: of one key, without tags, of a file that is open.

What is not so simple is left to the long way (`_ops`), which begins anew.
"""

from cpython.object cimport PyObject
from libc.math cimport INFINITY
from libc.stdint cimport int64_t, uint8_t, uint64_t

from cachebox.cache cimport hash_in
from cachebox.distributed._embedded.noted cimport Noted, note
from cachebox.distributed._embedded.page cimport Page, hash_key, load, load8, store8
from cachebox.distributed._near.near_cache cimport LAG, Tier, exact_get

from time import time_ns
from zlib import crc32

from cachebox.cache import MISSING
from cachebox.distributed._embedded.database import NEVER
from cachebox.distributed._embedded.store import FIND

cdef extern from *:
    """
    #define CB_TAKE_READ(reference) ((PyObject *)(reference))
    """
    object take_over "CB_TAKE_READ"(PyObject*)


ABSENT = object()
"""There is no such entry; it has been counted."""

cdef int64_t never = NEVER
cdef uint8_t TAGGED_OR_KEPT = 2 | 16         # flags of an envelope


def short_read(Tier tier not None, store, codec, key):
    """The value of a key, from either tier, counted, and kept here; ABSENT; or MISSING: the long way has to find out."""
    cdef Page page = tier.page
    cdef uint64_t h, count
    cdef uint8_t* visited
    cdef int64_t numbers[3]
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
    h = hash_key(page, key)
    count = load(&page.bucket_of(h).count)
    idle = database._idle
    try:
        reader = (<list>idle).pop()
    except IndexError:
        return MISSING
    try:
        row = reader.execute(FIND, (<int64_t>h,)).fetchone()
    except Exception:
        database.drop(reader)
        return MISSING
    (<list>idle).append(reader)
    if row is None:
        with tier.lock:
            tier.misses += 1
            tier.invalidations += tier.first.delete(key)
        return ABSENT
    name, g, e, found_sum, data = <tuple>row
    encoded = (<str>key).encode("utf-8", "surrogatepass")
    envelope = data
    if name != encoded or len(data) < 21 or envelope[4] & TAGGED_OR_KEPT:
        return MISSING
    numbers[0], numbers[1], numbers[2] = g, e, len(name)
    if found_sum != crc32(data, crc32(name, crc32((<uint8_t*>numbers)[:24]))):
        return MISSING
    if numbers[1] < never:
        lifetime = (numbers[1] - <int64_t>(time_ns() // 1000000)) / 1000.0
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
        if lifetime > 0 and not count & 1 and load(&page.bucket_of(h).count) == count and tier.page is page:
            noted = note(page, value, h, count, ())
            if tier.tags:
                tier.tags.pop(key, None)
            tier.first.set_long(key, hash_in(tier.first, key), noted, lifetime)
    return value
