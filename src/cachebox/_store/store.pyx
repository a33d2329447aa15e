"""The work under `Cache`; `store.pxd` has the overview."""

from cpython.object cimport PyObject
from libc.float cimport DBL_MAX
from libc.math cimport INFINITY, nextafter
from libc.stdint cimport uint32_t, uint64_t

from cachebox._engine.table cimport (
    UNCERTAIN, Engine, Table, candidate, decref, drop_detached, hash_of, home, incref, lookup, mixed, put_value,
    take_over, unlikely, write_down_miss, xdecref,
)
from cachebox._platform.callers cimport this_greenlet
from cachebox._platform.caught cimport ask_hash, caught
from cachebox._platform.clock cimport coarse_now, precise_now
from cachebox._platform.lock cimport SharedLock, acquire, let_others_in, pause, release
from cachebox._store.deadlines cimport deadline
from cachebox._store.notices cimport as_exhaustion, call_sweeper, notify
from cachebox._store.operation cimport (
    EXPIRED, FAILED, NO_CAUSE, SIZE, drop_all, find_by_comparing, note_removal, reserve_removal, start,
)
from cachebox._store.options cimport as_float, lifetime_of
from cachebox._store.python_policy cimport PythonPolicy
from cachebox._store.sizes cimport size_of_pair
from cachebox._store.state cimport (
    BY_VALUE, CLOCK_LAGS, DONE, EXPIRES, HAS_CALLBACKS, IDLES, ISOLATED, PRECISE, STALE, USER_CLOCK, VISITS_APART,
    WEIGHED, Outcome, State, every_key, hash_in,
)
from cachebox._store.tags cimport Tag, detach_all
from cachebox.stats cimport HITS, MISSES, NEGATIVE_HITS, SETS, CacheStats

from cachebox._platform.awaitables import refuse_awaitable


cdef extern from "_platform/numbers.h":
    bint plain_weight "cb_plain_weight"(PyObject* given, double* weight) noexcept


cdef enum:
    PURGED_AT_ONCE = 256            # expired entries that leave under one hold of the lock
    FEW_TAGS = 64                   # unused tags that are not worth a search
    MOST_TAGS = 1 << 30
    VICTIMS_TOO_MANY = 100          # the most evictions in one operation beyond the number of entries

cdef double AT_A_STRETCH = 0.003    # seconds that the sweeper works before it lets other threads run


cdef class Store(State):

    cdef int begin(self, Engine engine) except -1:
        """Make the lock, which all users of the cache share, and the counters. Neither is ever replaced."""
        self.shared_lock = SharedLock.__new__(SharedLock)
        self.lock = &self.shared_lock.lock
        self.statistics = CacheStats.under(self.shared_lock)
        self.counts = self.statistics.counts
        self.first_engine = engine
        self.equip(engine)
        return 0

    # --- time and weight: may run the user's code -------------------------------------------------------------------

    cdef double now(self, double lifetime) except? -1.0:
        """The time in seconds, for an operation that gives an entry `lifetime`."""
        cdef double seconds
        if not self.modes & USER_CLOCK or self.clock is None:
            return precise_now() if self.modes & PRECISE else coarse_now()
        if lifetime == INFINITY and not self.modes & (EXPIRES | IDLES):
            return self.latest                  # nothing depends on it
        seconds = as_number(self.clock(), "clock")
        if seconds != seconds:
            raise ValueError("clock must return a number of seconds, not NaN")
        seconds = min(max(seconds, -DBL_MAX), DBL_MAX)    # no deadline is the sum of two infinities, which would be NaN
        acquire(self.lock)
        if seconds > self.latest:                  # a clock that steps back revives no entry
            self.latest = seconds
        seconds = self.latest
        release(self.lock)
        return seconds

    cdef double weigh(self, object key, object value) except -1.0:
        """The weight of an entry, by the weigher or in bytes."""
        cdef double weight
        if self.measures:
            return size_of_pair(key, value)
        if not self.modes & WEIGHED or self.weigher is None:
            return 0.0
        given = self.weigher(key, value)
        if plain_weight(<PyObject*>given, &weight):
            return weight
        weight = as_number(given, "weigher")
        if isinstance(given, int) and given > weight:
            weight = nextafter(weight, INFINITY)        # no float equals that int: round up, so that the bound holds
        if not weight >= 0.0:
            raise ValueError(f"weigher must return a weight of 0 or more, not {weight}")
        return weight

    cdef double lifetime_for(self, double lifetime, object key, object value) except -1.0:
        """The lifetime of an entry: the given one, or what `default_ttl` returns for the value."""
        if lifetime != BY_VALUE or self.ttl_of is None:
            return lifetime
        given = self.ttl_of(key, value)
        refuse_awaitable("default_ttl", given)
        return lifetime_of(given, "what default_ttl returns")

    cdef object copy_of(self, object value):
        """A copy of a value, if the cache isolates: one is stored on its way in, and one returned on its way out."""
        if not self.modes & ISOLATED or self.copier is None:
            return value
        copied = self.copier(value)
        refuse_awaitable("isolate", copied) if copied is not value else None
        return copied

    cdef double weigh_checked(self, object key, object value) except -1.0:
        """The weight of an entry; ValueError if the entry alone is too heavy."""
        cdef double weight = self.weigh(key, value)
        if weight > self.bound_weight and self.measures:
            raise ValueError(f"key and value take {weight:.0f} bytes, more than max_bytes={self.max_bytes_given}")
        if weight > self.bound_weight:
            raise ValueError(f"weigher gives this entry {weight:g}, more than max_weight={self.max_weight_given}")
        return weight

    cdef PyObject* own_copy(self, PyObject* value) except? NULL:
        """The copy that a lookup returns for a value, whose reference it takes over. NULL stays NULL."""
        if value == NULL or not self.modes & ISOLATED:
            return value
        copied = self.copy_of(take_over(value))
        incref(<PyObject*>copied)
        return <PyObject*>copied

    # --- the end of an operation: all that may run Python code ------------------------------------------------------

    cdef int finish(self, Operation* op) except -1:
        """Notify the python policy and the callbacks, and drop what left."""
        cdef uint32_t k
        if self.unsure:
            self.know_writer()
        if op.n == 0 and not op.has_policy_lock and not op.strays and not op.wake_sweeper and op.detached == NULL:
            return 0
        failure = self.settle(op) if op.has_policy_lock or op.strays else None
        if op.wake_sweeper and (<Quietly>call_sweeper)(self) == -1:
            interruption = as_exhaustion(caught())
            failure = interruption if failure is None else failure
        try:
            if self.modes & HAS_CALLBACKS:
                for k in range(op.n):
                    if op.removed[k].cause != NO_CAUSE:
                        interruption = notify(self, op.removed[k].key, op.removed[k].value, op.removed[k].cause)
                        failure = interruption if failure is None else failure
        finally:
            drop_all(op)
        if failure is not None:
            raise failure
        return 0

    cdef object settle(self, Operation* op):
        """Notify the python policy and release the policy lock. Returns the exception that it raised, or None."""
        return None if (<Telling>tell_and_exit)(self, op) != -1 else caught()

    cdef int notify_policy(self, Operation* op) except -1:
        """Notify the python policy of what it does not know yet. Needs the policy lock."""
        cdef bint nested = self.python_policy.nesting > 1
        cdef bint apart = self.python_policy.behind or self.python_policy.strays
        if self.python_policy.depth != 0 or not (apart or nested and (op.notified < op.n or op.added != NULL)):
            return self.python_policy.notify(op)
        self.reconcile()                        # this notifies it of this operation, too
        if nested:
            # it knows a part of the outer operation now, which must not notify it twice
            self.python_policy.behind = True
        op.notified = op.n
        xdecref(op.used)
        xdecref(op.added)
        op.used = op.added = NULL
        return 0

    cdef int reconcile(self) except -1:
        """Make the python policy agree with the cache: it then knows exactly the live entries.

        Needs the policy lock.
        """
        policy = self.python_policy.policy
        cdef list known, keys = []
        cdef bint agrees = False
        self.python_policy.behind = False
        self.python_policy.depth += 1
        try:
            known = list(policy)
            keys = every_key(self, False)
            for key in known:
                if not self.holds(key):
                    policy.remove(key)
            if len(policy) != len(keys):
                for key in keys:
                    if key not in policy and self.holds(key):
                        policy.add(key)
            if len(policy) > len(keys):         # it was notified of some key twice
                policy.clear()
                for key in keys:
                    policy.add(key)
            agrees = True
        finally:
            self.python_policy.depth -= 1
            if not agrees:
                self.python_policy.behind = True  # the next holder of the policy lock tries again
        return 0

    cdef bint holds(self, object key) except -1:
        """Whether a key has an entry, live or expired."""
        cdef Operation op
        cdef bint found
        cdef uint32_t i
        start(&op)
        try:
            i = self.find_itself(key, mixed(self.table, hash_of(<PyObject*>key)), &op)
            found = i != 0 and self.table.entries[i].value != NULL
            release(self.lock)
        finally:
            drop_all(&op)
        return found

    cdef int finish_with(self, Operation* op, PyObject* held) except -1:
        """`finish`, for a caller about to return `held`. If `finish` raises, `held` is dropped."""
        try:
            self.finish(op)
        except:
            xdecref(held)
            raise
        return 0

    cdef int take_back(self, Operation* op) except -1:
        """Undo an insertion that the python policy refused by raising."""
        cdef Operation undone
        start(&undone)
        acquire(self.lock)
        if self.remove_itself(op.added, op.i, NO_CAUSE, &undone):
            self.counts[SETS] -= 1
        release(self.lock)
        drop_all(&undone)
        return 0

    # --- finding: takes the lock, leaves it held, and releases it while keys are compared -----------------------------

    cdef uint32_t find(self, object key, uint64_t h, Operation* op) except FAILED:
        """The index of the key's entry, live, expired or reserved; 0: none."""
        cdef uint32_t i
        acquire(self.lock)
        i = lookup(self.table, <PyObject*>key, h)
        if i == UNCERTAIN:
            i = find_by_comparing(self.engine, self.lock, key, h, op.n, op)
        return i

    cdef uint32_t find_itself(self, object key, uint64_t h, Operation* op) except FAILED:
        """`find` for a key that is likely to be the stored object itself, so that no other key has to be compared."""
        cdef uint32_t slot, i
        acquire(self.lock)
        slot = home(self.table, h)
        while True:
            i = candidate(self.table, h, &slot)
            if i == 0:
                break
            if self.table.entries[i].key == <PyObject*>key:
                return i
            slot = (slot + 1) & self.table.mask
        release(self.lock)
        return self.find(key, h, op)

    cdef uint32_t find_to_change(self, object key, uint64_t h, Operation* op) except FAILED:
        """`find`, with the policy lock. Keys are compared before it is taken, unless the table changes meanwhile."""
        cdef uint32_t i
        cdef uint64_t version
        if op.locked:                           # a victim has left, and nothing else has happened
            op.locked = False
            return op.wanted if self.table.entries[op.wanted].key != NULL else 0
        i = self.find(key, h, op)
        if self.python_policy is None:
            return i
        if not op.has_policy_lock:
            version = self.table.version
            release(self.lock)
            self.python_policy.enter(op, self.lock)
            acquire(self.lock)
            if self.table.version != version:
                release(self.lock)
                i = self.find(key, h, op)
        op.wanted = i
        return i

    cdef void lock_again(self, Operation* op) noexcept nogil:
        """Take the lock, unless `evict_by_policy` left it held."""
        if op.locked:
            op.locked = False
        else:
            acquire(self.lock)

    # --- whole operations, without the lock -------------------------------------------------------------------------

    cdef PyObject* look(self, object key) except? NULL:
        """A new reference to a live value, or NULL."""
        cdef Operation op
        cdef double now
        cdef uint32_t i
        cdef uint64_t h = hash_in(self, key)
        cdef PyObject* value = NULL
        start(&op)
        try:
            now = self.now(INFINITY)
            i = self.find(key, h, &op)
            if self.is_live(i, now):
                value = self.table.entries[i].value
                incref(value)
            release(self.lock)
        finally:
            self.finish(&op)
        return value

    cdef PyObject* find_and_use(self, object key, uint64_t h, bint counts) except? NULL:
        """A hit: a new reference to the stored value. NULL: a miss, which is counted if `counts`."""
        cdef Operation op
        cdef double now
        cdef uint32_t i
        cdef PyObject* value = NULL
        start(&op)
        try:
            now = self.now(INFINITY)
            i = self.find_to_change(key, h, &op)
            if self.is_live(i, now):
                self.note_hit(i, now, &op)
                value = self.table.entries[i].value
                incref(value)
            elif counts:
                self.note_miss(h)
                if i != 0 and self.table.entries[i].value != NULL and not (
                    self.modes & STALE and deadline(&self.expiry, i) + self.stale > now     # it may be served stale
                ):
                    self.remove(i, EXPIRED, &op)
            release(self.lock)
        finally:
            self.finish_with(&op, value)
        return value

    cdef int count_hit(self) except -1:
        """Count a hit of a remembered failure."""
        acquire(self.lock)
        self.counts[HITS] += 1
        self.counts[NEGATIVE_HITS] += 1
        release(self.lock)
        return 0

    cdef void note_miss(self, uint64_t h) noexcept:
        """Count the miss of a key. Needs the lock."""
        self.counts[MISSES] += 1
        if unlikely(self.engine.tape != NULL):
            write_down_miss(self.engine.tape, <uint32_t>h)

    cdef int count_miss(self) except -1:
        """Count a miss of a call that has no key."""
        acquire(self.lock)
        self.counts[MISSES] += 1
        release(self.lock)
        return 0

    cdef int forget_failure(self, object key) except -1:
        """Forget a remembered failure, because the key was written or deleted."""
        if self.failures is not None:
            self.failures.forget(key)
        return 0

    cdef list find_tags(self, tuple names):
        """The Tag of each name; new ones are made for new names."""
        if len(names) == 1:
            return [self.find_tag(names[0], True)]
        return [self.find_tag(name, True) for name in names]

    cdef Tag find_tag(self, object name, bint makes):
        """The Tag of a name. A new name: a new Tag if `makes`, else None. Finding and inserting are one step."""
        cdef Tag tag = self.known_tag(name)
        return tag if tag is not None else self.find_or_make_tag(name, makes)

    cdef Tag known_tag(self, object name):
        """The Tag of a name, if it takes no comparison by Python's `==` to find it."""
        cdef uint64_t h = mixed(self.table, hash_of(<PyObject*>name))   # one seed for all tables
        cdef uint32_t i
        if self.tags is None:
            return None
        acquire(self.lock)
        i = lookup(&self.tags.table, <PyObject*>name, h)
        i = i if i != UNCERTAIN else 0
        found = <object>self.tags.table.entries[i].value if i != 0 else None
        release(self.lock)
        return found

    cdef Tag find_or_make_tag(self, object name, bint makes):
        cdef Engine tags = self.table_of_tags()
        cdef Tag made = Tag.__new__(Tag, name) if makes else None   # before the lock, under which nothing is allocated
        cdef uint64_t h = mixed(&tags.table, hash_of(<PyObject*>name))
        cdef uint32_t i
        cdef PyObject* found = <PyObject*>made
        cdef bint ready = True
        cdef Operation op
        start(&op)
        try:
            acquire(self.lock)
            i = lookup(&tags.table, <PyObject*>name, h)
            if i == UNCERTAIN:
                i = find_by_comparing(tags, self.lock, name, h, op.n, &op)
            if i == 0 and makes:
                if <Py_ssize_t>tags.table.used >= self.tags_limit:
                    self.drop_unused_tags(&op)
                ready = tags.reserve(MOST_TAGS)
                if ready:
                    i = tags.insert(<PyObject*>name, h)
                    put_value(&tags.table, i, found)
                    tags.on_insert(i)
            elif i != 0:
                found = tags.table.entries[i].value
            incref(found)
            release(self.lock)
        finally:
            drop_all(&op)
        tag = <object>found
        decref(found)
        if not ready:
            raise MemoryError("no memory left for a tag")
        return tag

    cdef Engine table_of_tags(self):
        """The table of tags. It is made at the first use, and never replaced."""
        cdef Engine made
        if self.tags is None:
            made = Engine.__new__(Engine)
            acquire(self.lock)
            if self.tags is None:
                self.tags_limit = FEW_TAGS
                self.tags = made
            release(self.lock)
        return self.tags

    cdef void drop_unused_tags(self, Operation* op) noexcept:
        """Forget tags that no entry has. Needs the lock."""
        cdef Table* t = &self.tags.table
        cdef uint32_t i
        cdef Tag tag
        for i in range(1, t.fresh):
            if t.entries[i].key == NULL:
                continue
            tag = <Tag>t.entries[i].value
            # A load that began before the tag was invalidated must learn of that, even if no entry has the tag now.
            if tag.n == 0 and (tag.invalidated == 0 or self.loads == 0) and reserve_removal(op):
                tag.dropped = True
                self.tags.on_remove(i)
                note_removal(op, t.entries[i].key, t.entries[i].value, NO_CAUSE)
                self.tags.release(i)
        self.tags.shrink_alone()
        self.tags_limit = max(<Py_ssize_t>FEW_TAGS, 2 * <Py_ssize_t>t.used)

    cdef int evict_by_policy(self, Operation* op) except -1:
        """Ask the python policy for a victim, and remove it.

        If nothing else has happened since there was no room, the lock stays held (`op.locked`): so the victim leaves
        and the new entry comes at the same instant. The caller goes on with `find_to_change` or `lock_again`.
        """
        cdef uint32_t i
        cdef Outcome outcome
        if op.victims == 0:
            op.victims = self.live + VICTIMS_TOO_MANY
        op.victims -= 1
        if op.victims == 0:                     # whatever the policy does, an operation ends
            raise RuntimeError(f"policy {type(self.python_policy.policy).__name__}: evict() stores as much as it gives up")
        i = self.find_victim(op, ROUNDS)
        op.locked = self.table.version == op.version
        outcome = self.remove(i, SIZE, op) if i != 0 else DONE      # 0: there is room by now
        if outcome != DONE:
            op.locked = False
            self.python_policy.behind = True    # the policy has given up the key, which stays
        if not op.locked:
            release(self.lock)
        if outcome != DONE:
            raise MemoryError("no memory left to remove an entry")
        return 0

    cdef uint32_t find_victim(self, Operation* op, int rounds) except FAILED:
        """Ask the python policy for a victim. Returns its entry, with the lock held; 0: there is none.

        If the policy is behind and names a missing key or none, it is asked again, at most `rounds` times.
        """
        cdef uint32_t i
        cdef Py_hash_t hashed
        if op.strays:
            acquire(self.lock)
            return self.engine.victim()         # the oldest entry: the policy cannot be asked
        self.notify_policy(op)                  # it must not name what has left meanwhile
        key = self.python_policy.evict(rounds == 1)
        if key is None:
            return self.find_victim(op, rounds - 1)
        hashed = ask_hash(<PyObject*>key)
        if hashed == -1:
            error = caught()
            self.remove_forgotten(key, op)
            if isinstance(error, TypeError):
                raise RuntimeError(
                    f"policy {type(self.python_policy.policy).__name__}: evict() named what is no key"
                ) from error
            raise error
        try:
            i = self.find_itself(key, mixed(self.table, hashed), op)
        except:
            self.remove_forgotten(key, op)
            raise
        if i == 0 or self.table.entries[i].value == NULL:
            release(self.lock)
            if self.python_policy.behind and self.python_policy.depth == 0 and rounds > 1:
                # another operation has removed it meanwhile
                return self.find_victim(op, rounds - 1)
            raise RuntimeError(
                f"policy {type(self.python_policy.policy).__name__}: evict() named {key!r}, which is not in the cache"
            )
        if self.table.entries[i].key != <PyObject*>key:     # an equal key, which must not die here, under the lock
            if not reserve_removal(op):
                self.python_policy.behind = True
                release(self.lock)
                raise MemoryError("no memory left to remove an entry")
            incref(<PyObject*>key)
            note_removal(op, NULL, <PyObject*>key, NO_CAUSE)
        return i

    cdef void remove_forgotten(self, object key, Operation* op) noexcept:
        """Remove a key that the policy gave up, and whose `__hash__` or `__eq__` raises. O(n)."""
        acquire(self.lock)
        if not self.remove_itself(<PyObject*>key, 0, SIZE, op):
            self.python_policy.behind = True    # the policy has forgotten an equal key, which stays
        release(self.lock)

    cdef bint remove_itself(self, PyObject* key, uint32_t i, Cause cause, Operation* op) noexcept:
        """Remove the entry with that very key, probably entry i; if not, O(n). Returns whether there was one."""
        if i == 0 or i >= self.table.fresh or self.table.entries[i].key != key:
            i = self.table.fresh - 1
            while i != 0 and self.table.entries[i].key != key:
                i -= 1
        return i != 0 and self.table.entries[i].value != NULL and self.remove(i, cause, op) == DONE

    cdef Py_ssize_t purge(self, bint stale_too, bint politely=False) except -1:
        """Remove expired entries; those that may be served stale only if `stale_too`. Returns how many were removed.

        It works in small portions, so that no thread waits long for the lock. `politely`: nor for the GIL; it takes
        longer then.
        """
        cdef Operation op
        cdef double now, paused = precise_now()
        # bounded, because a callback may store expired entries without end
        cdef Py_ssize_t purged = 0, most = self.expiry.n
        cdef int portion = PURGED_AT_ONCE
        if not self.modes & EXPIRES:
            return 0
        now = self.now(0.0)
        if not stale_too:
            now -= self.stale
        while portion == PURGED_AT_ONCE and purged < most:
            portion = 0
            start(&op)
            try:
                if self.python_policy is not None:
                    self.python_policy.enter(&op, self.lock)
                acquire(self.lock)
                while portion < PURGED_AT_ONCE and self.modes & EXPIRES and self.expiry.deadlines[1] <= now:
                    if self.remove(self.expiry.entries[1], EXPIRED, &op) != DONE:
                        break
                    portion += 1
                if portion < PURGED_AT_ONCE or purged + portion >= most:    # once, at the end: it takes O(n)
                    self.give_memory_back()
                release(self.lock)
            finally:
                self.finish(&op)
            purged += portion
            if politely and precise_now() - paused > AT_A_STRETCH:
                pause()
                paused = precise_now()
            elif portion == PURGED_AT_ONCE:
                let_others_in()
        return purged

    cdef Py_ssize_t size(self) except -1:
        """The number of live entries, after expired ones have been removed. O(k log n) for k expired ones."""
        cdef double now
        cdef Py_ssize_t size
        if not self.modes & EXPIRES:
            return self.live
        self.purge(False)
        if not self.modes & STALE:
            return self.live
        now = self.now(0.0)
        acquire(self.lock)
        size = self.live - self.count_expired(now)
        release(self.lock)
        return size

    cdef int empty(self, bint statistics_too) except -1:
        """Remove all entries; no callback is called. Loads in progress will not be stored."""
        cdef Operation op
        cdef Table old
        greenlet = this_greenlet()
        start(&op)
        try:
            if self.python_policy is not None:
                self.python_policy.enter(&op, self.lock)
            acquire(self.lock)
            old = self.engine.detach()
            op.detached = detach_all(&self.links)
            self.forget_entries()
            self.close_watches(greenlet)
            if statistics_too:
                self.statistics.zero()
            release(self.lock)
            try:
                if self.python_policy is not None and not op.strays:
                    self.python_policy.clear()
            finally:
                drop_detached(&old)
        finally:
            self.finish(&op)
        return 0

    cdef double sweep(self) except? -1.0:
        """Remove expired entries. Returns the time of the sweeper's next visit; infinity: none until it is called."""
        self.purge(False, True)
        acquire(self.lock)
        if self.modes & EXPIRES:
            self.next_visit = max(self.expiry.deadlines[1] + self.stale + CLOCK_LAGS, coarse_now() + VISITS_APART)
        else:
            self.next_visit = INFINITY
        release(self.lock)
        return self.next_visit

cdef double as_number(object given, str name) except? -1.0:
    if isinstance(given, bool) or not hasattr(type(given), "__float__"):
        refuse_awaitable(name, given)
        raise TypeError(f"{name} must return a number, not {type(given).__name__}")
    try:
        return as_float(given)
    except Exception as error:
        raise TypeError(f"{name} must return a number; {type(given).__name__} is none: {error}") from error


ctypedef int (*Quietly)(State) noexcept
ctypedef int (*Telling)(Store, Operation*) noexcept


cdef int tell_and_exit(Store store, Operation* op) except -1:
    cdef PythonPolicy python_policy = store.python_policy
    cdef int rounds = ROUNDS
    if op.strays:
        acquire(store.lock)
        op.strays = False
        python_policy.strays -= 1 if python_policy.strays else 0
        python_policy.behind = True
        release(store.lock)
        xdecref(op.used)
        xdecref(op.added)
        op.used = op.added = NULL
    else:
        try:
            store.notify_policy(op)
        finally:
            if op.added != NULL:
                store.take_back(op)
            python_policy.exit(op)
    while rounds and python_policy.behind and python_policy.policy_lock.acquire(False):
        rounds -= 1                             # if not acquired: its holder does this when it releases it
        try:
            if python_policy.nesting or python_policy.depth:
                rounds = 0                      # the outer operation, or the policy's method in progress, does it
            else:
                store.reconcile()
        finally:
            python_policy.policy_lock.release()
    return 0
