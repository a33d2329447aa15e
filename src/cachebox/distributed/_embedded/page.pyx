"""The page: counters that all processes of a folder map into their memory. Nothing here waits, except `wait_on`.

Each of 65,536 ranges of the hash has a counter. A writer makes the counters of its keys odd before it changes anything,
and even when the outcome is decided. A reader that noted an even counter before its read, and finds the same number
later, knows that nothing has changed. A byte next to the counter says which of its keys were used.
"""

from cpython.buffer cimport PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.unicode cimport PyUnicode_AsUTF8AndSize
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

from zlib import crc32

cdef enum:
    HEAD_SIZE = 4096
    PLACES = 1024
    LOSSY = 2                       # a crash of the machine may lose writes

START = 64
"""The bytes of a page that tell its version."""
PROCESSES = PLACES
"""How many processes the page tells apart; more than that can use a folder."""
VERSION = 3
SIZE = HEAD_SIZE + 8 * PLACES + 32 * BUCKETS
"""Size of the file in bytes."""

cdef uint64_t MAGIC = 0x0000036761507843    # "CxPag", and the version

cdef extern from "distributed/_embedded/page.h" nogil:
    uint64_t siphash "cb_siphash"(const uint8_t* secret, const uint8_t* data, size_t size)
    size_t count_whole "cb_whole_frames"(const uint8_t* log, size_t size, size_t at, uint32_t* sums)
    const char* remote_files "cb_remote_files"(int fd)


cdef class Page:
    """A mapping of the file. Thread-safe; every change needs the writer lock, except `mark`."""

    def __init__(self, mapping):
        cdef Py_buffer view
        if len(mapping) != SIZE or sizeof(Bucket) != 32 or sizeof(Head) > HEAD_SIZE:
            raise ValueError(f"the page must have {SIZE} bytes, not {len(mapping)}")
        PyObject_GetBuffer(mapping, &view, PyBUF_WRITABLE)
        self.base = <uint8_t*>view.buf
        PyBuffer_Release(&view)                 # nobody closes or moves a mapping that can be reached
        self.mapping = mapping
        self.head = <Head*>self.base
        self.incarnations = <uint64_t*>(self.base + HEAD_SIZE)
        self.buckets = <Bucket*>(self.base + HEAD_SIZE + 8 * PLACES)

    # --- the head -----------------------------------------------------------------------------------------------------

    def begin(self, bytes secret not None, bytes boot not None):
        """Initialise the page of a new folder without entries."""
        cdef const uint8_t* found = secret
        memset(self.base, 0, SIZE)
        self.head.magic = MAGIC
        memcpy(self.head.secret, found, 16)
        found = boot
        memcpy(self.head.boot, found, 16)
        self.head.is_new = True
        self.seal(0)

    cdef int set_flag(self, uint32_t flag, bint value) except -1:
        cdef uint32_t flags = <uint32_t>load(&self.head.state)
        return self.seal(flags | flag if value else flags & ~flag)

    cdef int seal(self, uint32_t flags) except -1:
        cdef uint64_t total = sum_of(self.base[:START], flags)
        store(&self.head.state, total << 32 | flags)
        return 0

    @property
    def data(self):
        """The number in the name of the file with the entries; 0: there is none."""
        return load(&self.head.data)

    @data.setter
    def data(self, uint64_t value):
        store(&self.head.data, value)

    @property
    def boot(self):
        """The machine's boot id when the folder was last opened: 16 bytes."""
        return self.head.boot[:16]

    @boot.setter
    def boot(self, bytes value not None):
        cdef const uint8_t* found = value
        memcpy(self.head.boot, found, 16)
        self.set_flag(0, False)

    @property
    def clean(self):
        """Whether the folder was closed, and nothing was written since."""
        return self.head.state & CLEAN != 0

    @clean.setter
    def clean(self, bint value):
        self.set_flag(CLEAN, value)

    @property
    def lossy(self):
        """Whether a crash of the machine may lose some of the writes."""
        return self.head.state & LOSSY != 0

    @lossy.setter
    def lossy(self, bint value):
        self.set_flag(LOSSY, value)

    @property
    def is_new(self):
        """Whether the process that opens it first has not finished looking it over."""
        return load32(&self.head.is_new) != 0

    @is_new.setter
    def is_new(self, bint value):
        store32(&self.head.is_new, value)

    def restart(self, bint keeps_buckets=False):
        """Reset everything that has no checksum, except the totals. Only while no other process maps the page.

        `keeps_buckets`: keep the counters and the marks of used keys.
        """
        cdef Head before = self.head[0]
        memset(&self.head.dirty, 0, HEAD_SIZE - 64)
        self.head.local_hits, self.head.remote_hits, self.head.misses = before.local_hits, before.remote_hits, before.misses
        if not keeps_buckets:
            memset(self.buckets, 0, 32 * BUCKETS)
        self.head.leases = 1

    # --- hashes -------------------------------------------------------------------------------------------------------

    cdef uint64_t hash_bytes(self, const uint8_t* data, Py_ssize_t size) noexcept:
        return siphash(self.head.secret, data, size)

    def hash_of(self, bytes data not None):
        """The hash of a key in UTF-8, as a signed number for SQLite."""
        return <int64_t>self.hash_bytes(data, len(data))

    # --- writing ------------------------------------------------------------------------------------------------------

    @property
    def dirty(self):
        """Whether a writer is at work, or has died."""
        return load32(&self.head.dirty) != 0

    def open(self, hashes, bint tags=False):
        """Announce a change of keys with these hashes; None: of all keys. `tags`: entries with tags may change."""
        cdef Py_ssize_t i
        store32(&self.head.dirty, 1)
        if tags:
            make_odd(&self.head.tag_count)
        if hashes is None:
            for i in range(BUCKETS):
                make_odd(&self.buckets[i].count)
            return
        for h in hashes:
            make_odd(&self.bucket_of(<uint64_t><int64_t>h).count)

    def close(self, hashes, bint tags=False):
        """The outcome of the change is decided."""
        cdef Py_ssize_t i
        if hashes is None:
            for i in range(BUCKETS):
                make_even(&self.buckets[i].count)
        else:
            for h in hashes:
                make_even(&self.bucket_of(<uint64_t><int64_t>h).count)
        if tags:
            make_even(&self.head.tag_count)
        store32(&self.head.dirty, 0)

    def is_open(self, int64_t h):
        """Whether a key with that hash is being changed, or its writer has died."""
        return load(&self.bucket_of(<uint64_t>h).count) & 1 != 0

    def changes(self, int64_t h):
        """The counter of a hash."""
        return load(&self.bucket_of(<uint64_t>h).count)

    @property
    def leases(self):
        """Whether there may be leases."""
        return self.head.leases != 0

    @leases.setter
    def leases(self, bint value):
        self.head.leases = value

    @property
    def generation(self):
        """The present generation; 0: unknown. Right for a key whose counter is even before and unchanged after."""
        return load(&self.head.generation)

    @generation.setter
    def generation(self, uint64_t value):
        store(&self.head.generation, value)

    # --- what was used ------------------------------------------------------------------------------------------------

    def mark(self, int64_t h):
        """Record that a key was used."""
        mark_used(self.visited_at(<uint64_t>h))

    def unmark(self, int64_t h):
        """Whether a key was used since the last call; it counts as unused from now on."""
        cdef uint8_t* at = self.visited_at(<uint64_t>h)
        if load8(at) == 0:
            return False
        store8(at, 0)
        return True

    @property
    def hand(self):
        """The hash at which the hand goes on looking for unused entries."""
        return <int64_t>self.head.hand

    @hand.setter
    def hand(self, int64_t value):
        self.head.hand = <uint64_t>value

    @property
    def budget(self):
        """Bytes that may be written before a write checks how full the file is."""
        return self.head.budget

    @budget.setter
    def budget(self, int64_t value):
        self.head.budget = value

    # --- totals -------------------------------------------------------------------------------------------------------

    @property
    def totals(self):
        """How many local hits, remote hits and misses the processes have counted in this folder so far."""
        return load(&self.head.local_hits), load(&self.head.remote_hits), load(&self.head.misses)

    # --- processes ----------------------------------------------------------------------------------------------------

    def incarnation(self, int place):
        """The incarnation of the process at a place: no other process at that place has had the same number."""
        return load(&self.incarnations[place])

    def occupy(self, int place, uint64_t incarnation):
        """Take a place."""
        store(&self.incarnations[place], incarnation)


cdef uint64_t hash_key(Page page, str key) except? 0:
    """The hash of a key. Raises MemoryError."""
    cdef Py_ssize_t size
    cdef const char* data
    cdef bytes encoded
    try:
        data = PyUnicode_AsUTF8AndSize(key, &size)
    except UnicodeEncodeError:                  # lone surrogates
        encoded = key.encode("utf-8", "surrogatepass")
        return page.hash_bytes(encoded, len(encoded))
    return page.hash_bytes(<const uint8_t*>data, size)


def version_of(bytes start not None):
    """The version of the page that a file begins with; None: it is no page, or it is damaged.

    `start`: its first `START` bytes. What this looks at stands at the same place in all versions.
    """
    cdef const uint8_t* data = start
    cdef const Head* head = <const Head*>data
    if len(start) < START or head.magic & 0xFFFFFFFFFF != MAGIC & 0xFFFFFFFFFF:
        return None
    return head.magic >> 40 if head.state >> 32 == sum_of(start, <uint32_t>head.state) else None


cdef object sum_of(bytes start, uint32_t flags):
    """The checksum of a page's head."""
    return crc32(start[:8] + start[16:48], flags)


def sum_start(int64_t h, int64_t generation, int64_t end):
    """The start value of an entry's checksum."""
    return start_of(<uint64_t>h, <uint64_t>generation, <uint64_t>end)


def whole_frames(bytes log not None, size_t at):
    """How many frames of an SQLite log are complete, and the two checksums of frame `at`, or None. O(size)."""
    cdef uint32_t sums[2]
    cdef size_t n
    sums[0] = sums[1] = 0
    n = count_whole(log, len(log), at, sums)
    return n, (sums[0], sums[1]) if 0 < at <= n else None


def remote_kind(int fd):
    """The name of a file system that other machines may share; None: it is local."""
    cdef const char* found = remote_files(fd)
    return None if found == NULL else found.decode()
