"""The table of entries: the part that all policies and the layers above share.

One array of entries is addressed by index; one array of slots finds an index by hash. An entry carries two links, so an
order over entries (a list, a chain of lists) costs no allocation and no pointer to follow.

    slots    [ . . w . w w . . w . ]        w = fingerprint | index: the index in the low bits, hash bits above it
                   |   | |     |
    entries  [ 0 | 1 | 2 | 3 | 4 | ... ]    0 is the sentinel of the list, never an entry

Invariants (`Engine._check` verifies them):

- `len(slots)` is a power of two and at least twice `capacity`: linear probing stays short, and every run ends.
- The index of an entry in use stands in exactly one slot; that of a free entry in none.
- No empty slot lies between an entry's home slot and its slot: a removal shifts the rest of the run back.
- The fingerprint alone gives a slot's probe distance, unless `has_long_probes`. So a removal need not read the entries
  of the run, which in a large table would be its slowest part.
- An entry in use owns one reference to its key, and one to its value unless the value is NULL. An entry without a value
  is *reserved*: lookups find it, but the policy does not know it.
- `version` grows with every change to which key stands where.
- While a large table grows, the slots that it will have are filled ahead, a few for each new entry: `Engine.ahead` is a
  second table with the same entries. The index of every entry in use below `ahead.fresh` stands in its slots, too.
  Lookups do not know it. So no insertion pays for all entries.

Nothing here calls Python code or knows about time, threads or statistics. A lookup returns candidates. Comparing keys
that need Python's `==` is the caller's work, because only the caller can release its lock meanwhile.
"""

from cpython.object cimport PyObject, PyTypeObject
from libc.stdint cimport uint32_t, uint64_t


cdef extern from "_platform/portable.h" nogil:
    bint likely "CB_LIKELY"(bint)
    bint unlikely "CB_UNLIKELY"(bint)
    void prefetch "CB_PREFETCH"(const void*)
    uint32_t select_le "cb_select_le"(uint32_t a, uint32_t limit, uint32_t b)


cdef extern from "_engine/slots.h" nogil:
    enum:
        NEAR_BITS "CB_NEAR_BITS"
        FAR "CB_FAR"
    uint32_t match4 "cb_match4"(const uint32_t* slots, uint32_t wanted, uint32_t compared)      # four slots, as a set
    uint32_t movable4 "cb_movable4"(const uint32_t* slots, uint32_t at, uint32_t steps, uint32_t mask)
    uint32_t lowest_bit "cb_lowest_bit"(uint32_t these)
    uint32_t bits_before "cb_bits_before"(uint32_t these, uint32_t others)


cdef extern from "_platform/huge_pages.h" nogil:
    void* allocate_slots "cb_allocate_slots"(size_t, size_t)


cdef extern from "_platform/portable.h" nogil:
    void incref "Py_INCREF"(PyObject*)
    bint may_be_in_a_cycle "PyType_IS_GC"(PyTypeObject*)
    PyTypeObject* type_of "Py_TYPE"(PyObject*)
    void* allocate "PyMem_Malloc"(size_t)
    void* allocate_zeroed "PyMem_Calloc"(size_t, size_t)
    void* reallocate "PyMem_Realloc"(void*, size_t)
    void deallocate "PyMem_Free"(void*)


cdef extern from "_platform/portable.h":
    object take_over "(PyObject *)"(PyObject*)  # a new reference becomes the caller's
    void decref "Py_DECREF"(PyObject*)          # may run any code: never between two steps of a change
    void xdecref "Py_XDECREF"(PyObject*)
    Py_hash_t hash_of "cb_hash"(PyObject* key) except? -1
    int rich_equal "cb_equal"(PyObject* a, PyObject* b) except -1
    int try_equal "cb_equal"(PyObject* a, PyObject* b) noexcept     # -1: an exception is set
    bint is_primitive "cb_is_primitive"(PyObject* key) noexcept nogil
    Py_hash_t primitive_hash "cb_primitive_hash"(PyObject* key) noexcept nogil
    int plain_equal "cb_plain_equal"(PyObject* a, PyObject* b) noexcept nogil
    bint short_equal "cb_short_equal"(PyObject* a, PyObject* b) noexcept nogil


cdef struct Entry:                  # 32 bytes: two to a cache line
    PyObject* key                   # NULL: given back, waiting in the free chain
    PyObject* value                 # NULL: reserved
    uint32_t hash                   # half of the mixed hash: the half that finds a slot
    uint32_t prev                   # towards the next victim
    uint32_t next                   # towards the last victim; in the free chain, the next free index
    uint32_t aux                    # the policy's own


cdef enum Use:                      # what a policy does on a hit, so that the commonest cases cost no call
    IGNORED                         # nothing
    MOVES_TO_BACK                   # the entry moves to the back of the list
    ASKS                            # `on_hit` is called


cdef struct Moves:                  # which entries have moved because a table has shrunk
    uint32_t* pairs                 # from, to; from, to ... (owned)
    uint32_t n                      # of them


cdef enum:
    MISSES_KEPT = 256               # a power of two


cdef struct Tape:                   # where a recording writes down the hashes of requested keys
    uint32_t* hashes                # owned
    uint32_t n                      # of them
    uint32_t room
    uint32_t bound                  # a hash is in the sample if its product with an odd number is at most this
    uint64_t lost                   # requests that found no room
    uint32_t[MISSES_KEPT] missed    # hashes of keys whose miss is written down: storing them is no further request
    Use use                         # the table's `use` before the recording, during which it is ASKS


cdef struct Table:
    Entry* entries
    uint32_t* slots                 # 0: empty
    uint32_t* rests   # by entry: the other half of the hash, of keys that are not primitive; NULL: none yet
    uint64_t seed                   # per process, so that no two processes agree which hashes share a home slot
    uint32_t mask                   # len(slots) - 1; also splits a slot's word into fingerprint and index
    uint32_t bits                   # log2(len(slots))
    uint32_t shift                  # where the home slot begins in a hash; the NEAR_BITS bits above do not belong to it
    uint32_t capacity               # entries 1 .. capacity are allocated
    uint32_t fresh                  # the lowest index never used
    uint32_t looks_at               # the value of `fresh` from which on `reserve` has to look further
    uint32_t free                   # chain of indices given back
    uint32_t used                   # entries in use, reserved ones included
    uint64_t version
    Use use                         # the policy's
    bint has_long_probes            # some probe distance may be too long for the fingerprint to hold
    bint keys_collectable           # some key, once stored, could be part of a reference cycle
    bint values_collectable         # some value, once stored, could be part of a reference cycle


# --- finding -------------------------------------------------------------------------------------------------

cdef inline uint64_t mixed(const Table* t, Py_hash_t hash) noexcept nogil:
    """Mix a Python hash by Fibonacci hashing (Knuth, TAOCP 3, 6.4), then swap the halves.

    Different hashes stay different. The home slot begins NEAR_BITS below the top, so the golden section is in the lower
    57 bits of the factor.
    """
    cdef uint64_t h = (<uint64_t>hash ^ t.seed) * <uint64_t>0x9F3C6EF372FE94F9
    return (h >> 32) | (h << 32)    # the half that finds a slot is now the lower one, which takes no shift to read


cdef inline uint32_t home(const Table* t, uint32_t h) noexcept nogil:
    return (h >> t.shift) & t.mask


cdef inline uint32_t fingerprint(const Table* t, uint32_t h) noexcept nogil:
    """The bits that a slot keeps above an index: the last NEAR_BITS bits of the home slot, and the hash bits below."""
    return h << t.bits


cdef inline uint32_t probe_distance(const Table* t, uint32_t slot, uint32_t word) noexcept nogil:
    """How many steps the slot with this word is from the home slot of its entry."""
    if unlikely(t.has_long_probes):
        return (slot - home(t, t.entries[word & t.mask].hash)) & t.mask
    return (slot - (word >> (32 - NEAR_BITS))) & t.mask & (FAR - 1)


cdef inline bint is_long_probe(const Table* t, uint32_t slot, uint32_t h) noexcept nogil:
    """Whether a slot is so far from the home slot of `h` that the fingerprint cannot hold the distance."""
    return ((slot - home(t, h)) & t.mask) >= FAR


cdef inline uint32_t candidate(const Table* t, uint32_t h, uint32_t* slot) noexcept nogil:
    """The index in the first slot from `slot` on whose fingerprint fits `h`; 0: the run ends. O(1) expected."""
    cdef uint32_t wanted = fingerprint(t, h), at = slot[0], word, empty, fit
    while at + 3 <= t.mask:
        empty = match4(&t.slots[at], 0, 0xFFFFFFFF)
        fit = bits_before(match4(&t.slots[at], wanted, ~t.mask), empty)
        if fit != 0:
            at += lowest_bit(fit)
            slot[0] = at
            return t.slots[at] ^ wanted
        if likely(empty != 0):
            slot[0] = at + lowest_bit(empty)
            return 0
        at += 4
    while True:                     # the last three slots, then the first ones
        at &= t.mask
        word = t.slots[at]
        if word == 0:
            slot[0] = at
            return 0
        if (word ^ wanted) <= t.mask:
            slot[0] = at
            return word ^ wanted
        at += 1


cdef inline uint32_t candidate_nearby(const Table* t, uint32_t h) noexcept nogil:
    """An index in the home slot of `h` or in the next slot, if its fingerprint fits; else more than `t.mask`."""
    cdef uint32_t slot = home(t, h), wanted = fingerprint(t, h)
    return select_le(t.slots[slot] ^ wanted, t.mask, t.slots[(slot + 1) & t.mask] ^ wanted)


cdef bint rest_differs(const Table* t, uint32_t i, uint64_t h) noexcept nogil
cdef uint64_t whole_hash(const Table* t, uint32_t i) noexcept nogil    # as `insert` needs it, for another table


cdef inline int plainly_equal(const Table* t, uint32_t i, PyObject* key, uint64_t h) noexcept nogil:
    """Whether the key of entry i equals `key`. 1: yes; 0: no; -1: only `==` can tell.

    The entry has the same half of the hash. As in a dict, `==` is needed only if the hashes agree in all 64 bits.
    """
    cdef int equal = plain_equal(t.entries[i].key, key)
    return 0 if equal < 0 and rest_differs(t, i, h) else equal


cdef enum:
    UNCERTAIN = 0x7FFFFFFF          # no index: the caller has to compare with Python's `==`


cdef inline uint32_t lookup(const Table* t, PyObject* key, uint64_t h) noexcept nogil:
    """The index of `key`; 0: it is absent; UNCERTAIN: only Python code can tell. O(1) expected."""
    cdef uint32_t slot = home(t, h)
    return lookup_from(t, key, h, &slot)


cdef inline uint32_t lookup_from(const Table* t, PyObject* key, uint64_t h, uint32_t* slot) noexcept nogil:
    """`lookup` from a slot on. Sets `slot` to where it ended: for an absent key, the empty slot to put it in."""
    cdef uint32_t i
    cdef int equal
    while True:
        i = candidate(t, h, slot)
        if t.entries[i].key == key or i == 0:   # the sentinel's key is NULL
            return i
        if t.entries[i].hash == <uint32_t>h:
            equal = plainly_equal(t, i, key, h)
            if equal > 0:
                return i
            if equal < 0:
                return UNCERTAIN
        slot[0] = (slot[0] + 1) & t.mask


cdef inline void put_value(Table* t, uint32_t i, PyObject* value) noexcept nogil:
    """Give an entry its value, taking a new reference. The reference to the old value passes to the caller."""
    incref(value)
    t.values_collectable |= may_be_in_a_cycle(type_of(value))
    t.entries[i].value = value


cdef inline void expect_to_leave(const Table* t, uint32_t i) noexcept nogil:
    """Prefetch what removing entry i touches; in a large table these cache misses dominate."""
    prefetch(&t.slots[home(t, t.entries[i].hash)])
    prefetch(t.entries[i].key)
    prefetch(t.entries[i].value)


# --- the list through the entries: victim first, sentinel 0 at both ends ----------------------------------------

cdef inline void link_after(Table* t, uint32_t i, uint32_t place) noexcept nogil:
    cdef uint32_t behind = t.entries[place].next
    t.entries[i].prev = place
    t.entries[i].next = behind
    t.entries[place].next = i
    t.entries[behind].prev = i


cdef inline void unlink(Table* t, uint32_t i) noexcept nogil:
    cdef uint32_t before = t.entries[i].prev, behind = t.entries[i].next
    t.entries[before].next = behind
    t.entries[behind].prev = before


cdef inline void move_to_back(Table* t, uint32_t i) noexcept nogil:
    """`unlink`, then `link_after` the last entry, without reading what is known already."""
    cdef Entry* entries = t.entries
    cdef uint32_t last = entries[0].prev, before, behind
    if last == i:
        return
    before = entries[i].prev
    behind = entries[i].next                    # not the sentinel, for i is not the last
    entries[before].next = behind
    entries[behind].prev = before
    entries[i].prev = last
    entries[i].next = 0
    entries[last].next = i
    entries[0].prev = i


# --- engines -------------------------------------------------------------------------------------------------

cdef class Engine:
    """A table, and the order in which its entries are evicted.

    A policy is a subclass in a file of its own that defines the verbs below, in this order. A verb must not fail, run
    Python code, or touch an entry that the policy was not given. Only `reserve_order` and `copy_order` may allocate.
    """

    cdef Table table
    cdef Table ahead                # its next slots, over the same entries; no slots: it is not growing
    cdef Tape* tape                                                 # NULL: nothing is recorded
    cdef bint ranks_rise   # `rank` is part of the order: it rises from the next victim on
    cdef bint in_list      # the table's list is the order: `next_victim` need not be called
    cdef Entry empty_sentinel                                       # the sentinel while nothing is allocated
    cdef object collectable                                         # never set; makes the collector visit the type

    # the policy's verbs
    # make room for `capacity` entries; False: no memory
    cdef bint reserve_order(self, uint32_t capacity) noexcept nogil
    cdef void expect(self, Py_ssize_t limit) noexcept nogil         # there will be no more than `limit` entries
    cdef void on_insert(self, uint32_t i) noexcept nogil            # a new entry
    cdef void on_hit(self, uint32_t i) noexcept nogil               # a hit, or a new value
    cdef void on_remove(self, uint32_t i) noexcept nogil            # an entry leaves, for any reason
    cdef uint32_t victim(self) noexcept nogil                       # the next victim; 0: none
    cdef uint32_t next_victim(self, uint32_t i) noexcept nogil      # the victim after i; 0: none
    cdef void on_clear(self) noexcept nogil                         # all entries are gone
    cdef uint64_t rank(self, uint32_t i) noexcept nogil   # what `on_insert_ranked` needs in addition to the order
    # insert as the last victim, with a known rank
    cdef void on_insert_ranked(self, uint32_t i, uint64_t rank) noexcept nogil
    cdef void on_move(self, uint32_t i, uint32_t to) noexcept nogil  # entry i has been copied to `to`, where it now is
    cdef bint copy_order(self, Engine other) noexcept   # that of another such engine; False: it cannot be copied
    cdef Py_ssize_t check_order(self) except -1                     # count the ordered entries, or raise AssertionError

    # the table's verbs
    cdef bint reserve(self, Py_ssize_t limit) noexcept nogil        # room for one more; False: no memory
    cdef void reserve_all(self, Py_ssize_t n) noexcept nogil        # room for n entries, in an empty table
    cdef uint32_t insert(self, PyObject* key, uint64_t h) noexcept nogil        # adds a reserved entry; needs `reserve`
    cdef void release(self, uint32_t i) noexcept nogil              # frees entry i; its references pass to the caller
    # `release` and `insert` in one step
    cdef void replace(self, uint32_t i, PyObject* key, uint64_t h, uint32_t slot) noexcept nogil
    cdef bint shrink(self, Moves* moves) noexcept nogil             # returns unused memory; False: nothing has changed
    cdef void shrink_alone(self) noexcept nogil   # `shrink`, if no structure but the engine holds indices
    cdef bint copy_all(self, Engine other) noexcept           # if empty: become a copy; False: it is still empty
    cdef Table detach(self) noexcept nogil                          # empties it; the caller must call `drop_detached`
    cdef void _start_over(self) noexcept nogil
    cdef bint _grow(self, Py_ssize_t limit) noexcept nogil
    cdef bint _grow_to(self, Py_ssize_t wanted) noexcept nogil
    cdef void _replace_in_both(self, uint32_t i, PyObject* key, uint64_t h, uint32_t slot) noexcept nogil
    cdef void _plan_growth(self) noexcept nogil
    cdef bint _begin_growth(self, Py_ssize_t wanted) noexcept nogil
    cdef void _fill_ahead(self, uint32_t end) noexcept nogil
    cdef void _stop_growth(self) noexcept nogil


cdef enum:
    UNCHANGED = 1                   # the version of a table that has not changed since it was made
    KEPT = 64                       # a table with a capacity up to this keeps its memory


cdef inline bint is_too_large(const Table* t) noexcept nogil:
    """Whether a table has so much more capacity than entries that it should `shrink`.

    A shrunken table has room for half as many entries again. So before it shrinks again or grows, a share of its
    entries has to leave or to come: changing the size is O(1), amortised.
    """
    return t.capacity > KEPT and t.used < t.capacity // 3


cdef inline void write_down(Tape* tape, uint32_t h) noexcept nogil:
    if h * <uint32_t>0x85EBCA6B <= tape.bound:
        if tape.n < tape.room:
            tape.hashes[tape.n] = h
            tape.n += 1
        else:
            tape.lost += 1


cdef inline void on_hit(PyObject* engine, uint32_t i) noexcept nogil:
    """A hit, or a new value. In code as hot as this, objects are pointers, so that no references are counted."""
    if (<Engine>engine).table.use == MOVES_TO_BACK:
        move_to_back(&(<Engine>engine).table, i)
    elif (<Engine>engine).table.use == ASKS:
        (<Engine>engine).on_hit(i)
        if unlikely((<Engine>engine).tape != NULL):
            write_down((<Engine>engine).tape, (<Engine>engine).table.entries[i].hash)


cdef inline void write_down_miss(Tape* tape, uint32_t h) noexcept nogil:
    tape.missed[h & (MISSES_KEPT - 1)] = h
    write_down(tape, h)


cdef inline void write_down_new(Tape* tape, uint32_t h) noexcept nogil:
    """Write down a new entry, unless the miss before it is written down."""
    if tape.missed[h & (MISSES_KEPT - 1)] != h or h == 0:
        write_down(tape, h)
    else:
        tape.missed[h & (MISSES_KEPT - 1)] = 0


cdef void drop_detached(Table* detached) noexcept
cdef bint copy_array(void** copied, const void* array, size_t size) noexcept nogil     # NULL stays NULL; False: no memory
