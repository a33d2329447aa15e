"""The fast path of a cache on a folder: entries without tags, in an open file, if there is nothing to wait for.

Each method reports what it has not done. The operations (`_ops`) then do that from the start.

The order is that of every read (`_embedded/store`): note the key's counter, read its row, compare the counter. A value
whose counter has changed is not believed, nor is a row that was changed or damaged.
"""

from cpython.bytearray cimport PyByteArray_FromStringAndSize
from cpython.mem cimport PyMem_Free, PyMem_Malloc
from cpython.object cimport PyObject
from cpython.unicode cimport PyUnicode_AsUTF8AndSize
from libc.math cimport INFINITY
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcmp

from cachebox._engine.table cimport take_over
from cachebox._store.state cimport hash_in
from cachebox._store.writes cimport set_slow
from cachebox.distributed._embedded.noted cimport note
from cachebox.distributed._embedded.page cimport (
    CLEAN, Page, begin_change, end_change, is_unlinked, load, mark_used, start_of,
)
from cachebox.distributed._near.hits cimport exact_get
from cachebox.distributed._near.near_cache cimport LAG, Tier

from sqlite3 import Error as SQLiteError
from time import time_ns
from zlib import crc32

from cachebox.cache import MISSING
from cachebox.distributed._embedded.database import NEVER
from cachebox.distributed._embedded.rows import FIND_ANY, HALF, KIND_AND_FLAGS, PUT, START, envelope_of
from cachebox.distributed._embedded.writer_lock import Busy
from cachebox.distributed._near.hits import ABSENT
from cachebox.distributed._wire.codec import Json
from cachebox.distributed._wire.plain import is_plain

cdef extern from *:
    bint PyUnicode_IS_COMPACT_ASCII(PyObject*) noexcept

cdef enum:
    AT_ONCE = 256                   # keys of one SELECT
    LARGEST = 65536                 # the largest value, in bytes, that is written here

cdef int64_t never = NEVER
cdef int64_t half = HALF
cdef int kind_at = len(START)                   # in an envelope
cdef int payload_at = KIND_AND_FLAGS            # in a row's body
cdef uint8_t TAGGED_OR_KEPT = 2 | 16            # flags of an envelope
cdef object find_some = {}                      # number of keys: the SELECT for them


cdef struct Wanted:
    uint64_t h
    uint64_t count


cdef class FolderFastPath:
    """The fast path of one cache.

    Args:
        core: the cache's operations, over a folder.
    """
    cdef object core, store, codec, loads, dumps, pending
    cdef object scan, parts                     # of `Json`, or None
    cdef bytes start                            # of an envelope with nothing optional; None: all are signed
    cdef bint is_binary, never_expires
    cdef Tier tier

    def __init__(self, core):
        codec = core.codec
        self.core = core
        self.store = core.topology.store
        self.codec = codec
        self.pending = core.pending
        self.tier = core.tier
        self.start = codec.plain_start
        self.loads = codec.serializer.loads
        self.scan = codec.serializer.scan if type(codec.serializer) is Json else None
        is_own = self.start is not None and codec.method is None and not codec.is_trusted
        self.dumps = codec.serializer.dumps if is_own else None
        self.parts = codec.serializer.parts if is_own and type(codec.serializer) is Json else None
        self.is_binary = codec.is_binary
        self.never_expires = core.lifetime == INFINITY

    @property
    def absent(self):
        """The result of `get` for an absent key, which has been counted."""
        return ABSENT

    cdef bint is_ready(self, Tier tier) except -1:
        """Whether the fast path may be used."""
        return not (
            tier.page is None or not tier.exact or tier.fresh_until != INFINITY or self.core.is_closed
            or self.pending.exists or self.store.has_own_clock
        )

    # --- reading ------------------------------------------------------------------------------------------------------

    def get(self, key):
        """The value of a key from either tier, counted, and kept in the first; `absent`; or MISSING: not done."""
        cdef Tier tier = self.tier
        cdef Page page = tier.page
        cdef Wanted wanted
        cdef uint64_t generation
        cdef const char* name
        cdef Py_ssize_t size
        cdef PyObject* hit
        cdef double lifetime
        found = self.store._database
        if type(key) is not str or found is None or not self.is_ready(tier):
            return MISSING
        number, database = <tuple>found
        if number != load(&page.head.data):
            return MISSING
        hit = exact_get(<PyObject*>tier, <PyObject*>key, hash_in(tier.first, key))
        if hit != NULL:
            return take_over(hit)
        name = PyUnicode_AsUTF8AndSize(key, &size) if PyUnicode_IS_COMPACT_ASCII(<PyObject*>key) else NULL
        if name == NULL:
            return MISSING
        wanted.h = page.hash_bytes(<const uint8_t*>name, size)
        wanted.count = load(&page.bucket_of(wanted.h).count)
        generation = load(&page.head.generation)
        row = select(database, FIND_ANY, (<int64_t>wanted.h,), True)
        if row is MISSING or not is_believed(page, &wanted, generation):
            return MISSING
        if row is None or is_older(row[1], generation):
            tier.lock.enter()
            try:
                tier.misses += 1
                tier.invalidations += tier.first.delete(key)
                tier.publish()
            finally:
                tier.lock.leave()
            return ABSENT
        value = self.value_of(page, key, name, size, wanted.h, <tuple>row, 0, &lifetime)
        if value is MISSING:
            return MISSING
        tier.lock.enter()
        try:
            tier.remote_hits += 1
            tier.invalidations += tier.first.peek(key, MISSING) is not MISSING      # and was not current
            self.keep(tier, page, key, value, &wanted, lifetime)
            tier.publish()
        finally:
            tier.lock.leave()
        return value

    def get_many(self, keys, dict values not None):
        """Add the values that the folder has for some different keys to `values`, and keep them in the first tier.

        Returns the keys that the operations have to look up, and how many values and absences were found.
        """
        cdef Tier tier = self.tier
        cdef Page page = tier.page
        cdef Wanted* wanted
        cdef list left = []
        cdef Py_ssize_t start, hits = 0, misses = 0
        found = self.store._database
        if found is None or not self.is_ready(tier):
            return list(keys), 0, 0
        number, database = <tuple>found
        if number != load(&page.head.data):
            return list(keys), 0, 0
        wanted = <Wanted*>PyMem_Malloc(AT_ONCE * sizeof(Wanted))
        if wanted == NULL:
            raise MemoryError()
        try:
            keys = list(keys)
            for start in range(0, len(keys), AT_ONCE):
                some = keys[start:start + AT_ONCE]
                present, absent = self.get_some(tier, page, database, some, wanted, values, left)
                hits += present
                misses += absent
        finally:
            PyMem_Free(wanted)
        return left, hits, misses

    cdef tuple get_some(
        self, Tier tier, Page page, object database, list keys, Wanted* wanted, dict values, list left
    ):
        cdef Py_ssize_t i, size, n = len(keys), misses = 0
        cdef uint64_t generation
        cdef const char* name
        cdef double lifetime
        cdef dict at = {}                       # hash: index of its key
        cdef list hashes = []
        cdef list kept = []
        for i in range(n):
            key = keys[i]
            name = NULL
            if type(key) is str and PyUnicode_IS_COMPACT_ASCII(<PyObject*>key):
                name = PyUnicode_AsUTF8AndSize(key, &size)
            if name == NULL:
                left.append(key)
                continue
            wanted[i].h = page.hash_bytes(<const uint8_t*>name, size)
            wanted[i].count = load(&page.bucket_of(wanted[i].h).count)
            h = <int64_t>wanted[i].h
            if h in at:
                left.append(key)
                continue
            at[h] = i
            hashes.append(h)
        if not hashes:
            return 0, 0
        generation = load(&page.head.generation)
        rows = select(database, query_of(hashes), hashes, False)
        if rows is MISSING:
            left += [keys[i] for i in at.values()]
            return 0, 0
        for row in <list>rows:
            i = at.pop((<tuple>row)[0])
            key = keys[i]
            value = MISSING
            if is_believed(page, &wanted[i], generation):
                if is_older((<tuple>row)[2], generation):
                    at[(<tuple>row)[0]] = i     # of an older generation: absent
                    continue
                name = PyUnicode_AsUTF8AndSize(key, &size)
                value = self.value_of(page, key, name, size, wanted[i].h, <tuple>row, 1, &lifetime)
            if value is MISSING:
                left.append(key)
            else:
                kept.append((i, value, lifetime))
        with tier.lock:
            for i in at.values():
                if is_believed(page, &wanted[i], generation):
                    misses += 1
                    tier.first.delete(keys[i])
                else:
                    left.append(keys[i])
            for i, value, lifetime in kept:
                self.keep(tier, page, keys[i], value, &wanted[i], lifetime)
                values[keys[i]] = value
        return len(kept), misses

    cdef object value_of(
        self, Page page, object key, const char* name, Py_ssize_t size, uint64_t h, tuple row, int at,
        double* lifetime
    ):
        """The value of a row of the present generation, whose columns begin at `at`; or MISSING. Marks it as used."""
        cdef bytes named, data
        cdef const uint8_t* body
        cdef int64_t stamp, end
        if (
            type(row[at]) is not bytes or type(row[at + 1]) is not int or type(row[at + 2]) is not int
            or type(row[at + 3]) is not int or type(row[at + 4]) is not bytes
        ):
            return MISSING                      # damaged
        named, data = <bytes>row[at], <bytes>row[at + 4]
        stamp, end = row[at + 1], row[at + 2]
        body = data
        if end == 0:
            end = never
        if (
            len(named) != size or memcmp(<const char*>named, name, size) != 0 or len(data) < payload_at
            or body[1] & TAGGED_OR_KEPT
            or <int64_t>row[at + 3] != <int64_t><uint32_t>crc32(data, start_of(h, stamp, end)) - half
        ):
            return MISSING
        lifetime[0] = INFINITY
        if end < never:
            lifetime[0] = (end - <int64_t>(time_ns() // 1000000)) / 1000.0
            if lifetime[0] <= 0:
                return MISSING
            lifetime[0] -= LAG
        try:
            if self.start is not None and memcmp(body, <const char*>self.start + kind_at, payload_at) == 0:
                value = self.loaded(data)
            else:
                kind, payload, _ = self.codec.open(key, envelope_of(data, stamp))
                value = self.codec.loads(kind, payload)
        except Exception:                       # the operations report the error
            return MISSING
        mark_used(page.visited_at(h))
        return value

    cdef object loaded(self, bytes data):
        """What `loads` returns for the payload of a body."""
        if self.scan is not None:
            text = (<const char*>data)[payload_at:len(data)].decode("utf-8", "surrogatepass")
            try:
                value, end = self.scan(text, 0)
                if end == len(text):
                    return value
            except StopIteration:
                pass
        return self.loads(data[payload_at:])

    cdef int keep(
        self, Tier tier, Page page, object key, object value, const Wanted* wanted, double lifetime
    ) except -1:
        """Store a value in the first tier, unless it has changed since it was read. Needs the tier's lock."""
        if lifetime > 0 and load(&page.bucket_of(wanted.h).count) == wanted.count and tier.page is page:
            noted = note(page, value, wanted.h, wanted.count, ())
            if tier.tags:
                tier.tags.pop(key, None)
            set_slow(tier.first, key, hash_in(tier.first, key), noted, lifetime)
        return 0

    # --- writing ------------------------------------------------------------------------------------------------------

    def set(self, key, value, ttl):
        """Store a value. Returns False if nothing was done. Raises what the cache's `set` raises for bad input."""
        cdef int64_t end = never
        cdef Tier tier = self.tier
        store, core = self.store, self.core
        if core.is_closed or self.pending.exists or type(key) is not str or store.is_durable:
            return False
        if ttl is None and self.never_expires:
            head, body = self.encoded(key, value)
        else:
            lifetime = core.lifetime_of(ttl)
            kept = core.kept_of(lifetime)
            head, body = self.codec.encode(key, value, (), None, kept)
            end = store.deadline_after(core.expiry(lifetime, kept))
        opened, found = store._opened, store._database
        if opened is None or found is None or len(body) > LARGEST:
            return False
        name = key.encode("utf-8", "surrogatepass")
        try:
            if not opened.lock.run(lambda: put(store, opened, found, name, head, body, end), 0.0):
                return False
        except (Busy, OSError, SQLiteError, UnicodeDecodeError):
            return False
        tier.lock.enter()
        try:
            tier.forget(key)
        finally:
            tier.lock.leave()
        return True

    cdef tuple encoded(self, object key, object value):
        """What `Codec.encode` returns for a value without tags."""
        if self.dumps is not None and type(value) is not int:
            try:
                if is_plain(value, self.is_binary):
                    if self.parts is not None:
                        return self.start, (<str>"".join(self.parts(value, 0))).encode("utf-8", "surrogatepass")
                    return self.start, self.dumps(value)
            except Exception:                   # `encode` reports the error
                pass
        return self.codec.encode(key, value)


cdef bint put(
    object store, object opened, object found, bytes name, bytes head, bytes body, int64_t end
) except -1:
    """Write one row, under the writer lock. Returns False if the page needs attention first."""
    cdef Page page = opened.page
    cdef uint64_t h, stamp, generation = load(&page.head.generation)
    cdef int64_t left = page.head.budget - len(body) - len(name) - 256, total
    number, database = <tuple>found
    if (
        left < 0 or store._database is not found or load(&page.head.data) != number or not generation
        or page.dirty or page.head.leases or page.head.state & CLEAN or not store._has_written
        or store._opened is not opened or is_unlinked(opened.page_fd)
    ):
        return False
    writer, execute = database._writer, database._execute
    if writer is None or execute is None:
        return False
    stored = blob(head[kind_at:] + body)
    h = page.hash_bytes(<const uint8_t*>name, len(name))
    stamp = generation << 32 | <uint32_t>(time_ns() // 1000000000)
    total = <int64_t><uint32_t>crc32(stored, start_of(h, stamp, <uint64_t>end)) - half
    begin_change(page, h)
    try:
        execute(PUT, (<int64_t>h, blob(name), <int64_t>stamp, end if end < never else 0, total, stored))
    finally:
        if not writer.in_transaction:
            end_change(page, h)                 # it was done, or undone
    page.head.budget = left
    return True


cdef bytearray blob(bytes data):
    """Bytes as `sqlite3` binds them at once: of everything but a bytearray it first asks whether it can be adapted."""
    return PyByteArray_FromStringAndSize(data, len(data))


cdef bint is_believed(Page page, const Wanted* wanted, uint64_t generation) noexcept:
    """Whether a row just read is what stood there since the counter was noted."""
    return (
        not wanted.count & 1 and generation != 0 and load(&page.bucket_of(wanted.h).count) == wanted.count
    )


cdef bint is_older(object stamp, uint64_t generation) except -1:
    """Whether a row is of an older generation, or damaged so that it looks so."""
    return type(stamp) is int and <uint64_t><int64_t>stamp >> 32 != generation


cdef object query_of(list hashes):
    """The SELECT of some keys. Pads the list to the next power of two, so that there are few different SELECTs."""
    cdef Py_ssize_t n = 1
    while n < len(hashes):
        n *= 2
    hashes += [hashes[0]] * (n - len(hashes))
    query = find_some.get(n)
    if query is None:
        query = find_some[n] = f"SELECT h, k, g, x, c, b FROM e WHERE h IN ({','.join('?' * n)})"
    return query


cdef object select(object database, object query, object parameters, bint one):
    """The rows that a reader finds, as a list; with `one`, the first row or None. MISSING: not done."""
    cdef list idle = <list>database._idle
    try:
        reader = idle.pop()
    except IndexError:
        return MISSING
    try:
        cursor = reader.execute(query, parameters)
        rows = next(cursor, None) if one else cursor.fetchall()
    except Exception:
        database.drop(reader)
        return MISSING
    idle.append(reader)
    return rows
