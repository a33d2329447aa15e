"""The rules of the policy AUTO, as plain as possible; `test_auto` compares the compiled engine with this model.

Lists are Python lists, next victim first. The engine does the same in O(1): it unlinks an entry for which this model
searches.
"""

from __future__ import annotations

from math import sqrt

LRU, LIRS, S3, SMALL, LARGE = MODES = range(5)
WINDOW, PROBATION, PROTECTED = LISTS = range(3)
MASK32, MASK64 = 2**32 - 1, 2**64 - 1


def window_of(mode: int, size: int) -> int:
    """The window's share of `size` entries."""
    if mode == LRU:
        return size
    return max(size // 4 if mode == S3 else size * 30 // 100 if mode == LARGE else size // 100, 1)


def scrambled(h: int) -> int:
    return h * 0x9E3779B1 & MASK32


def next_chance(chance: int) -> int:
    return (chance * 1664525 + 1013904223) & MASK32


class Parts:
    """A window, and a main part of two lists, as in the cache and in each lane of its shadow."""

    def __init__(self):
        self.lists = [[], [], []]

    def __len__(self):
        return sum(map(len, self.lists))

    def main(self):
        return len(self.lists[PROBATION]) + len(self.lists[PROTECTED])

    def main_tail(self):
        return next((entries[0] for entries in (self.lists[PROBATION], self.lists[PROTECTED]) if entries), None)

    def tail(self, which):
        return self.lists[which][0] if self.lists[which] else None

    def place(self, key):
        return next((which for which in LISTS if key in self.lists[which]), None)

    def push(self, key, which):
        self.lists[which].append(key)

    def pull(self, key):
        self.lists[self.place(key)].remove(key)

    def move(self, key, which):
        self.pull(key)
        self.push(key, which)

    def settle(self, mode, window, main, came_to):
        """After an insertion: bring the parts to their sizes, in few steps."""
        if came_to == PROTECTED and mode == LIRS and self.main() > main:
            self.move(self.main_tail(), WINDOW)
        for _ in range(4):
            if len(self.lists[WINDOW]) > window and self.main() < main:
                self.move(self.tail(WINDOW), PROBATION)
        if mode in (SMALL, LARGE):
            for _ in range(8):
                if 5 * len(self.lists[PROTECTED]) > 4 * main:
                    self.move(self.tail(PROTECTED), PROBATION)


# --- ghosts -----------------------------------------------------------------------------------------------------------


class Ghosts:
    """Buckets of eight: [fingerprint, uses, time of last use modulo 2**14] or None."""

    def __init__(self, entries):
        self.buckets = (3 * entries + 7) // 8
        self.words = [None] * (8 * self.buckets)
        self.hand = 0

    def places(self, h):
        first = 8 * (h * self.buckets >> 32)
        return range(first, first + 8)

    def put(self, h, uses, last, now):
        mark = scrambled(h) >> 18
        chosen, oldest = None, -1
        for at in self.places(h):
            word = self.words[at]
            if word is None or word[0] == mark:
                chosen = at
                break
            age = (now - word[2]) % 2**14
            if age >= oldest:
                chosen, oldest = at, age
        self.words[chosen] = [mark, uses, last % 2**14]
        if self.words[chosen] == [0, 0, 0]:         # it would look like an empty word
            self.words[chosen] = None

    def take(self, h):
        for at in self.places(h):
            word = self.words[at]
            if word is not None and word[0] == scrambled(h) >> 18:
                self.words[at] = None
                return word
        return None

    def age(self, steps):
        for _ in range(steps):
            self.hand %= len(self.words)
            word = self.words[self.hand]
            if word is not None:
                word[1] //= 2
                if word == [0, 0, 0]:
                    self.words[self.hand] = None
            self.hand += 1


# --- the shadow -------------------------------------------------------------------------------------------------------


class Record:
    def __init__(self, h):
        self.hash, self.last, self.missed, self.uses, self.hits = h, 0, 0, 0, 0


class Shadow:
    def __init__(self, size, mode, chance=1):
        shift = 4
        while shift > 0 and size >> shift < 64:
            shift -= 1
        while size >> shift >= 512:
            shift += 1
        self.size = size >> shift
        self.bound = MASK32 >> shift
        self.mode, self.chance = mode, chance
        self.records = {}                           # hash: Record
        self.gone = []                              # hashes that no lane holds, oldest first
        self.slots = []                             # of the records, for ageing: a hash, or None
        self.free = []
        self.lanes = [Parts() for _ in MODES]
        self.clock = self.misses = self.debt = self.unscored = 0
        self.hand = 1
        self.left = 64 * self.size
        self.pause = 3 * self.size * (2 ** (4 - shift) - 1) if shift < 4 else 0
        self.idle = False
        self.hits = [0.0] * 5
        self.differ = {(i, j): 0.0 for i in MODES for j in MODES if i < j}
        self.total, self.unit, self.caution = 0.0, 1.0, 0.25
        self.growth = 1.0 / (1.0 - 1.0 / (20 * float(self.size)))
        self.calming = 1.0 - 1.0 / (50 * float(self.size))

    def is_sampled(self, h):
        return scrambled(h) <= self.bound

    def show(self, h, missed):
        if self.pause:
            if self.left == 0:
                self.idle = not self.idle
                self.left = self.pause if self.idle else 16 * self.size
                self.unscored = 2 * self.size
            self.left -= missed or not self.idle
            if self.idle:
                return
        self.clock += 1
        self.chance = next_chance(self.chance)
        known = h in self.records
        record = self.records[h] if known else self.new_record(h)
        if h in self.gone:
            self.gone.remove(h)
        hit = [lane.place(h) is not None for lane in self.lanes]
        for mode in MODES:
            if hit[mode]:
                self.hit(mode, record)
            else:
                self.miss(mode, record, known)
        record.last, record.missed = self.clock, self.misses
        record.uses = min(record.uses + 1, 15)
        self.age()
        if self.unscored:
            self.unscored -= 1
        else:
            self.score(hit)

    def new_record(self, h):
        if not self.free and len(self.slots) == 6 * self.size:
            self.drop(self.gone.pop(0))
        if self.free:
            self.slots[self.free.pop()] = h
        else:
            self.slots.append(h)
        self.records[h] = Record(h)
        return self.records[h]

    def drop(self, h):
        at = self.slots.index(h)
        self.slots[at] = None
        self.free.append(at)
        del self.records[h]

    def remove(self, h):
        if h in self.records:
            if h in self.gone:
                self.gone.remove(h)
            for lane in self.lanes:
                if lane.place(h) is not None:
                    lane.pull(h)
            self.drop(h)

    def hit(self, mode, record):
        lane, h = self.lanes[mode], record.hash
        tail = lane.main_tail()
        if mode == S3:
            record.hits = min(record.hits + 1, 3)
        elif mode == LRU:
            lane.move(h, WINDOW)
        elif lane.place(h) != WINDOW:
            lane.move(h, PROTECTED)
        elif mode == LIRS and tail is not None and record.last > self.records[tail].last:
            lane.move(h, PROTECTED)
            lane.move(tail, WINDOW)
        else:
            lane.move(h, WINDOW)

    def miss(self, mode, record, known):
        lane, h = self.lanes[mode], record.hash
        window = window_of(mode, self.size)
        main = self.size - window
        self.misses += mode == S3
        if len(lane) >= self.size:
            self.evict(lane, self.victim(mode, lane, window))
        promoted = False
        if mode == LIRS and known:
            tail = lane.main_tail()
            promoted = tail is not None and record.last > self.records[tail].last
        elif mode == S3:
            promoted = known and 4 * (self.misses - record.missed) <= 5 * self.size
            record.hits = 0
        lane.push(h, PROTECTED if promoted else WINDOW)
        lane.settle(mode, window, main, PROTECTED if promoted else WINDOW)

    def evict(self, lane, h):
        lane.pull(h)
        if all(other.place(h) is None for other in self.lanes):
            self.gone.append(h)

    def victim(self, mode, lane, window):
        if mode == S3:
            for _ in range(64):
                w, m = lane.tail(WINDOW), lane.main_tail()
                if w is not None and (len(lane.lists[WINDOW]) >= window or m is None):
                    if self.records[w].hits < 2:
                        return w
                    self.records[w].hits = 0
                    lane.move(w, PROTECTED)
                else:
                    if self.records[m].hits == 0:
                        return m
                    self.records[m].hits -= 1
                    lane.move(m, PROTECTED)
            return lane.tail(WINDOW) if lane.main_tail() is None else lane.main_tail()
        w, m = lane.tail(WINDOW), lane.main_tail()
        if w is None or (m is not None and len(lane.lists[WINDOW]) < window):
            return m
        if m is None or mode in (LRU, LIRS):
            return w
        uses = self.records[w].uses
        return m if uses > self.records[m].uses or (uses >= 6 and self.chance >> 25 == 0) else w

    def age(self):
        self.debt += 6
        while self.debt >= 10:
            self.debt -= 10
            if self.hand >= 6 * self.size + 1:
                self.hand = 1
            if self.hand <= len(self.slots) and self.slots[self.hand - 1] is not None:
                self.records[self.slots[self.hand - 1]].uses //= 2
            self.hand += 1

    def score(self, hit):
        self.unit *= self.growth
        self.total += self.unit
        self.caution = 1.0 + (self.caution - 1.0) * self.calming
        for i in MODES:
            self.hits[i] += self.unit if hit[i] else 0.0
        for i, j in self.differ:
            self.differ[i, j] += self.unit if hit[i] != hit[j] else 0.0
        if any(hit) and not hit[self.mode]:
            self.choose(hit)
        if self.unit > 1e100:
            self.hits = [weight / self.unit for weight in self.hits]
            self.differ = {pair: weight / self.unit for pair, weight in self.differ.items()}
            self.total, self.unit = self.total / self.unit, 1.0

    def choose(self, hit):
        """Change to the mode that is ahead by more than chance, and by more than the change costs."""
        now, chosen, most = self.mode, self.mode, 0.0
        for i in MODES:
            if hit[i]:
                ahead = (self.hits[i] - self.hits[now]) / self.unit
                noise = self.differ[min(i, now), max(i, now)] / self.unit
                needed = self.caution * (1.5 * sqrt(noise) + 1.0)
                needed += 0.005 * (self.total / self.unit)
                wider = window_of(i, self.size) - window_of(now, self.size)
                if wider > 0:
                    lane = self.lanes[now]
                    main = lane.lists[PROBATION] + lane.lists[PROTECTED]
                    needed += 0.25 * min(wider, sum(self.lanes[i].place(h) is None for h in main))
                if ahead > needed and ahead > most:
                    chosen, most = i, ahead
        if chosen != now:
            self.mode, self.caution = chosen, min(1.5 * self.caution, 8.0)


# --- the policy -------------------------------------------------------------------------------------------------------


class Entry:
    def __init__(self, h, last, uses):
        self.hash, self.last, self.uses, self.hits = h, last, uses, 0


class AutoModel(Parts):
    """`AutoPolicy(max_size, seed)`, for keys that are their own hash: small ints."""

    def __init__(self, max_size, seed):
        super().__init__()
        bits = (seed + 0x9E3779B97F4A7C15) & MASK64
        bits = (bits ^ bits >> 30) * 0xBF58476D1CE4E5B9 & MASK64
        bits = (bits ^ bits >> 27) * 0x94D049BB133111EB & MASK64
        self.seed = bits ^ bits >> 31
        self.max_size = max_size
        self.entries = {}                           # key: Entry
        self.slots, self.free = [], []              # for ageing: the keys in the order of the table's slots
        self.now = self.misses = self.requests = self.short = 0
        self.hand = 1
        self.chance = self.seed >> 32 | 1
        self.ruled = True
        self.fit(max_size, LIRS if max_size >= 10 else LRU)
        self.capacity = 0                           # of the table, and so of the ghosts

    @property
    def mode(self):
        return self.shadow.mode

    def fit(self, size, mode):
        self.size, self.short, self.misses = size, 0, 0
        self.tick = max(size >> 11, 1)
        self.shadow = Shadow(size, mode)

    def hash_of(self, key):
        return (((key ^ self.seed) * 0x9F3C6EF372FE94F9) & MASK64) >> 32

    def age_of(self, key):
        return self.now - self.entries[key].last

    def show(self, key, missed):
        h = self.entries[key].hash
        if self.shadow.is_sampled(h):
            self.shadow.show(h, missed)

    # The methods for a user of the policy.

    def add(self, key):
        if key in self.entries:
            self.access(key)
            return
        if len(self.entries) == self.max_size:
            self.evict()
        if self.free:
            self.slots[self.free.pop()] = key
        else:
            self.slots.append(key)
            if len(self.slots) > self.capacity:
                self.capacity = min(max(2 * self.capacity, 4), self.max_size)
                self.ghosts = Ghosts(self.capacity)
        self.admit(key)

    def access(self, key):
        entry, place = self.entries[key], self.place(key)
        last, entry.last = entry.last, self.now
        entry.uses, entry.hits = min(entry.uses + 1, 15), min(entry.hits + 1, 3)
        self.requests += 1
        if last != self.now and self.mode != S3:
            tail = self.main_tail()
            if self.mode == LRU:
                self.move(key, place)
            elif place != WINDOW:
                self.move(key, PROTECTED)
            elif self.mode == LIRS and tail is not None and self.now - last < self.age_of(tail):
                self.move(key, PROTECTED)
                self.move(tail, WINDOW)
            else:
                self.move(key, WINDOW)
        self.show(key, False)

    def remove(self, key):
        """Remove a key, but not to make room: no ghost stays, and the shadow forgets it, too."""
        h = self.entries[key].hash
        self.pull(key)
        self.drop(key)
        if self.shadow.is_sampled(h):
            self.shadow.remove(h)

    def evict(self):
        victim, from_window, from_main = self.victim()
        entry = self.entries[victim]
        self.pull(victim)
        self.ghosts.put(entry.hash, entry.uses, entry.last, self.now)
        for _ in range(from_main):
            tail = self.main_tail()
            self.entries[tail].hits -= 1
            self.move(tail, PROTECTED)
        for _ in range(from_window):
            tail = self.tail(WINDOW)
            self.entries[tail].hits = 0
            self.move(tail, PROTECTED)
        self.ruled = False
        self.drop(victim)
        return victim

    def __iter__(self):
        """The keys in the order in which `evict` takes them: the first by the mode's rule, the others by the lists."""
        if self.entries:
            first = self.victim()[0]
            yield first
            if self.mode == LRU:
                rest = [list(entries) for entries in self.lists]
                next(entries for entries in rest if first in entries).remove(first)
                while any(rest):
                    tails = [entries for entries in rest if entries]
                    yield min(tails, key=lambda entries: self.entries[entries[0]].last).pop(0)
            else:
                yield from (key for entries in self.lists for key in entries if key != first)

    # The rules.

    def drop(self, key):
        del self.entries[key]
        at = self.slots.index(key)
        self.slots[at] = None
        self.free.append(at)

    def victim(self):
        """The victim, and how many entries get a second chance, at the tails of the window and of the main part."""
        w, m = self.tail(WINDOW), self.main_tail()
        window = window_of(self.mode, self.size)
        if self.mode == LRU:
            tails = [self.tail(which) for which in LISTS if self.lists[which]]
            return min(tails, key=lambda key: self.entries[key].last), 0, 0
        if w is None or m is None or not self.ruled:
            return (m if w is None else w), 0, 0
        if self.mode == S3:
            return self.second_chances(window)
        if len(self.lists[WINDOW]) < window:
            return m, 0, 0
        if self.mode == LIRS:
            return w, 0, 0
        uses = self.entries[w].uses
        return (m if uses > self.entries[m].uses or (uses >= 6 and self.chance >> 25 == 0) else w), 0, 0

    def second_chances(self, window):
        ws, ms = list(self.lists[WINDOW]), self.lists[PROBATION] + self.lists[PROTECTED]
        from_window = from_main = 0
        for _ in range(64):
            w = ws[from_window] if from_window < len(ws) else None
            m = ms[from_main] if from_main < len(ms) else None
            if w is not None and (len(ws) - from_window >= window or m is None):
                if self.entries[w].hits < 2:
                    return w, from_window, from_main
                from_window += 1
            elif m is not None:
                if self.entries[m].hits == 0:
                    return m, from_window, from_main
                from_main += 1
            else:
                break
        w = ws[from_window] if from_window < len(ws) else None
        m = ms[from_main] if from_main < len(ms) else None
        if m is None and from_main:
            return ms[0], from_window, from_main - 1
        return (w if m is None else m), from_window, from_main

    def admit(self, key):
        h = self.hash_of(key)
        self.requests += 1
        self.misses += 1
        if self.misses >= self.tick:
            self.misses = 0
            self.now += 1
        ghost = self.ghosts.take(h)
        place, uses = WINDOW, 1
        if ghost is not None:
            uses = min(ghost[1] + 1, 15)
            age = (self.now - ghost[2]) % 2**14
            tail = self.main_tail()
            if self.mode == LIRS and tail is not None and age < self.age_of(tail):
                place = PROTECTED
            elif self.mode == S3 and 4 * age * self.tick <= 5 * self.size:
                place = PROTECTED
        self.entries[key] = Entry(h, self.now, uses)
        window = window_of(self.mode, self.size)
        self.push(key, place)
        self.settle(self.mode, window, max(self.size - window, 0), place)
        self.age()
        self.chance = next_chance(self.chance)
        if not self.ruled and 3 * len(self) < 2 * self.size:
            self.short += 1
            if self.short > len(self):              # early evictions again and again: the cache does not grow
                self.fit(len(self), self.mode)
                self.ghosts.buckets = (3 * self.size + 7) // 8
        elif 2 * len(self) > 3 * self.size:
            self.fit(len(self), self.mode)
            self.ghosts.buckets = (3 * self.size + 7) // 8
        else:
            self.short = 0
        self.ruled = True
        self.show(key, True)

    def age(self):
        """Halve the uses of one entry and of three ghosts for every ten requests."""
        steps = min(self.requests // 10, 64)
        self.requests = min(self.requests - 10 * steps, 10 * self.size)
        for _ in range(steps):
            if self.hand >= len(self.slots) + 1:
                self.hand = 1
            key = self.slots[self.hand - 1]
            if key is not None:
                self.entries[key].uses //= 2
            self.hand += 1
        self.ghosts.age(3 * steps)
