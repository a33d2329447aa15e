"""An adaptive order; `auto.pxd` has the overview.

Invariants: an entry's `aux` names the list that it stands in; `count` is right; the window and the main part together
are the whole order. A verb takes at most 64 steps for a victim, 64 for second chances, and 256 of ageing, in addition
to the shadow's.
"""

cimport cython
from libc.stdint cimport uint32_t, uint64_t

from cachebox._engine.ghosts cimport (
    BUCKET, GHOST_TIME, PER_ENTRY, age_ghosts, put_ghost, scrambled, take_ghost, uses_of,
)
from cachebox._engine.shadow cimport (
    LARGE_MODE, LIRS_MODE, LISTS, LRU_MODE, MANY_SIZES, MODES, MOST_STEPS, PROBATION, PROTECTED, S3_MODE, SMALL_MODE,
    WINDOW, List, Mode, Shadow, check_shadow, drop_records, is_sampled, make_records, sample_shift, show, show_removal,
    start_shadow, window_of,
)
from cachebox._engine.table cimport (
    ASKS, Engine, Entry, Table, allocate_zeroed, deallocate, expect_to_leave, unlikely,
)


cdef enum:
    LIST = 3                        # the bits of `aux` that name the list
    ONE_HIT = 1 << 2
    HITS = 3 << 2
    ONE_USE = 1 << 4
    USES = 15 << 4
    BELOW = 0xFF                    # the bits below the time
    ONE_TICK = 1 << 8
    TICKS_SHIFT = 11                # a cache turns over in 2**11 ticks
    LONG_AGO = 1 << 30              # an age: the ages of older entries are cut to it, so that times never wrap around
    MOST_AGED = 64                  # entries aged in one go
    SPARE_RECORDS = 16              # for samples that are larger than expected
    LARGEST_SIZE = 1 << 30
    FEW = 10                        # entries
    RANK_BELONGS = 0x5A             # the top byte of a rank that AUTO made


cdef inline uint32_t age_of(uint32_t now, const Entry* e) noexcept nogil:
    """The age of an entry: ticks since its last use, above a byte of other bits."""
    return now - (e.aux & ~<uint32_t>BELOW)


cdef inline uint32_t counted(uint32_t low) noexcept nogil:
    """The bits below the time, after one more hit. Both counts saturate."""
    low += ONE_USE if low < USES else 0
    low += ONE_HIT if low & HITS != HITS else 0
    return low


cdef inline uint32_t buckets_for(uint32_t entries) noexcept nogil:
    """Buckets of ghosts for `entries` entries."""
    return <uint32_t>((<uint64_t>entries * PER_ENTRY + BUCKET - 1) // BUCKET)


# --- the lists: next victim first, 0 at both ends ----------------------------------------------------------------------

cdef inline void push(AUTO self, uint32_t i, uint32_t list) noexcept nogil:
    """Make entry i the last victim of a list."""
    cdef Entry* entries = self.table.entries
    cdef uint32_t head = self.head[list]
    entries[i].aux = (entries[i].aux & ~<uint32_t>LIST) | list
    entries[i].prev = head
    entries[i].next = 0
    if head != 0:
        entries[head].next = i
    else:
        self.tail[list] = i
    self.head[list] = i
    self.count[list] += 1


cdef inline void pull(AUTO self, uint32_t i) noexcept nogil:
    """Take entry i out of its list."""
    cdef Entry* entries = self.table.entries
    cdef uint32_t list = entries[i].aux & LIST, before = entries[i].prev, behind = entries[i].next
    if before != 0:
        entries[before].next = behind
    else:
        self.tail[list] = behind
    if behind != 0:
        entries[behind].prev = before
    else:
        self.head[list] = before
    self.count[list] -= 1


cdef inline void move(AUTO self, uint32_t i, uint32_t list) noexcept nogil:
    pull(self, i)
    push(self, i, list)


cdef inline uint32_t main_tail(AUTO self) noexcept nogil:
    return self.tail[PROBATION] if self.tail[PROBATION] != 0 else self.tail[PROTECTED]


cdef inline uint32_t in_main(AUTO self) noexcept nogil:
    return self.count[PROBATION] + self.count[PROTECTED]


cdef inline uint32_t in_all(AUTO self) noexcept nogil:
    return self.count[WINDOW] + self.count[PROBATION] + self.count[PROTECTED]


cdef inline uint32_t next_of(AUTO self, uint32_t i) noexcept nogil:
    """The entry behind i, if the lists are joined: window, probation, protected."""
    cdef uint32_t list = self.table.entries[i].aux & LIST
    i = self.table.entries[i].next
    while i == 0 and list < PROTECTED:
        list += 1
        i = self.tail[list]
    return i


cdef inline uint32_t oldest(AUTO self, const uint32_t* of) noexcept nogil:
    """The entry that was used longest ago, of three: one from each list, or 0."""
    cdef uint32_t found = 0
    cdef int list
    for list in range(LISTS):
        if of[list] != 0 and (found == 0 or age_of(self.now, &self.table.entries[of[list]]) > age_of(
                self.now, &self.table.entries[found])):
            found = of[list]
    return found


@cython.final
cdef class AUTO(Engine):

    def __cinit__(self):
        self.table.use = ASKS
        self.set_seed(self.table.seed)
        self.mode = LRU_MODE
        self.tick = 1
        self.on_clear()

    def __dealloc__(self):
        deallocate(self.ghosts.words)
        drop_records(&self.shadow)

    cdef void set_seed(self, uint64_t seed) noexcept nogil:
        """Set the seed of random choices: which keys are in the sample, which weak entries may stay.

        Needs an empty table.
        """
        self.table.seed = seed
        self.chance = <uint32_t>(seed >> 32) | 1

    # --- the policy's verbs

    cdef bint reserve_order(self, uint32_t capacity) noexcept nogil:
        """Allocate what goes with `capacity` entries: ghosts, and the records of the shadow."""
        cdef uint32_t buckets = buckets_for(min(capacity, self.size) if self.bounded else capacity)
        cdef uint32_t size = max(self.size, capacity)
        cdef uint32_t records = MANY_SIZES * (capacity >> sample_shift(size, 0)) + SPARE_RECORDS
        cdef uint32_t* words
        cdef Shadow before
        if MANY_SIZES * capacity < self.shadow.allocated // 4:      # it has shrunk
            before = self.shadow
            self.shadow.records = NULL
            self.shadow.buckets = NULL
            self.shadow.allocated = 0
            start_shadow(&self.shadow, self.size, self.mode)
            if make_records(&self.shadow, records):
                drop_records(&before)
            else:
                self.shadow = before            # records that are too many are better than none
        elif not make_records(&self.shadow, records):
            return False
        if buckets != self.ghosts.allocated:
            words = <uint32_t*>allocate_zeroed(<size_t>buckets * BUCKET, sizeof(uint32_t))
            if words == NULL:
                return False
            deallocate(self.ghosts.words)
            self.ghosts.words = words
            self.ghosts.allocated = self.ghosts.buckets = buckets
            self.ghosts.hand = 0
        if self.size < capacity and not self.bounded:
            self._fit(capacity)
        return True

    cdef void expect(self, Py_ssize_t limit) noexcept nogil:
        """There will be no more than `limit` entries, and probably as many."""
        self.bounded = limit <= LARGEST_SIZE
        if self.bounded and <uint32_t>limit != self.size:
            self._fit(<uint32_t>limit)
            if not self.begun:
                self._begin()

    cdef void on_insert(self, uint32_t i) noexcept nogil:
        cdef Entry* e = &self.table.entries[i]
        cdef uint32_t word, age, tail, list = WINDOW, uses = 1
        self.chosen = 0
        self.requests += 1
        self.misses += 1
        if self.misses >= self.tick:
            self.misses = 0
            self.now += ONE_TICK
        word = take_ghost(&self.ghosts, e.hash)
        if word != 0:
            uses = min(uses_of(word) + 1, <uint32_t>15)
            age = (self.now >> 8) - word & GHOST_TIME
            if self.mode == LIRS_MODE:
                tail = main_tail(self)
                if tail != 0 and age << 8 < age_of(self.now, &self.table.entries[tail]):
                    list = PROTECTED
            elif self.mode == S3_MODE and 4 * <uint64_t>age * self.tick <= 5 * <uint64_t>self.size:
                list = PROTECTED
        e.aux = self.now | uses << 4
        push(self, i, list)
        self._settle(<List>list)
        self._age()
        self.chance = self.chance * <uint32_t>1664525 + <uint32_t>1013904223
        if not self.begun and not self.ruled:   # an entry was evicted, so the size of a full cache is known
            self._fit(in_all(self))
            self._begin()
        elif not self.ruled and 3 * <uint64_t>in_all(self) < 2 * <uint64_t>self.size:
            self.short += 1
            if self.short > in_all(self):       # apparently the weights admit no more entries
                self._fit(in_all(self))
        elif unlikely(2 * <uint64_t>in_all(self) > 3 * <uint64_t>self.size):
            self._fit(in_all(self))
        else:
            self.short = 0
        self.ruled = True
        self._show(e.hash, True)

    cdef void on_hit(self, uint32_t i) noexcept nogil:
        cdef Entry* e = &self.table.entries[i]
        cdef uint32_t aux = e.aux, list = aux & LIST, tail
        e.aux = self.now | counted(aux & BELOW)
        self.requests += 1
        self.chosen = 0
        if self.now != aux & ~<uint32_t>BELOW and self.mode != S3_MODE:
            if self.mode == LRU_MODE:
                move(self, i, list)
            elif list != WINDOW:
                move(self, i, PROTECTED)
            else:
                tail = main_tail(self) if self.mode == LIRS_MODE else 0
                if tail != 0 and self.now - (aux & ~<uint32_t>BELOW) < age_of(self.now, &self.table.entries[tail]):
                    move(self, i, PROTECTED)
                    move(self, tail, WINDOW)
                else:
                    move(self, i, WINDOW)
        self._show(e.hash, False)

    cdef void on_remove(self, uint32_t i) noexcept nogil:
        cdef Entry* e = &self.table.entries[i]
        cdef bint evicted = i == self.chosen
        self.chosen = 0
        pull(self, i)
        if evicted:
            put_ghost(&self.ghosts, e.hash, (e.aux & USES) >> 4, e.aux >> 8, self.now >> 8)
            self._put_back()
            self.ruled = False
        elif is_sampled(&self.shadow, scrambled(e.hash)):
            show_removal(&self.shadow, e.hash)

    cdef uint32_t victim(self) noexcept nogil:
        """The mode names the next victim, once for each entry that came. For further victims, the lists are joined."""
        cdef uint32_t i
        self.from_window = self.from_main = 0
        if self.ruled:
            i = self._by_mode()
        elif self.mode == LRU_MODE:
            i = oldest(self, self.tail)
        else:
            i = self.tail[WINDOW] if self.tail[WINDOW] != 0 else main_tail(self)
        self.chosen = self.lead = i
        expect_to_leave(&self.table, self.table.entries[i].next)
        return i

    cdef uint32_t next_victim(self, uint32_t i) noexcept nogil:
        """O(1) if i is the entry that `victim` or `next_victim` named last."""
        cdef int list
        if self.mode != LRU_MODE:
            if i == self.lead:
                i = self.tail[WINDOW] if self.tail[WINDOW] != 0 else main_tail(self)
            else:
                i = next_of(self, i)
            if i == self.lead:
                i = next_of(self, i)
        else:
            if i == self.lead:
                for list in range(LISTS):
                    self.at[list] = self.tail[list]
                self.walked = oldest(self, self.at)
                self.at[self.table.entries[i].aux & LIST] = self.table.entries[i].next
            elif i != self.walked:
                self.walked = self.victim()
                while self.walked != i:
                    self.next_victim(self.walked)
            i = oldest(self, self.at)
            if i != 0:
                self.at[self.table.entries[i].aux & LIST] = self.table.entries[i].next
            self.walked = i
        self.chosen = i
        self.from_window = self.from_main = 0
        return i

    cdef bint copy_order(self, Engine other) noexcept:
        return False                            # entries are inserted one by one, by rank

    cdef void on_clear(self) noexcept nogil:
        cdef int list
        deallocate(self.ghosts.words)
        self.ghosts.words = NULL
        self.ghosts.allocated = self.ghosts.buckets = self.ghosts.hand = 0
        drop_records(&self.shadow)
        for list in range(LISTS):
            self.tail[list] = self.head[list] = self.count[list] = 0
        self.requests = self.misses = self.short = self.chosen = self.lead = self.walked = 0
        self.hand = 1
        self.ruled = True
        if not self.bounded:
            self.size = 0
        self._fit(self.size)

    cdef uint64_t rank(self, uint32_t i) noexcept nogil:
        """Age, mode and counts of an entry: the future of the order depends on them."""
        cdef Entry* e = &self.table.entries[i]
        return (
            <uint64_t>RANK_BELONGS << 56 | <uint64_t>(age_of(self.now, e) >> 8) << 16
            | <uint64_t>self.mode << 8 | (e.aux & BELOW)
        )

    cdef void on_insert_ranked(self, uint32_t i, uint64_t rank) noexcept nogil:
        cdef uint32_t mode = <uint32_t>(rank >> 8 & 0xFF), low = <uint32_t>(rank & BELOW)
        cdef uint32_t age = <uint32_t>(rank >> 16 & 0xFFFFFF) << 8
        if rank >> 56 != RANK_BELONGS or mode >= MODES or low & LIST >= LISTS:
            age = 0                             # another policy made it: a number of uses, or 0
            mode = self.mode
            low = <uint32_t>min(rank, <uint64_t>15) << 4 | WINDOW
        if in_all(self) == 0 and mode != self.mode:
            self.begun = True
            self._set_mode(<Mode>mode)
            start_shadow(&self.shadow, self.size, self.mode)
        self.chosen = 0
        self.ruled = True
        self.table.entries[i].aux = self.now - min(age, <uint32_t>LONG_AGO) | low
        push(self, i, low & LIST)
        if in_all(self) > self.size:
            self._fit(in_all(self))

    cdef void on_move(self, uint32_t i, uint32_t to) noexcept nogil:
        cdef Entry* e = &self.table.entries[to]
        cdef uint32_t list = e.aux & LIST
        if e.prev != 0:
            self.table.entries[e.prev].next = to
        else:
            self.tail[list] = to
        if e.next != 0:
            self.table.entries[e.next].prev = to
        else:
            self.head[list] = to
        self.chosen = self.lead = self.walked = 0

    cdef Py_ssize_t check_order(self) except -1:
        cdef Table* t = &self.table
        cdef uint32_t i, before
        cdef int list
        cdef Py_ssize_t n = 0, total = 0
        for list in range(LISTS):
            n = 0
            before = 0
            i = self.tail[list]
            while i != 0:
                assert t.entries[i].prev == before, f"links around {i} disagree"
                assert t.entries[i].aux & LIST == <uint32_t>list, f"entry {i} thinks that it stands in another list"
                assert age_of(self.now, &t.entries[i]) >> 31 == 0, f"entry {i} was used in the future"
                n += 1
                assert n <= t.used, f"list {list} is a circle"
                before = i
                i = t.entries[i].next
            assert self.head[list] == before, f"list {list} ends elsewhere"
            assert self.count[list] == n, f"list {list} has {n} entries, not {self.count[list]}"
            total += n
        assert self.window == window_of(self.mode, self.size) and self.window + self.main == max(self.size, self.window), (
            f"a window of {self.window} and {self.main} outside it, of {self.size}"
        )
        assert self.mode == self.shadow.mode, "the shadow believes in another mode"
        assert self.tick == max(self.size >> TICKS_SHIFT, 1), f"a tick of {self.tick} misses for {self.size} entries"
        assert self.chosen <= t.capacity and self.misses < self.tick
        assert self.ghosts.words != NULL or t.capacity == 0, "a table without ghosts"
        assert self.ghosts.buckets <= self.ghosts.allocated
        check_shadow(&self.shadow)
        return total

    # --- behaviour

    cdef void _fit(self, uint32_t size) noexcept nogil:
        """Behave as a cache of `size` entries from now on."""
        self.size = size
        self.short = 0
        self.tick = max(size >> TICKS_SHIFT, <uint32_t>1)
        self.misses = 0
        self.ghosts.buckets = min(buckets_for(size), self.ghosts.allocated)
        self._set_mode(self.mode)
        start_shadow(&self.shadow, size, self.mode)

    cdef void _begin(self) noexcept nogil:
        """Choose the first mode.

        It is LIRS, because no mode costs as much as LRU in a loop; with fewer than ten entries, LRU.
        """
        self.begun = True
        self._set_mode(LIRS_MODE if self.size >= FEW else LRU_MODE)
        self.shadow.mode = self.mode

    cdef void _set_mode(self, Mode mode) noexcept nogil:
        self.mode = mode
        self.window = window_of(mode, self.size)
        self.main = self.size - self.window if self.size > self.window else 0

    cdef void _show(self, uint32_t h, bint missed) noexcept nogil:
        """Show a request to the shadow, if its key is in the sample."""
        cdef Mode mode
        if is_sampled(&self.shadow, scrambled(h)):
            mode = show(&self.shadow, h, missed)
            if mode != self.mode:
                self._set_mode(mode)

    cdef uint32_t _by_mode(self) noexcept nogil:
        """The victim of a full cache, as the mode has it."""
        cdef uint32_t w = self.tail[WINDOW], m = main_tail(self), uses
        if self.mode == LRU_MODE:
            return oldest(self, self.tail)
        if w == 0 or m == 0:
            return w if w != 0 else m
        if self.mode == S3_MODE:
            return self._second_chances()
        if self.count[WINDOW] < self.window:
            return m
        if self.mode == LIRS_MODE:
            return w
        uses = self.table.entries[w].aux & USES
        if uses > self.table.entries[m].aux & USES or (uses >= 6 * ONE_USE and self.chance >> 25 == 0):
            return m
        return w

    cdef uint32_t _second_chances(self) noexcept nogil:
        """The victim of S3-FIFO. Skips entries with a second chance; `on_remove` puts them back."""
        cdef Entry* entries = self.table.entries
        cdef uint32_t w = self.tail[WINDOW], m = main_tail(self), left = self.count[WINDOW]
        cdef int _
        for _ in range(MOST_STEPS):
            if w != 0 and (left >= self.window or m == 0):
                if entries[w].aux & HITS < 2 * ONE_HIT:
                    return w
                self.from_window += 1
                left -= 1
                w = entries[w].next
            elif m != 0:
                if entries[m].aux & HITS == 0:
                    return m
                self.from_main += 1
                m = next_of(self, m)
            else:
                break
        if m == 0 and self.from_main != 0:      # all entries of the main part were used: the first one leaves
            self.from_main -= 1
            return main_tail(self)
        return m if m != 0 else w

    cdef void _put_back(self) noexcept nogil:
        """Put back the entries with a second chance, because the victim has left."""
        cdef Entry* entries = self.table.entries
        cdef uint32_t i
        while self.from_main != 0:
            self.from_main -= 1
            i = main_tail(self)
            entries[i].aux -= ONE_HIT
            move(self, i, PROTECTED)
        while self.from_window != 0:
            self.from_window -= 1
            i = self.tail[WINDOW]
            entries[i].aux &= ~<uint32_t>HITS
            move(self, i, PROTECTED)

    cdef void _settle(self, List list) noexcept nogil:
        """Bring the parts to the sizes that the mode wants, in few steps, after an entry came into `list`."""
        cdef uint32_t steps = 4
        if list == PROTECTED and self.mode == LIRS_MODE and in_main(self) > self.main:
            move(self, main_tail(self), WINDOW)
        while steps != 0 and self.count[WINDOW] > self.window and in_main(self) < self.main:
            move(self, self.tail[WINDOW], PROBATION)
            steps -= 1
        if self.mode == SMALL_MODE or self.mode == LARGE_MODE:
            steps = 8
            while steps != 0 and 5 * <uint64_t>self.count[PROTECTED] > 4 * <uint64_t>self.main:
                move(self, self.tail[PROTECTED], PROBATION)
                steps -= 1

    cdef void _age(self) noexcept nogil:
        """Halve the uses of one entry and three ghosts for every ten requests."""
        cdef uint32_t steps = min(self.requests // 10, <uint32_t>MOST_AGED), aux, _
        self.requests = min(self.requests - 10 * steps, 10 * self.size)
        for _ in range(steps):
            if self.hand >= self.table.fresh:
                self.hand = 1
            if self.table.entries[self.hand].value != NULL:
                aux = self.table.entries[self.hand].aux
                if self.now - (aux & ~<uint32_t>BELOW) > <uint32_t>LONG_AGO:
                    aux = self.now - <uint32_t>LONG_AGO | aux & BELOW
                self.table.entries[self.hand].aux = (aux & ~<uint32_t>USES) | (aux >> 1 & 7 * ONE_USE)
            self.hand += 1
        age_ghosts(&self.ghosts, PER_ENTRY * steps)
