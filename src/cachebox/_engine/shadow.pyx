"""What the shadow does with a request; `shadow.pxd` has the overview, `auto.pyx` the rules of the modes.

Lanes are compared in pairs, by the requests that one hit and the other did not. Old requests fade: those of 20 sizes
ago count about a third. The mode changes if another lane is ahead by the sum of three margins:

- what chance explains: 1.5 standard deviations; more after changes of mode, less at the start, when nothing favours the
  mode yet;
- half a per cent of the requests;
- if the window grows, a quarter of what the change would throw away: the entries of the main part that are not in the
  other lane.

A sample of 1/16 of the keys makes a lane of at least 64 entries only from 1,024 entries on. Smaller caches have larger
samples, and are watched in bursts. A burst is 16 turns of a lane long. The pauses between bursts are counted in misses,
because only misses can be won: a cache that always hits pays nothing.
"""

from libc.math cimport sqrt
from libc.stdint cimport uint16_t, uint32_t, uint64_t, uint8_t
from libc.string cimport memset

from cachebox._engine.table cimport allocate_zeroed, deallocate, reallocate


cdef enum:
    LOAD_SHIFT = 4                  # 1/16 of all requests are shown, on average
    SMALLEST_LANE = 64              # entries, if the cache has that many
    LARGEST_LANE = 512
    FIRST_BURST = 64                # in sizes of a lane
    BURST = 16
    WARM_UP = 2
    FADING = 20
    CALMING = 50
    MOST_USES = 15
    PAUSE = 3                       # sizes of a lane, in misses

cdef double FIRST_CAUTION = 0.25


cdef uint32_t window_of(Mode mode, uint32_t size) noexcept nogil:
    """How many of `size` entries the window is to hold."""
    if mode == LRU_MODE:
        return size
    if mode == S3_MODE:
        return max(size // 4, <uint32_t>1)
    if mode == LARGE_MODE:
        return max(<uint32_t>(<uint64_t>size * 30 // 100), <uint32_t>1)
    return max(size // 100, <uint32_t>1)


cdef uint32_t sample_shift(uint32_t size, uint32_t records) noexcept nogil:
    """One key in 2**shift is in the sample: few enough to cost little, enough for lanes that behave like the cache."""
    cdef uint32_t shift = LOAD_SHIFT
    while shift > 0 and size >> shift < SMALLEST_LANE:
        shift -= 1
    while size >> shift >= LARGEST_LANE or MANY_SIZES * (size >> shift) >= records > 0:
        shift += 1
    return shift


# --- memory ----------------------------------------------------------------------------------------------------------

cdef bint make_records(Shadow* s, uint32_t records) noexcept nogil:
    """Allocate `records` records, keeping the existing ones; False: no memory."""
    cdef Record* larger
    cdef uint16_t* buckets
    cdef uint32_t wanted = 8, i, at
    if records <= s.allocated:
        return True
    while wanted < records:
        wanted *= 2
    buckets = <uint16_t*>allocate_zeroed(wanted, sizeof(uint16_t))
    if buckets == NULL:
        return False
    larger = <Record*>reallocate(s.records, records * sizeof(Record))
    if larger == NULL:
        deallocate(buckets)
        return False
    deallocate(s.buckets)
    s.buckets = buckets
    s.bucket_mask = wanted - 1
    s.records = larger
    s.allocated = records
    for i in range(1, s.fresh):
        if s.records[i].held != 0 or s.records[i].place[0] == GONE:
            at = s.records[i].hash & s.bucket_mask
            s.records[i].chain = buckets[at]
            buckets[at] = <uint16_t>i
    s.limit = min(s.allocated, MANY_SIZES * s.size + 1)
    return True


cdef void drop_records(Shadow* s) noexcept nogil:
    deallocate(s.records)
    deallocate(s.buckets)
    memset(s, 0, sizeof(Shadow))


cdef void start_shadow(Shadow* s, uint32_t size, Mode mode) noexcept nogil:
    """Start over, for a cache of `size` entries."""
    cdef uint32_t shift = sample_shift(size, s.allocated)
    cdef int k
    if s.buckets != NULL:
        memset(s.buckets, 0, (s.bucket_mask + 1) * sizeof(uint16_t))
    memset(s.lanes, 0, sizeof(s.lanes))
    memset(s.differ, 0, sizeof(s.differ))
    s.size = size >> shift
    s.bound = <uint32_t>0xFFFFFFFF >> shift
    s.limit = min(s.allocated, MANY_SIZES * s.size + 1)
    s.fresh = s.hand = 1
    s.free = s.oldest_gone = s.newest_gone = 0
    s.clock = s.misses = s.debt = s.unscored = 0
    s.left = FIRST_BURST * s.size
    s.pause = PAUSE * s.size * ((<uint32_t>1 << (LOAD_SHIFT - shift)) - 1) if shift < LOAD_SHIFT else 0
    s.idle = False
    s.mode = mode
    s.chance = 1
    s.total = 0.0
    s.unit = 1.0
    s.caution = FIRST_CAUTION
    s.growth = 1.0 / (1.0 - 1.0 / (FADING * <double>s.size)) if s.size else 1.0
    s.calming = 1.0 - 1.0 / (CALMING * <double>s.size) if s.size else 1.0
    for k in range(MODES):
        s.lanes[k].window = <uint16_t>window_of(<Mode>k, s.size)


# --- lists of a lane -------------------------------------------------------------------------------------------------

cdef inline void push(Shadow* s, Mode k, uint16_t i, List list) noexcept nogil:
    """Make record i the last victim of a list."""
    cdef Lane* lane = &s.lanes[k]
    cdef Record* r = &s.records[i]
    cdef uint16_t head = lane.head[list]
    r.place[k] = list
    r.prev[k] = head
    r.next[k] = 0
    if head:
        s.records[head].next[k] = i
    else:
        lane.tail[list] = i
    lane.head[list] = i
    lane.count[list] += 1


cdef inline void pull(Shadow* s, Mode k, uint16_t i) noexcept nogil:
    """Take record i out of its list."""
    cdef Lane* lane = &s.lanes[k]
    cdef Record* r = &s.records[i]
    cdef uint8_t list = r.place[k]
    if r.prev[k]:
        s.records[r.prev[k]].next[k] = r.next[k]
    else:
        lane.tail[list] = r.next[k]
    if r.next[k]:
        s.records[r.next[k]].prev[k] = r.prev[k]
    else:
        lane.head[list] = r.prev[k]
    lane.count[list] -= 1
    r.place[k] = NOWHERE


cdef inline void move(Shadow* s, Mode k, uint16_t i, List list) noexcept nogil:
    pull(s, k, i)
    push(s, k, i, list)


cdef inline uint16_t main_tail(const Lane* lane) noexcept nogil:
    return lane.tail[PROBATION] if lane.tail[PROBATION] else lane.tail[PROTECTED]


# --- records ---------------------------------------------------------------------------------------------------------

cdef inline uint16_t find(const Shadow* s, uint32_t h) noexcept nogil:
    cdef uint16_t i = s.buckets[h & s.bucket_mask]
    while i != 0 and s.records[i].hash != h:
        i = s.records[i].chain
    return i


cdef void forget_gone(Shadow* s, uint16_t i) noexcept nogil:
    """Take a record out of the chain of those that are gone."""
    cdef Record* r = &s.records[i]
    if r.prev[0]:
        s.records[r.prev[0]].next[0] = r.next[0]
    else:
        s.oldest_gone = r.next[0]
    if r.next[0]:
        s.records[r.next[0]].prev[0] = r.prev[0]
    else:
        s.newest_gone = r.prev[0]
    r.place[0] = NOWHERE


cdef void give_back(Shadow* s, uint16_t i) noexcept nogil:
    """Free a record that stands in no list."""
    cdef uint16_t* at = &s.buckets[s.records[i].hash & s.bucket_mask]
    while at[0] != i:
        at = &s.records[at[0]].chain
    at[0] = s.records[i].chain
    s.records[i].chain = s.free
    s.free = i


cdef uint16_t new_record(Shadow* s, uint32_t h) noexcept nogil:
    """A record for a new key; if need be, that of the key which has been gone for longest. 0: there is none."""
    cdef uint16_t i = s.free
    cdef Record* r
    if i == 0 and s.fresh >= s.limit and s.oldest_gone != 0:
        i = s.oldest_gone
        forget_gone(s, i)
        give_back(s, i)
    if i != 0:
        s.free = s.records[i].chain
    elif s.fresh < s.limit:
        i = <uint16_t>s.fresh
        s.fresh += 1
    else:
        return 0
    r = &s.records[i]
    memset(r, 0, sizeof(Record))
    memset(r.place, NOWHERE, sizeof(r.place))
    r.hash = h
    r.chain = s.buckets[h & s.bucket_mask]
    s.buckets[h & s.bucket_mask] = i
    return i


cdef inline void evict(Shadow* s, Mode k, uint16_t i) noexcept nogil:
    """Remove a record from a lane. A record that no lane holds any more is gone."""
    cdef Record* r = &s.records[i]
    pull(s, k, i)
    r.held -= 1
    if r.held == 0:
        r.place[0] = GONE
        r.prev[0] = s.newest_gone
        r.next[0] = 0
        if s.newest_gone:
            s.records[s.newest_gone].next[0] = i
        else:
            s.oldest_gone = i
        s.newest_gone = i


# --- the behaviours --------------------------------------------------------------------------------------------------

cdef inline void hit(Shadow* s, Mode k, uint16_t i) noexcept nogil:
    cdef Record* r = &s.records[i]
    cdef Lane* lane = &s.lanes[k]
    cdef uint16_t tail
    if k == S3_MODE:
        r.hits += r.hits < 3
    elif k == LRU_MODE:
        move(s, k, i, WINDOW)
    elif r.place[k] != WINDOW:
        move(s, k, i, PROTECTED)
    else:
        tail = main_tail(lane)
        if k == LIRS_MODE and tail != 0 and r.last > s.records[tail].last:
            move(s, k, i, PROTECTED)
            move(s, k, tail, WINDOW)
        else:
            move(s, k, i, WINDOW)


cdef inline uint16_t victim_of(Shadow* s, Mode k) noexcept nogil:
    """The victim of a full lane. Puts back records that get a second chance."""
    cdef Lane* lane = &s.lanes[k]
    cdef uint16_t w = lane.tail[WINDOW], m = main_tail(lane)
    cdef uint32_t steps = 0
    if k == S3_MODE:
        while steps < MOST_STEPS:
            w = lane.tail[WINDOW]
            m = main_tail(lane)
            if w != 0 and (lane.count[WINDOW] >= lane.window or m == 0):
                if s.records[w].hits < 2:
                    return w
                s.records[w].hits = 0
                move(s, k, w, PROTECTED)
            else:
                if s.records[m].hits == 0:
                    return m
                s.records[m].hits -= 1
                move(s, k, m, PROTECTED)
            steps += 1
        return main_tail(lane) if main_tail(lane) else lane.tail[WINDOW]
    if w == 0 or (m != 0 and lane.count[WINDOW] < lane.window):
        return m
    if m == 0 or k == LRU_MODE or k == LIRS_MODE:
        return w
    if s.records[w].uses > s.records[m].uses:
        return m
    return m if s.records[w].uses >= 6 and s.chance >> 25 == 0 else w


cdef inline void miss(Shadow* s, Mode k, uint16_t i, bint known) noexcept nogil:
    cdef Record* r = &s.records[i]
    cdef Lane* lane = &s.lanes[k]
    cdef uint32_t most = s.size - lane.window, steps
    cdef uint16_t tail
    cdef bint promoted = False
    if k == S3_MODE:
        s.misses += 1
    if <uint32_t>lane.count[WINDOW] + lane.count[PROBATION] + lane.count[PROTECTED] >= s.size:
        evict(s, k, victim_of(s, k))
    if k == LIRS_MODE and known:
        tail = main_tail(lane)
        promoted = tail != 0 and r.last > s.records[tail].last
    elif k == S3_MODE and known:
        promoted = 4 * (s.misses - r.missed) <= 5 * s.size
    if k == S3_MODE:
        r.hits = 0
    push(s, k, i, PROTECTED if promoted else WINDOW)
    r.held += 1
    if promoted and k == LIRS_MODE and <uint32_t>lane.count[PROBATION] + lane.count[PROTECTED] > most:
        move(s, k, main_tail(lane), WINDOW)
    steps = 4
    while (steps and lane.count[WINDOW] > lane.window
           and <uint32_t>lane.count[PROBATION] + lane.count[PROTECTED] < most):
        move(s, k, lane.tail[WINDOW], PROBATION)
        steps -= 1
    if k == SMALL_MODE or k == LARGE_MODE:
        steps = 8
        while steps and 5 * <uint32_t>lane.count[PROTECTED] > 4 * most:
            move(s, k, lane.tail[PROTECTED], PROBATION)
            steps -= 1


# --- requests ----------------------------------------------------------------------------------------------------------

cdef Mode show(Shadow* s, uint32_t h, bint missed) noexcept nogil:
    """Show a request for a key of the sample. Returns the mode to use from now on. O(1): at most 64 steps a lane."""
    cdef uint32_t hits = 0
    cdef int k
    cdef uint16_t i
    cdef bint known
    cdef Record* r
    if s.size == 0:
        return s.mode
    if s.pause:
        if s.left == 0:
            s.idle = not s.idle
            s.left = s.pause if s.idle else BURST * s.size
            s.unscored = WARM_UP * s.size
        s.left -= missed or not s.idle
        if s.idle:
            return s.mode
    s.clock += 1
    s.chance = s.chance * <uint32_t>1664525 + <uint32_t>1013904223
    i = find(s, h)
    known = i != 0
    if not known:
        i = new_record(s, h)
        if i == 0:
            return s.mode
    r = &s.records[i]
    if r.place[0] == GONE:
        forget_gone(s, i)
    for k in range(MODES):
        if r.place[k] < LISTS:
            hits |= <uint32_t>1 << k
    for k in range(MODES):                  # unrolled by the compiler: k is a constant in each pass
        if hits >> k & 1:
            hit(s, <Mode>k, i)
        else:
            miss(s, <Mode>k, i, known)
    r.last = s.clock
    r.missed = s.misses
    r.uses += r.uses < MOST_USES
    age_records(s)
    if s.unscored:
        s.unscored -= 1
    else:
        score(s, hits)
    return s.mode


cdef inline void age_records(Shadow* s) noexcept nogil:
    """Halve uses, at a pace that reaches each record once in ten requests for each entry of a lane."""
    s.debt += MANY_SIZES
    while s.debt >= 10:
        s.debt -= 10
        if s.hand >= s.limit:
            s.hand = 1
        if s.hand < s.fresh:
            s.records[s.hand].uses >>= 1
        s.hand += 1


cdef inline void score(Shadow* s, uint32_t hits) noexcept nogil:
    """Count the lanes that hit; perhaps change the mode, to one that hit where the current one missed."""
    cdef int i, j
    cdef uint32_t every = (<uint32_t>1 << MODES) - 1
    s.unit *= s.growth
    s.total += s.unit
    s.caution = 1.0 + (s.caution - 1.0) * s.calming
    if hits != 0:
        for i in range(MODES):
            if hits >> i & 1:
                s.lanes[i].hits += s.unit
        if hits != every:
            for i in range(MODES):
                for j in range(i + 1, MODES):
                    if (hits >> i ^ hits >> j) & 1:
                        s.differ[i][j] += s.unit
            if not hits >> <uint32_t>s.mode & 1:
                choose(s, hits)
    if s.unit > 1e100:
        s.total /= s.unit
        for i in range(MODES):
            s.lanes[i].hits /= s.unit
            for j in range(MODES):
                s.differ[i][j] /= s.unit
        s.unit = 1.0


cdef uint32_t lost(const Shadow* s, Mode current, Mode other) noexcept nogil:
    """How many entries of the main part of one lane another lane does not hold."""
    cdef uint32_t n = 0
    cdef uint16_t i
    cdef int list
    for list in range(PROBATION, LISTS):
        i = s.lanes[current].tail[list]
        while i != 0:
            n += s.records[i].place[other] >= LISTS
            i = s.records[i].next[current]
    return n


cdef void choose(Shadow* s, uint32_t hits) noexcept nogil:
    cdef int i, current = s.mode, found = s.mode
    cdef double ahead, most = 0.0, noise, needed
    for i in range(MODES):
        if not hits >> i & 1:
            continue
        ahead = (s.lanes[i].hits - s.lanes[current].hits) / s.unit
        noise = (s.differ[i][current] if i < current else s.differ[current][i]) / s.unit
        needed = s.caution * (1.5 * sqrt(noise) + 1.0)
        needed += 0.005 * (s.total / s.unit)
        if ahead <= needed or ahead <= most:
            continue
        if s.lanes[i].window > s.lanes[current].window:
            needed += 0.25 * <double>min(s.lanes[i].window - s.lanes[current].window, <int>lost(s, current, i))
        if ahead > needed:
            most = ahead
            found = i
    if found != current:
        s.mode = <Mode>found
        s.caution = min(1.5 * s.caution, 8.0)


cdef void show_removal(Shadow* s, uint32_t h) noexcept nogil:
    """A key of the sample left the cache for another reason than lack of room: take it out of every lane."""
    cdef int k
    cdef uint16_t i
    if s.size == 0:
        return
    i = find(s, h)
    if i == 0:
        return
    if s.records[i].place[0] == GONE:
        forget_gone(s, i)
    for k in range(MODES):
        if s.records[i].place[k] < LISTS:
            pull(s, <Mode>k, i)
    s.records[i].held = 0
    give_back(s, i)


# --- for tests -------------------------------------------------------------------------------------------------------

cdef int check_shadow(Shadow* s) except -1:
    """Verify every invariant; raises AssertionError if one does not hold."""
    cdef int k, i, list
    cdef uint32_t n, total, held = 0, used = 0, found = 0, free = 0
    cdef uint16_t at, before
    if s.size == 0:
        return 0
    assert s.limit <= s.allocated and s.limit <= MANY_SIZES * s.size + 1, "more records than there may be"
    assert 1 <= s.fresh <= max(s.limit, 1), f"fresh {s.fresh} of {s.limit} records"
    assert 0 <= <int>s.mode < MODES, f"mode {s.mode}"
    for k in range(MODES):
        total = 0
        for list in range(LISTS):
            n = 0
            before = 0
            at = s.lanes[k].tail[list]
            while at != 0:
                assert s.records[at].prev[k] == before, f"links around {at} of lane {k} disagree"
                assert s.records[at].place[k] == list, f"record {at} of lane {k} thinks that it is elsewhere"
                n += 1
                assert n <= s.size, f"list {list} of lane {k} is a circle"
                before = at
                at = s.records[at].next[k]
            assert s.lanes[k].head[list] == before, f"list {list} of lane {k} ends elsewhere"
            assert s.lanes[k].count[list] == n, f"list {list} of lane {k} has {n}, not {s.lanes[k].count[list]}"
            total += n
        assert total <= s.size, f"lane {k} holds {total} of {s.size}"
        held += total
    for k in range(<int>s.bucket_mask + 1 if s.buckets != NULL else 0):
        at = s.buckets[k]
        while at != 0:
            found += 1
            assert found < s.fresh, "a chain of records is a circle"
            assert s.records[at].hash & s.bucket_mask == <uint32_t>k, f"record {at} is in another's bucket"
            assert s.records[at].hash * <uint32_t>0x9E3779B1 <= s.bound, f"record {at} is not of the sample"
            n = 0                           # no list is made here: the collector might run and change the cache
            for i in range(MODES):
                n += s.records[at].place[i] < LISTS
            assert n == s.records[at].held, f"record {at} is held {n} times, not {s.records[at].held}"
            assert (n == 0) == (s.records[at].place[0] == GONE), f"record {at} is held {n} times, and gone"
            used += n
            at = s.records[at].chain
    assert used == held, f"lanes hold {held}, records know of {used}"
    at = s.free
    while at != 0:
        free += 1
        assert free < s.fresh, "the chain of free records is a circle"
        at = s.records[at].chain
    assert found + free + 1 == s.fresh, f"{found} records, {free} free, of {s.fresh - 1}"
    n = 0
    before = 0
    at = s.oldest_gone
    while at != 0:
        assert s.records[at].place[0] == GONE and s.records[at].prev[0] == before, f"links around {at} disagree"
        n += 1
        assert n <= found, "the chain of what is gone is a circle"
        before = at
        at = s.records[at].next[0]
    assert s.newest_gone == before, "the chain of what is gone ends elsewhere"
    return 0
