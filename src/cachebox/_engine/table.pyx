"""Growth, removal and the collector's view of the table. `table.pxd` shows its shape and its invariants."""

cimport cython
from cpython.object cimport PyObject, PyTypeObject, traverseproc, visitproc
from libc.stdint cimport uint32_t, uint64_t
from libc.string cimport memcpy, memset

import os


cdef extern from "_platform/pause.h":
    void let_others_in "cb_let_others_in"() noexcept

cdef extern from *:
    """
    static uint32_t cb_no_slots[2] = {0, 0};    /* the slots of a table without entries; never written */
    """
    uint32_t* no_slots "cb_no_slots"


cdef enum:
    STEP = 32                       # the most new entries for which a growing table goes one step
    SMALLEST = 4                    # entries in the first allocation
    LARGEST = 1 << 30               # an index and at least one bit of fingerprint share a slot's 32 bits
    DROPPED_AT_ONCE = 4096          # entries whose references are dropped before other threads may run
    ROOMY = 1 << 16                 # up to this many entries, slots are at most 2/5 full: short runs cost no cache miss


cdef uint32_t stepwise = 1 << 13        # a table of at least this capacity grows in steps


def grow_in_steps_from(uint32_t capacity):
    """Change from which capacity on tables grow in steps, for tests. Returns what it was."""
    global stepwise
    was = stepwise
    stepwise = capacity
    return was


cdef uint64_t process_seed = int.from_bytes(os.urandom(8), "little")


cdef inline void place(Table* t, uint32_t i) noexcept nogil:
    """Put the index of an entry into the first empty slot from its home slot on."""
    cdef uint32_t h = t.entries[i].hash, slot = home(t, h)
    while t.slots[slot] != 0:
        slot = (slot + 1) & t.mask
    t.slots[slot] = fingerprint(t, h) | i
    t.has_long_probes |= is_long_probe(t, slot, h)


cdef uint32_t rest_of(const Table* t, uint32_t i) noexcept nogil:
    """The other half of the hash of entry i's key.

    That of a primitive key can be computed at any time. For other keys the half was kept; it is 0 if there was no
    memory for it.
    """
    cdef PyObject* key = t.entries[i].key
    if is_primitive(key):
        return <uint32_t>(mixed(t, primitive_hash(key)) >> 32)
    return t.rests[i] if t.rests != NULL else 0


cdef bint rest_differs(const Table* t, uint32_t i, uint64_t h) noexcept nogil:
    """Whether the other half of the hash of entry i's key certainly differs from that of `h`."""
    cdef uint32_t rest = rest_of(t, i)
    return rest != 0 and rest != <uint32_t>(h >> 32)


cdef uint64_t whole_hash(const Table* t, uint32_t i) noexcept nogil:
    if is_primitive(t.entries[i].key):          # its other half is never read from a table
        return t.entries[i].hash
    return <uint64_t>rest_of(t, i) << 32 | t.entries[i].hash


cdef inline uint32_t slot_of(const Table* t, uint32_t i) noexcept nogil:
    """The slot that holds the index of an entry."""
    cdef uint32_t slot = home(t, t.entries[i].hash), found
    while slot + 3 <= t.mask:
        found = match4(&t.slots[slot], i, t.mask)
        if likely(found != 0):
            return slot + lowest_bit(found)
        slot += 4
    while (t.slots[slot & t.mask] & t.mask) != i:
        slot += 1
    return slot & t.mask


cdef inline void close_hole(Table* t, uint32_t hole) noexcept nogil:
    """Empty a slot, and shift back the entries that probed past it (Knuth, TAOCP 3, 6.4, algorithm R)."""
    cdef uint32_t at = hole + 1, word, empty, back
    while at + 3 <= t.mask and likely(not t.has_long_probes):
        empty = match4(&t.slots[at], 0, 0xFFFFFFFF)
        back = bits_before(movable4(&t.slots[at], at, at - hole, t.mask), empty)
        if back != 0:
            at += lowest_bit(back)
            t.slots[hole] = t.slots[at]
            hole = at
            at += 1
        elif likely(empty != 0):
            t.slots[hole] = 0
            return
        else:
            at += 4
    while True:                     # the last slots, then the first ones
        at &= t.mask
        word = t.slots[at]
        if word == 0:
            t.slots[hole] = 0
            return
        if probe_distance(t, at, word) >= ((at - hole) & t.mask):   # its home slot is not behind the hole
            t.slots[hole] = word
            hole = at
        at += 1


cdef inline uint32_t bits_for(Py_ssize_t capacity) noexcept nogil:
    """log2 of the number of slots for `capacity` entries."""
    cdef uint32_t bits = 2          # `replace` needs one more empty slot than there are entries
    while (<Py_ssize_t>1 << bits) < 2 * capacity + (capacity >> 1 if capacity <= ROOMY else 0):
        bits += 1
    return bits


cdef void use_slots(Table* t, uint32_t* slots, uint32_t bits) noexcept nogil:
    """Make these empty slots the table's."""
    t.slots = slots
    t.bits = bits
    t.shift = 32 - NEAR_BITS - bits if bits <= 32 - NEAR_BITS else 0
    t.mask = (<uint32_t>1 << bits) - 1
    t.has_long_probes = bits > 32 - NEAR_BITS   # indices leave no room for the distance


cdef void rebuild_index(Table* t, uint32_t* slots, uint32_t bits) noexcept nogil:
    """Make these empty slots the table's, and put all entries in."""
    cdef uint32_t i
    use_slots(t, slots, bits)
    for i in range(1, t.fresh):
        if t.entries[i].key != NULL:
            place(t, i)
    t.version += 1


cdef inline uint32_t enter(Table* t, PyObject* key, uint32_t h) noexcept nogil:
    """`insert` for a primitive key."""
    cdef uint32_t i = t.free
    if i != 0:
        t.free = t.entries[i].next
    else:
        i = t.fresh
        t.fresh += 1
    incref(key)
    t.keys_collectable |= may_be_in_a_cycle(type_of(key))
    t.entries[i].key = key
    t.entries[i].value = NULL
    t.entries[i].hash = <uint32_t>h
    t.entries[i].prev = t.entries[i].next = t.entries[i].aux = 0
    place(t, i)
    t.used += 1
    t.version += 1
    return i


cdef inline void enter_instead(Table* t, uint32_t i, PyObject* key, uint32_t h, uint32_t slot) noexcept nogil:
    """`replace` for a primitive key."""
    cdef uint32_t hole = slot_of(t, i)
    incref(key)
    t.keys_collectable |= may_be_in_a_cycle(type_of(key))
    t.entries[i].key = key
    t.entries[i].value = NULL
    t.entries[i].hash = <uint32_t>h
    t.slots[slot] = fingerprint(t, h) | i   # before the hole closes, because that may move this slot too
    t.has_long_probes |= is_long_probe(t, slot, h)
    close_hole(t, hole)
    t.version += 1


cdef void keep_rest(Table* t, uint32_t i, uint64_t h) noexcept nogil:
    """Keep the half of a hash that is not in the entry, if there is memory for it. `rest_differs` reads it."""
    if t.rests == NULL:
        t.rests = <uint32_t*>allocate_zeroed(<size_t>t.capacity + 1, sizeof(uint32_t))
    if t.rests != NULL:
        t.rests[i] = <uint32_t>(h >> 32)


cdef uint32_t enter_with_rest(Table* t, PyObject* key, uint64_t h) noexcept nogil:
    cdef uint32_t i = enter(t, key, <uint32_t>h)
    keep_rest(t, i, h)
    return i


cdef void enter_with_rest_instead(Table* t, uint32_t i, PyObject* key, uint64_t h, uint32_t slot) noexcept nogil:
    enter_instead(t, i, key, <uint32_t>h, slot)
    keep_rest(t, i, h)


# Called through pointers so that the compiler does not inline them: inlined, they would cost primitive keys
# instructions.
cdef uint32_t (*enter_other)(Table* t, PyObject* key, uint64_t h) noexcept nogil
cdef void (*enter_other_instead)(Table* t, uint32_t i, PyObject* key, uint64_t h, uint32_t slot) noexcept nogil
enter_other = enter_with_rest
enter_other_instead = enter_with_rest_instead


@cython.no_gc_clear                 # the engine's owner empties it, together with what it keeps for each entry
cdef class Engine:

    def __cinit__(self):
        self.table.seed = process_seed
        self._start_over()

    def __dealloc__(self):
        self._stop_growth()
        drop_detached(&self.table)

    # --- the policy's verbs, for a policy that keeps the order of insertion in the list

    cdef bint reserve_order(self, uint32_t capacity) noexcept nogil:
        return True

    cdef void expect(self, Py_ssize_t limit) noexcept nogil:
        pass

    cdef void on_insert(self, uint32_t i) noexcept nogil:
        link_after(&self.table, i, self.table.entries[0].prev)

    cdef void on_hit(self, uint32_t i) noexcept nogil:
        pass

    cdef void on_remove(self, uint32_t i) noexcept nogil:
        unlink(&self.table, i)

    cdef uint32_t victim(self) noexcept nogil:
        cdef Table* t = &self.table
        cdef uint32_t i = t.entries[0].next
        expect_to_leave(t, t.entries[i].next)   # the victim after it, so that it is in the cache when its turn comes
        return i

    cdef uint32_t next_victim(self, uint32_t i) noexcept nogil:
        return self.table.entries[i].next

    cdef void on_clear(self) noexcept nogil:
        pass

    cdef uint64_t rank(self, uint32_t i) noexcept nogil:
        return 0

    cdef void on_insert_ranked(self, uint32_t i, uint64_t rank) noexcept nogil:
        self.on_insert(i)

    cdef void on_move(self, uint32_t i, uint32_t to) noexcept nogil:
        cdef Entry* e = &self.table.entries[to]
        self.table.entries[e.prev].next = to
        self.table.entries[e.next].prev = to

    cdef bint copy_order(self, Engine other) noexcept:
        return True                             # the links are part of the entries

    cdef Py_ssize_t check_order(self) except -1:
        cdef Table* t = &self.table
        cdef uint32_t i = 0
        cdef Py_ssize_t n = 0
        while True:
            assert t.entries[t.entries[i].next].prev == i, f"links of {i} and {t.entries[i].next} disagree"
            i = t.entries[i].next
            if i == 0:
                return n
            n += 1
            assert n <= t.used, "the list is longer than the table"

    # --- the table's verbs

    cdef bint reserve(self, Py_ssize_t limit) noexcept nogil:
        """Make room for one more entry.

        Steps of growth end at `limit` entries (the bound), or go on if it is exceeded.
        """
        return self.table.free != 0 or self.table.fresh < self.table.looks_at or self._grow(limit)

    cdef void reserve_all(self, Py_ssize_t n) noexcept nogil:
        if self.table.capacity < n <= LARGEST:
            self._grow_to(n)

    cdef uint32_t insert(self, PyObject* key, uint64_t h) noexcept nogil:
        cdef uint32_t i = enter(&self.table, key, h) if likely(is_primitive(key)) else enter_other(&self.table, key, h)
        if unlikely(i < self.ahead.fresh):
            place(&self.ahead, i)
        if unlikely(self.tape != NULL):
            write_down_new(self.tape, <uint32_t>h)
        return i

    cdef void release(self, uint32_t i) noexcept nogil:
        cdef Table* t = &self.table
        close_hole(t, slot_of(t, i))
        if unlikely(i < self.ahead.fresh):
            close_hole(&self.ahead, slot_of(&self.ahead, i))
        t.entries[i].key = t.entries[i].value = NULL
        t.entries[i].next = t.free
        t.free = i
        t.used -= 1
        t.version += 1

    cdef void replace(self, uint32_t i, PyObject* key, uint64_t h, uint32_t slot) noexcept nogil:
        """Give entry i to `key`, for which a lookup ended at `slot`. The old references pass to the caller."""
        if unlikely(i < self.ahead.fresh):
            self._replace_in_both(i, key, h, slot)
            return
        if likely(is_primitive(key)):
            enter_instead(&self.table, i, key, h, slot)
        else:
            enter_other_instead(&self.table, i, key, h, slot)
        if unlikely(self.tape != NULL):
            write_down_new(self.tape, <uint32_t>h)

    cdef void _replace_in_both(self, uint32_t i, PyObject* key, uint64_t h, uint32_t slot) noexcept nogil:
        """`replace` for an entry that stands in the slots to come, too."""
        cdef uint32_t fresh = self.ahead.fresh
        close_hole(&self.ahead, slot_of(&self.ahead, i))
        self.ahead.fresh = 0
        self.replace(i, key, h, slot)
        self.ahead.fresh = fresh
        place(&self.ahead, i)

    cdef bint shrink(self, Moves* moves) noexcept nogil:
        """Return memory if there is too much of it. Structures that hold indices must follow the `moves`."""
        cdef Table* t = &self.table
        cdef Table empty
        cdef uint32_t i, to = 1, bits, capacity
        cdef uint32_t* slots
        cdef uint32_t* rests
        cdef Entry* entries
        moves.pairs = NULL
        moves.n = 0
        if not is_too_large(t):
            return False
        self._stop_growth()
        if t.used == 0:
            empty = self.detach()
            deallocate(empty.slots)
            deallocate(empty.rests)
            deallocate(empty.entries)
            return True
        capacity = max(t.used + (t.used >> 1), <uint32_t>SMALLEST)
        bits = bits_for(capacity)
        slots = <uint32_t*>allocate_slots(<size_t>1 << bits, sizeof(uint32_t))
        if slots == NULL:
            return False
        moves.pairs = t.slots                   # more than two words for each entry: room for all pairs
        for i in range(t.used + 1, t.fresh):
            if t.entries[i].key != NULL:
                while t.entries[to].key != NULL:
                    to += 1
                t.entries[to] = t.entries[i]
                if t.rests != NULL:
                    t.rests[to] = t.rests[i]
                t.entries[i].key = t.entries[i].value = NULL
                if t.entries[to].value != NULL:
                    self.on_move(i, to)
                moves.pairs[2 * moves.n] = i
                moves.pairs[2 * moves.n + 1] = to
                moves.n += 1
        t.fresh = t.used + 1
        t.free = 0
        rebuild_index(t, slots, bits)
        entries = <Entry*>reallocate(t.entries, (<size_t>capacity + 1) * sizeof(Entry))
        if entries != NULL:                     # else they stay where they are, in more memory than they need
            t.entries = entries
        if t.rests != NULL:
            rests = <uint32_t*>reallocate(t.rests, (<size_t>capacity + 1) * sizeof(uint32_t))
            if rests != NULL:
                t.rests = rests
        t.capacity = capacity
        self.reserve_order(capacity)
        self._plan_growth()
        return True

    cdef void shrink_alone(self) noexcept nogil:
        cdef Moves moves
        if self.shrink(&moves):
            deallocate(moves.pairs)

    cdef bint copy_all(self, Engine other) noexcept:
        """Copy the table and the order of an engine of the same class, whose lock is held; without reserved entries."""
        cdef Table* t = &self.table
        cdef Table copied = other.table
        cdef uint32_t i
        if copied.capacity == 0:
            return True
        copied.entries = <Entry*>allocate((<size_t>copied.capacity + 1) * sizeof(Entry))
        copied.slots = copied.rests = NULL
        if (
            copied.entries == NULL
            or not copy_array(<void**>&copied.slots, other.table.slots, (<size_t>copied.mask + 1) * sizeof(uint32_t))
            or not copy_array(
                <void**>&copied.rests, other.table.rests, (<size_t>copied.capacity + 1) * sizeof(uint32_t))
            or not self.copy_order(other)
        ):
            deallocate(copied.entries)
            deallocate(copied.slots)
            deallocate(copied.rests)
            return False
        memcpy(copied.entries, other.table.entries, copied.fresh * sizeof(Entry))
        copied.use = t.use                      # that of the other is another one during a recording
        copied.version = t.version + 1
        t[0] = copied
        for i in range(1, t.fresh):
            if t.entries[i].value != NULL:
                incref(t.entries[i].key)
                incref(t.entries[i].value)
            elif t.entries[i].key != NULL:
                self.release(i)
        self._plan_growth()
        return True

    cdef Table detach(self) noexcept nogil:
        cdef Table old = self.table
        self._start_over()
        self.on_clear()
        return old

    cdef void _start_over(self) noexcept nogil:
        """Back to a table without arrays."""
        cdef Table* t = &self.table
        self._stop_growth()
        memset(&self.empty_sentinel, 0, sizeof(Entry))
        t.entries = &self.empty_sentinel
        t.slots = no_slots
        t.rests = NULL
        t.mask = t.bits = 1
        t.shift = 32 - NEAR_BITS - 1
        t.capacity = t.free = t.used = 0
        t.fresh = t.looks_at = 1
        t.version += 1
        t.has_long_probes = t.keys_collectable = t.values_collectable = False

    # --- growth: of a large table in steps

    cdef bint _grow(self, Py_ssize_t limit) noexcept nogil:
        """Make room for more entries, or go a step towards it if there is room."""
        cdef Table* t = &self.table
        cdef Py_ssize_t capacity = t.capacity, wanted = max(2 * capacity, <Py_ssize_t>SMALLEST)
        cdef uint32_t step = max(min(t.capacity >> 6, <uint32_t>STEP), <uint32_t>1), left = t.capacity + 1 - t.fresh
        if limit > capacity:
            wanted = min(wanted, limit)
        else:                       # only reserved entries exceed the bound, and they are few
            wanted = capacity + max(<Py_ssize_t>SMALLEST, capacity >> 3)
        wanted = min(wanted, <Py_ssize_t>LARGEST)
        if left == 0:
            return capacity < LARGEST and self._grow_to(wanted)
        if self.ahead.slots == NULL and (limit <= capacity or not self._begin_growth(wanted)):
            t.looks_at = t.capacity + 1         # it is not going to grow, or has to grow in one step
            return True
        # at a rate at which all are there when the table is full
        self._fill_ahead(self.ahead.fresh + step + (t.fresh - self.ahead.fresh) // ((left + step - 1) // step))
        t.looks_at = t.fresh + min(step, left)
        return True

    cdef bint _begin_growth(self, Py_ssize_t wanted) noexcept nogil:
        """Allocate the slots for `wanted` entries. False: there is no memory, or the slots are enough."""
        cdef uint32_t bits = bits_for(wanted)
        cdef uint32_t* slots
        if bits == self.table.bits:
            return False
        slots = <uint32_t*>allocate_slots(<size_t>1 << bits, sizeof(uint32_t))
        if slots == NULL:
            return False
        self.ahead = self.table
        use_slots(&self.ahead, slots, bits)
        self.ahead.fresh = 1
        return True

    cdef void _fill_ahead(self, uint32_t end) noexcept nogil:
        """Put the entries below `end` into the slots to come."""
        cdef uint32_t i, last = min(end, self.table.fresh)
        # all slots of a step are fetched at the same time: most are in no cache of the processor
        for i in range(self.ahead.fresh, min(last, self.ahead.fresh + 4 * STEP)):
            prefetch(&self.ahead.slots[home(&self.ahead, self.table.entries[i].hash)])
        while self.ahead.fresh < last:
            if self.table.entries[self.ahead.fresh].key != NULL:
                place(&self.ahead, self.ahead.fresh)
            self.ahead.fresh += 1

    cdef void _stop_growth(self) noexcept nogil:
        """Forget the slots to come."""
        deallocate(self.ahead.slots)
        self.ahead.slots = NULL
        self.ahead.fresh = 0

    cdef void _plan_growth(self) noexcept nogil:
        """After the capacity has changed: set when to look at it next."""
        cdef Table* t = &self.table
        t.looks_at = t.capacity + 1
        if t.capacity >= stepwise:
            t.looks_at -= t.capacity >> 2

    cdef bint _grow_to(self, Py_ssize_t wanted) noexcept nogil:
        """Make room for that many entries; it is more than now."""
        cdef Table* t = &self.table
        cdef uint32_t bits = bits_for(wanted)
        cdef uint32_t* slots = NULL
        cdef uint32_t* rests
        cdef Entry* entries
        if not self.reserve_order(<uint32_t>wanted):
            return False
        if self.ahead.slots != NULL and self.ahead.bits != bits:    # the bound has changed meanwhile
            self._stop_growth()
        if (bits != t.bits or t.capacity == 0) and self.ahead.slots == NULL:
            slots = <uint32_t*>allocate_slots(<size_t>1 << bits, sizeof(uint32_t))
            if slots == NULL:
                return False
        if t.rests != NULL:
            rests = <uint32_t*>reallocate(t.rests, (<size_t>wanted + 1) * sizeof(uint32_t))
            if rests == NULL:
                deallocate(slots)
                return False
            t.rests = rests
        entries = <Entry*>reallocate(NULL if t.capacity == 0 else t.entries, (<size_t>wanted + 1) * sizeof(Entry))
        if entries == NULL:
            deallocate(slots)
            return False
        if t.capacity == 0:
            entries[0] = self.empty_sentinel
        t.entries = self.ahead.entries = entries
        if slots != NULL:
            if t.capacity != 0:
                deallocate(t.slots)
            rebuild_index(t, slots, bits)
        elif self.ahead.slots != NULL:
            self._fill_ahead(t.fresh)
            deallocate(t.slots)
            use_slots(t, self.ahead.slots, bits)
            t.has_long_probes = self.ahead.has_long_probes
            t.version += 1
            self.ahead.slots = NULL
            self.ahead.fresh = 0
        t.capacity = <uint32_t>wanted
        self._plan_growth()
        return True

    # --- for tests and for the collector

    def _check(self):
        """Verify every invariant of the table and of the order; O(len(slots)).

        Returns the number of entries that the policy knows. Raises AssertionError if an invariant does not hold.
        """
        cdef Table* t = &self.table
        cdef uint32_t i, h, used = 0, reserved = 0, free = 0, placed = 0
        assert (t.slots == no_slots) == (t.capacity == 0), "slots that are not the table's own"
        assert t.mask + 1 == <uint32_t>1 << t.bits, f"mask {t.mask} and bits {t.bits} disagree"
        assert t.shift == max(32 - NEAR_BITS - <int>t.bits, 0), f"shift {t.shift} and bits {t.bits} disagree"
        assert 2 * t.capacity <= t.mask + 1, f"{t.capacity} entries and only {t.mask + 1} slots"
        assert 1 <= t.fresh <= t.capacity + 1, f"fresh {t.fresh} with capacity {t.capacity}"
        assert t.entries[0].key == NULL, "the sentinel has a key"
        for i in range(1, t.fresh):
            if t.entries[i].key == NULL:
                assert t.entries[i].value == NULL, f"entry {i} was given back with its value"
                continue
            used += 1
            reserved += t.entries[i].value == NULL
            if is_primitive(t.entries[i].key):              # hashing other keys would run their code
                h = <uint32_t>mixed(t, primitive_hash(t.entries[i].key))
                assert h == t.entries[i].hash, f"entry {i} has another hash"
        assert used == t.used, f"{used} entries in use, {t.used} counted"
        assert check_slots(t) == used, f"{used} entries in use, and not as many slots are taken"
        assert t.fresh < t.looks_at or t.looks_at <= t.capacity + 1, "a full table that nobody looks at"
        if self.ahead.slots != NULL:
            assert self.ahead.entries == t.entries and self.ahead.fresh <= t.fresh, "slots for other entries"
            for i in range(1, self.ahead.fresh):
                placed += t.entries[i].key != NULL
            assert check_slots(&self.ahead) == placed, f"{placed} entries placed, and not as many slots are taken"
        i = t.free
        while i != 0:
            assert t.entries[i].key == NULL, f"entry {i} is in use and free"
            free += 1
            assert free < t.fresh, "the free chain is a circle"
            i = t.entries[i].next
        assert used + free == t.fresh - 1, f"{used} used and {free} free entries of {t.fresh - 1}"
        ordered = self.check_order()
        assert ordered == used - reserved, f"{ordered} entries ordered, {used - reserved} have values"
        return ordered


cdef uint32_t check_slots(const Table* t) except 0xFFFFFFFF:
    """Verify the slots of a table. Returns how many are taken."""
    cdef uint32_t slot, word, way, i, taken = 0
    for slot in range(t.mask + 1):
        word = t.slots[slot]
        if word == 0:
            continue
        taken += 1
        i = word & t.mask
        assert 1 <= i < t.fresh and t.entries[i].key != NULL, f"slot {slot} names {i}, which is not in use"
        assert word == fingerprint(t, t.entries[i].hash) | i, f"slot {slot} has a wrong fingerprint"
        way = (slot - home(t, t.entries[i].hash)) & t.mask
        assert way == probe_distance(t, slot, word), f"slot {slot} is {way} steps from home, not as it says"
        while slot != home(t, t.entries[i].hash):
            slot = (slot - 1) & t.mask
            assert t.slots[slot] != 0, f"a lookup of entry {i} would end early"
    return taken


cdef bint copy_array(void** copied, const void* array, size_t size) noexcept nogil:
    if array == NULL:
        copied[0] = NULL
        return True
    copied[0] = allocate(size)
    if copied[0] != NULL:
        memcpy(copied[0], array, size)
    return copied[0] != NULL


cdef void drop_detached(Table* detached) noexcept:
    """Drop the references of a detached table, then its memory. May run any code, because objects die."""
    cdef uint32_t i
    if detached.capacity == 0:
        return
    for i in range(1, detached.fresh):
        if detached.entries[i].key != NULL:
            decref(detached.entries[i].key)
            xdecref(detached.entries[i].value)
        if i % DROPPED_AT_ONCE == 0:
            let_others_in()
    deallocate(detached.slots)
    deallocate(detached.rests)
    deallocate(detached.entries)
    detached.capacity = 0


# --- the collector: Cython's own traversal does not know the arrays ------------------------------------------------

cdef traverseproc traverse_attributes = (<PyTypeObject*>Engine).tp_traverse


cdef int traverse(PyObject* self, visitproc visit, void* arg) noexcept:
    cdef Table* t = &(<Engine>self).table
    cdef uint32_t i
    cdef int stop = traverse_attributes(self, visit, arg)
    if stop:
        return stop
    if t.keys_collectable or t.values_collectable:
        for i in range(1, t.fresh):
            if t.entries[i].value != NULL and t.values_collectable:
                stop = visit(t.entries[i].value, arg)
                if stop:
                    return stop
            if t.entries[i].key != NULL and t.keys_collectable:
                stop = visit(t.entries[i].key, arg)
                if stop:
                    return stop
    return 0


(<PyTypeObject*>Engine).tp_traverse = <traverseproc>traverse
