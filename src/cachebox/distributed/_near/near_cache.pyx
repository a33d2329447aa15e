"""The first tier: a `Cache` in the process, with the rules for what may be stored in it and when a hit may be served.

Invariants, all under `lock`:

- A `Fill` is a permission to store. It is taken before the value is read from the server. It becomes void when anything
  arrives that concerns its key: a push, a write of this process, a clear, a lost or a new tracking connection. Only a
  live `Fill` stores.
- A `Write` notes pushes about its keys that arrive while it is under way. If none did, its own echo is still to come.
  The next push about the key was sent no later than that echo, so a reader that fetched the key after the write
  returned has seen the change: that push is ignored. Otherwise every `set` would evict what the next `get` fetched. Two
  writes cause two echoes only if one began after the other returned, which `clock` orders. Echoes belong to one
  tracking connection, numbered by `epoch`.
- A hit is served without asking the server only before `fresh_until`. Until then, every push that the server sent up to
  `max_staleness` ago has been applied.

Keys are str, whose comparison runs no user code. But dropping a value may run some (`__del__`), and any allocation may
run the collector. Both run in this thread, for which the lock is re-entrant. So a looked-up object is not trusted after
an allocation or a deletion: a list is made and entered in one step (`setdefault`), loops go through a copy, and a value
is stored while its `Fill` can still be voided.
"""

from cpython.object cimport PyObject
from libc.math cimport INFINITY

from cachebox._platform.section cimport Section
from cachebox._store.state cimport hash_in
from cachebox._store.writes cimport set_slow
from cachebox.cache cimport Cache
from cachebox.stats cimport HITS
from cachebox._platform.clock cimport coarse_now
from cachebox.distributed._embedded.noted cimport Noted, is_current, is_noted, mark, note
from cachebox.distributed._embedded.page cimport Page, add64, hash_key, load

from time import monotonic

from cachebox.cache import MISSING


LAG = 0.005


cdef class Fill:
    """Permission to store a value that is about to be read."""

    cdef bint permits(self, tags) except -1:
        """Whether a value with these tags may be stored."""
        return self.live and (self.tags is None or self.tags.isdisjoint(tags))


cdef class Write:
    """A write of this process that is under way."""


cdef class Tier:

    def __init__(self, Cache first not None, returns_stored=True):
        self.first = first
        self.first.next_visit = -INFINITY       # never call the sweeper: the tracking thread sweeps
        self.returns_stored = returns_stored
        self.isolates = not returns_stored
        self.epoch = 0
        self.renew()

    def renew(self):
        """Reset to empty and untracked: at first, and in the child of a fork."""
        self.lock = Section()
        self.fresh_until = -INFINITY
        self.is_tracked = False
        self.epoch += 1
        self.fills = {}
        self.writes = set()
        self.expected = {}
        self.expected_generations = set()
        self.expected_tags = set()
        self.tags = {}
        self.waiters = {}

    def follow(self, Page page):
        """Store and serve only what this page vouches for; None: nothing, until there is a page. Drops all entries."""
        with self.lock:
            self.publish()
            self.page = page
            self.returns_stored = False
            self.follows = True
            self.exact = not self.isolates
            self.clear_entries()                # also voids what was read before from being stored
        self.clear(False)

    # --- reading ------------------------------------------------------------------------------------------------------

    def look(self, str key, bint counts):
        """The value of a key, if it may be served while the second tier can be asked; else MISSING.

        `counts`: count a hit.
        """
        stored = self.first.peek(key, MISSING)
        if stored is MISSING:
            return MISSING
        if is_noted(<PyObject*>stored):
            if not is_current(<PyObject*>stored):
                with self.lock:
                    if self.first.peek(key, MISSING) is stored and self.first.delete(key):
                        self.invalidations += 1
                return MISSING
            mark(<PyObject*>stored)
        if counts:
            self.first.get(key)
        return (<Noted>stored).value if is_noted(<PyObject*>stored) else stored

    def begin_fill(self, str key):
        """Take permission to store the value that the server is about to return for a key."""
        with self.lock:
            return self.add_fill(key, monotonic())

    def begin_fills(self, keys):
        """Take permissions for many keys, in order."""
        cdef double now = monotonic()
        with self.lock:
            return [self.add_fill(key, now) for key in keys]

    cdef Fill add_fill(self, str key, double now):
        cdef Fill fill = Fill.__new__(Fill)
        fill.key = key
        fill.live = True
        fill.begun = now
        if self.page is not None:
            fill.hash = hash_key(self.page, key)
            fill.count = load(&self.page.bucket_of(fill.hash).count)
            fill.tag_count = load(&self.page.head.tag_count)
        (<list>self.fills.setdefault(key, [])).append(fill)
        return fill

    def store(self, Fill fill, value, double lifetime, tags=()):
        """Store a value, if its permission is still live. `lifetime`: seconds since the permission was taken."""
        with self.lock:
            return self.put(fill, value, lifetime, tags, monotonic() if lifetime < INFINITY else 0.0)

    def store_many(self, rows):
        """Store many values: rows of a permission, a value, its lifetime and its tags."""
        cdef double now = monotonic()
        with self.lock:
            for fill, value, lifetime, tags in rows:
                self.put(fill, value, lifetime, tags, now)

    cdef bint put(self, Fill fill, object value, double lifetime, tags, double now) except -1:
        cdef bint live
        if lifetime < INFINITY:
            lifetime = fill.begun + lifetime - now - LAG
        if self.follows and self.page is None:
            fill.live = False
        elif self.page is not None and fill.live:
            noted = note(self.page, value, fill.hash, fill.count, tuple(tags))
            if not is_current(<PyObject*>noted) or fill.count & 1 or (
                tags and (fill.tag_count & 1 or load(&self.page.head.tag_count) != fill.tag_count)
            ):
                fill.live = False                   # changed since, or being changed
            value = noted
        if fill.permits(tags) and lifetime > 0:
            if tags or self.tags:
                self.note_tags(fill.key, tags)
            set_slow(self.first, fill.key, hash_in(self.first, fill.key), value, lifetime)
            if not fill.permits(tags):              # voided by code that ran meanwhile
                self.first.delete(fill.key)
        live = fill.permits(tags)
        self.drop_fill(fill)
        if not live:
            self.fills_refused += 1
        return live and lifetime > 0

    cdef int note_tags(self, str key, tags) except -1:
        """Remember the tags of an entry that is about to be stored."""
        if not tags:
            self.tags.pop(key, None)
            return 0
        if len(self.tags) > 64 and len(self.tags) > 2 * len(self.first):
            for other in list(self.tags):
                if other not in self.first:
                    self.tags.pop(other, None)
        self.tags[key] = tags
        return 0

    def end_fills(self, fills):
        """Give up those permissions that are still live."""
        with self.lock:
            for fill in fills:
                if (<Fill>fill).live:
                    self.drop_fill(fill)

    def end_fill(self, Fill fill, bint absent=False):
        """Give up a permission. `absent`: the server has no entry, so one that an earlier connection left is wrong."""
        with self.lock:
            if absent and fill.live:
                self.first.delete(fill.key)
            self.drop_fill(fill)

    cdef int drop_fill(self, Fill fill) except -1:
        fills = self.fills.get(fill.key)
        if fills is not None and len(<list>fills) == 1 and (<list>fills)[0] is fill:
            del self.fills[fill.key]
        elif fills is not None and fill in <list>fills:
            (<list>fills).remove(fill)
        fill.live = False
        return 0

    # --- writing ------------------------------------------------------------------------------------------------------

    def begin_write(self, tuple keys, bint clears=False, tag=None):
        """Called before a write is sent: a write of some keys, of everything, or of all entries with a tag."""
        cdef Write write = Write.__new__(Write)
        write.keys = keys
        write.clears = clears
        write.tag = tag
        write.heard = set()
        with self.lock:
            self.clock += 1
            write.begun = self.clock
            write.epoch = self.epoch if self.is_tracked else -1
            self.writes.add(write)
        return write

    def end_write(self, Write write, pushed=(), generations=(), tags=()):
        """Called when a write has returned or failed: forget its keys. `pushed`, `generations`, `tags`: the pushes
        it will cause."""
        with self.lock:
            self.writes.discard(write)
            if generations:
                self.clear_entries()
            for key in write.keys:
                self.forget(key)
            if write.epoch == self.epoch and self.is_tracked:
                if not write.generation_heard:
                    self.expected_generations.update(generations)
                if not write.tags_heard:
                    self.expected_tags.update(tags)
                self.clock += 1
                for key in pushed:
                    if key in write.heard:
                        continue
                    returns = self.expected.setdefault(key, [])
                    if not returns or write.begun > max(returns):
                        (<list>returns).append(self.clock)

    def drop_write(self, Write write):
        """Called if a write was never sent, so that nothing has changed."""
        with self.lock:
            self.writes.discard(write)

    def forget_keys(self, keys):
        """Drop the entries of some keys."""
        self.lock.enter()
        try:
            for key in keys:
                self.forget(key)
        finally:
            self.lock.leave()

    def void_fills(self):
        """Void all permissions, so that nothing being read now is stored."""
        with self.lock:
            for fills in self.fills.values():
                for fill in <list>fills:
                    (<Fill>fill).live = False
            self.fills.clear()

    def untracked(self):
        """A server has answered whose changes are not tracked: keep nothing of it, and expect no echoes of writes."""
        with self.lock:
            self.epoch += 1
        self.void_fills()

    cdef int forget(self, str key) except -1:
        """Drop an entry, and void the permissions for it. Returns whether there was one."""
        fills = self.fills.pop(key, None)
        if fills is not None:
            for fill in <list>fills:
                (<Fill>fill).live = False
        return self.first.delete(key)

    # --- what the server pushes ---------------------------------------------------------------------------------------

    def on_invalidate(self, str key):
        """Apply a push: an entry was changed on the server. If a write of this process is under way, the push may be
        its echo."""
        cdef bint is_own = False
        cdef long returned = -1                 # the push was sent before then; -1: unknown
        with self.lock:
            returns = self.expected.get(key)
            if returns is not None:
                returned = (<list>returns).pop(0)
                if not returns:
                    del self.expected[key]
            for write in list(self.writes) if self.writes else ():
                if key in (<Write>write).keys and ((<Write>write).begun < returned or returned == -1):
                    is_own = True
                    (<Write>write).heard.add(key)
            if returned != -1:
                pass
            elif self.forget(key) and not is_own:
                self.invalidations += 1
        self.wake(key)

    def on_generation(self, bucket):
        """Apply a push: a bucket was cleared."""
        cdef bint is_own = False
        with self.lock:
            for write in self.writes:
                (<Write>write).generation_heard = True
                is_own = is_own or (<Write>write).clears
            if bucket in self.expected_generations:
                self.expected_generations.discard(bucket)
            elif is_own:
                self.clear_entries()
            else:
                self.clear()

    def on_tag(self, bucket, str tag):
        """Apply a push: a tag was invalidated in a bucket."""
        cdef bint is_own = False
        with self.lock:
            for write in self.writes:
                (<Write>write).tags_heard = True
                is_own = is_own or (<Write>write).tag == tag
            if (bucket, tag) in self.expected_tags:
                self.expected_tags.discard((bucket, tag))
                return
            dropped = self.drop_tag(tag)
            if not is_own:
                self.invalidations += dropped

    def has_tag(self, str tag):
        """How many entries have a tag. O(entries with tags)."""
        with self.lock:
            return len([key for key in self.tagged(tag) if self.look(key, False) is not MISSING])

    cdef list tagged(self, str tag):
        """The keys that have a tag; not all need have an entry. O(entries with tags)."""
        return [key for key, tags in self.tags.items() if tag in tags]

    def drop_tag(self, str tag):
        """Drop all entries with a tag; returns how many there were. O(entries with tags)."""
        cdef int dropped = 0
        with self.lock:
            for fills in list(self.fills.values()):
                for fill in list(<list>fills):
                    none = set()
                    if (<Fill>fill).tags is None:
                        (<Fill>fill).tags = none
                    (<Fill>fill).tags.add(tag)
            for key in self.tagged(tag):
                self.tags.pop(key, None)
                if self.first.delete(key):
                    dropped += 1
        return dropped

    def clear(self, bint heard=True):
        """Drop everything, because all of it may have changed. `heard`: the server said so; count invalidations."""
        with self.lock:
            if heard:
                self.invalidations += len(self.first)
            self.clear_entries()
            waiters = list(self.waiters)
        for key in waiters:
            self.wake(key)

    cdef int clear_entries(self) except -1:
        """Drop all entries and void all permissions."""
        for fills in self.fills.values():
            for fill in <list>fills:
                (<Fill>fill).live = False
        self.fills.clear()
        self.tags.clear()
        self.expected.clear()
        self.first.delete_many(list(self.first))    # not `clear`, which would reset the count of hits
        return 0

    def tracking_began(self):
        """The server tracks changes from now on; everything from before is void."""
        with self.lock:
            self.epoch += 1
            self.expected_generations.clear()
            self.expected_tags.clear()
            self.clear_entries()
            self.is_tracked = True
            waiters = list(self.waiters)
        for key in waiters:
            self.wake(key)

    def tracking_lost(self):
        """No more pushes will arrive. The entries stay, for times when the server cannot be reached."""
        with self.lock:
            self.epoch += 1
            self.is_tracked = False
            self.fresh_until = -INFINITY
            self.expected.clear()
            self.expected_generations.clear()
            self.expected_tags.clear()
            for fills in self.fills.values():
                for fill in <list>fills:
                    (<Fill>fill).live = False
            self.fills.clear()
            waiters = list(self.waiters)
        for key in waiters:
            self.wake(key)

    # --- waiting for pushes -------------------------------------------------------------------------------------------

    def wait_for(self, str key, wake):
        """Have `wake` called at the next push about a key or its lease."""
        with self.lock:
            self.waiters.setdefault(key, []).append(wake)

    def wait_no_more(self, str key, wake):
        with self.lock:
            waiting = self.waiters.get(key)
            if waiting is not None and wake in waiting:
                waiting.remove(wake)
                if not waiting:
                    del self.waiters[key]

    def wake(self, str key):
        """Call the waiters of a key."""
        if self.waiters:
            with self.lock:
                waiting = self.waiters.pop(key, ())
            for wake in waiting:
                wake()

    # --- counting -----------------------------------------------------------------------------------------------------

    def count(
        self, long long remote_hits=0, long long misses=0, long long stale_serves=0, long long errors=0,
        long long fills_refused=0, long long refreshes=0, long long refresh_failures=0, long long undecodable=0,
        long long unstorable=0, long long evictions=0,
    ):
        """Add to the statistics."""
        with self.lock:
            self.remote_hits += remote_hits
            self.misses += misses
            self.stale_serves += stale_serves
            self.errors += errors
            self.fills_refused += fills_refused
            self.refreshes += refreshes
            self.refresh_failures += refresh_failures
            self.undecodable += undecodable
            self.unstorable += unstorable
            self.evictions += evictions
            self.publish()

    def counts(self):
        """All counters by name, as a new dict. Compiled, so that no signal handler runs under the lock."""
        with self.lock:
            return {
                "local_hits": self.first.stats.hits, "remote_hits": self.remote_hits, "misses": self.misses,
                "stale_serves": self.stale_serves, "invalidations": self.invalidations,
                "fills_refused": self.fills_refused, "errors": self.errors, "refreshes": self.refreshes,
                "refresh_failures": self.refresh_failures, "undecodable": self.undecodable,
                "unstorable": self.unstorable, "evictions": self.evictions,
            }

    cdef int publish(self) except -1:
        """Add to the page's totals what was counted since the last call. Needs the lock."""
        cdef Page page = self.page
        cdef long long local_hits = self.first.counts[HITS]
        if page is None:
            return 0
        if local_hits != self.published_local_hits:
            add64(&page.head.local_hits, <uint64_t>(local_hits - self.published_local_hits))
            self.published_local_hits = local_hits
        if self.remote_hits != self.published_remote_hits:
            add64(&page.head.remote_hits, <uint64_t>(self.remote_hits - self.published_remote_hits))
            self.published_remote_hits = self.remote_hits
        if self.misses != self.published_misses:
            add64(&page.head.misses, <uint64_t>(self.misses - self.published_misses))
            self.published_misses = self.misses
        return 0

    @property
    def is_fresh(self):
        """Whether hits may be served without asking the server."""
        return coarse_now() < self.fresh_until

    def sweep(self):
        """Drop expired entries. O(1) if there are none."""
        self.first.purge_expired()

    def _check(self):
        """Verify what must hold while nothing is under way. Raises AssertionError if it does not."""
        with self.lock:
            assert not self.fills, f"permissions left: {list(self.fills)}"
            assert not self.writes, f"{len(self.writes)} writes left"
            assert not self.waiters, f"waiters left for {list(self.waiters)}"
        self.first._check()
