"""Eviction policies: the built-in ones, which work on their own, too, and the base class for your own."""

from cpython.number cimport PyNumber_Index
from cpython.object cimport PyObject, PyTypeObject, inquiry
from libc.stdint cimport uint32_t, uint64_t

cimport cython
from cython cimport critical_section

from cachebox._engine.auto cimport AUTO
from cachebox._engine.fifo cimport FIFO
from cachebox._engine.lfu cimport LFU
from cachebox._engine.lru cimport LRU
from cachebox._engine.table cimport (
    UNCERTAIN, Engine, Table, allocate, deallocate, decref, drop_detached, hash_of, incref, lookup, mixed, on_hit,
    put_value,
)
from cachebox._platform.lock cimport SharedLock, acquire, release
from cachebox._store.operation cimport (
    FAILED, NO_CAUSE, Operation, drop_all, find_by_comparing, note_removal, reserve_removal, start,
)


cdef SharedLock taking = SharedLock.__new__(SharedLock)  # if one policy is given to two caches, one of them gets it


cdef class EvictionPolicy:
    """EvictionPolicy(max_size=None)
--

    The order in which keys leave a full cache: subclass it to write your own.

    Args:
        max_size: the most keys that the policy will have to order (an int, or None for no bound).

    All eight methods must be defined. A cache tells its policy what happens, and asks it for victims. `evict` removes
    and returns a key; it is called before `add` if the cache is full. An overwrite or a hit is an `access`; a deletion
    or an expiry is a `remove`. The calls come one at a time, from whatever threads, and the policy may use the cache.
    An instance serves one cache; a class, given as ``policy=``, is called with the cache's `max_size`.

    >>> from cachebox import Cache
    >>> class MostRecent(EvictionPolicy):
    ...     "Evicts what was used last."
    ...     def __init__(self, max_size):
    ...         super().__init__(max_size)
    ...         self.keys = {}
    ...     def add(self, key):
    ...         self.keys[key] = None
    ...     def remove(self, key):
    ...         del self.keys[key]
    ...     def access(self, key):
    ...         self.keys[key] = self.keys.pop(key)
    ...     def evict(self):
    ...         return self.keys.popitem()[0] if self.keys else None
    ...     def clear(self):
    ...         self.keys.clear()
    ...     def __len__(self):
    ...         return len(self.keys)
    ...     def __contains__(self, key):
    ...         return key in self.keys
    ...     def __iter__(self):
    ...         return reversed(self.keys)
    >>> cache = Cache(max_size=2, policy=MostRecent)
    >>> cache.update(a=1, b=2, c=3)
    >>> sorted(cache)
    ['a', 'c']
    """

    def __init__(self, max_size=None):
        self.max_size = max_size

    cdef bint take(self) noexcept:
        """Begin to serve a cache. False: it serves one already."""
        cdef bint free
        acquire(&taking.lock)
        free = not self.has_cache
        self.has_cache = True
        release(&taking.lock)
        return free

    cdef void give_back(self) noexcept:
        """Undo `take`: it does not serve the cache after all."""
        if isinstance(self, _BuiltInPolicy):
            (<_BuiltInPolicy>self).owned_by_cache = False
        self.has_cache = False

    @property
    def max_size(self):
        """The most keys to order, or None for no bound."""
        with critical_section(self):
            return self.size

    @max_size.setter
    def max_size(self, size):
        with critical_section(self):
            self.size = size

    def add(self, key):
        """Add a new key to the order."""
        raise NotImplementedError(f"{type(self).__name__} must define add(key)")

    def remove(self, key):
        """Forget a key that left the cache for another reason than eviction."""
        raise NotImplementedError(f"{type(self).__name__} must define remove(key)")

    def access(self, key):
        """Note that a key was got or set again."""
        raise NotImplementedError(f"{type(self).__name__} must define access(key)")

    def evict(self):
        """Forget and return the next victim; None if there is none."""
        raise NotImplementedError(f"{type(self).__name__} must define evict()")

    def clear(self):
        """Forget all keys."""
        raise NotImplementedError(f"{type(self).__name__} must define clear()")

    def __len__(self):
        raise NotImplementedError(f"{type(self).__name__} must define __len__(): how many keys it orders")

    def __contains__(self, key):
        raise NotImplementedError(f"{type(self).__name__} must define __contains__(key): whether it orders that key")

    def __iter__(self):
        raise NotImplementedError(f"{type(self).__name__} must define __iter__(): its keys, next victim first")

    def __reduce__(self):
        return restore, (type(self), self.max_size, (), ()), state_of(self)

    @classmethod
    def __class_getitem__(cls, parameters):
        from types import GenericAlias

        return GenericAlias(cls, parameters)


@cython.no_gc_clear                 # see `clear_cycles`
cdef class _BuiltInPolicy(EvictionPolicy):
    """The common part of the built-in policies: an engine as an ordered set of keys. Safe from any thread.

    Keys are compared without the lock, and meanwhile the policy may be lent to a cache. So after a comparison, under
    the lock again, a method that changes the order checks whether it is lent. A cache gets a new engine, never this
    one.
    """

    def __cinit__(self, *args, **kwargs):
        self.shared_lock = SharedLock.__new__(SharedLock)
        self.engine = Engine.__new__(Engine)    # the built-in policies replace it by their own

    def __init__(self, max_size=None):
        if type(self.engine) is Engine:
            known = ", ".join([it.__name__ for it in BUILT_IN.values()])
            raise TypeError(f"{type(self).__name__} orders nothing: use {known}")
        self.max_size = checked_size(max_size)

    # --- serving a cache: see `Cache.configure` -----------------------------------------------------------------------

    cdef Engine lend(self):
        """Begin to serve a cache: from now on only the cache changes the order. Returns the engine for the cache."""
        cdef Engine engine = self.new_engine()
        cdef uint32_t known
        acquire(&self.shared_lock.lock)
        known = self.engine.table.used
        if known == 0:
            self.owned_by_cache = True
        release(&self.shared_lock.lock)
        if known != 0:
            raise ValueError(f"policy {self!r} must be empty to serve a cache, but it orders {known} keys")
        return engine

    cdef Engine new_engine(self):
        """A new engine like the policy's own."""
        return (<_BuiltInPolicy>type(self).__new__(type(self))).engine

    cdef int serve(self, Engine engine, SharedLock shared_lock) except -1:
        """Read the order from the cache's engine from now on."""
        acquire(&self.shared_lock.lock)
        self.served = engine
        self.server = shared_lock
        release(&self.shared_lock.lock)
        return 0

    cdef int take_lock(self) except -1:
        """Take the lock for a change. An exception leaves it released."""
        acquire(&self.shared_lock.lock)
        if self.owned_by_cache:
            release(&self.shared_lock.lock)
            raise lent(self)
        return 0

    # --- the order ----------------------------------------------------------------------------------------------------

    def add(self, key):
        """Add a key to the order; for a known one, note a use. If the policy is full, its victim is removed. O(1)."""
        cdef Operation op
        cdef uint32_t i
        cdef uint64_t h = mixed(&self.engine.table, hash_of(<PyObject*>key))
        cdef Py_ssize_t bound = bound_of(self.max_size)
        cdef bint stored = True
        start(&op)
        try:
            i = self.find(key, &op)
            self.engine.expect(bound)
            if i != 0:
                on_hit(<PyObject*>self.engine, i)
            elif self.engine.reserve(bound) and reserve_removal(&op):
                if self.engine.table.used >= bound:
                    self.take_out(self.engine.victim(), &op)
                i = self.engine.insert(<PyObject*>key, h)
                put_value(&self.engine.table, i, <PyObject*>None)
                self.engine.on_insert(i)
            else:
                stored = False
            release(&self.shared_lock.lock)
            if not stored:
                raise MemoryError("no memory left to add a key")
        finally:
            drop_all(&op)

    def remove(self, key):
        """Forget a key; raises KeyError if it is unknown. O(1)."""
        if not self.discard(key):
            raise KeyError(key)

    def access(self, key):
        """Note a use of a key; raises KeyError if it is unknown. O(1)."""
        cdef Operation op
        cdef uint32_t i
        start(&op)
        try:
            i = self.find(key, &op)
            if i != 0:
                on_hit(<PyObject*>self.engine, i)
            release(&self.shared_lock.lock)
        finally:
            drop_all(&op)
        if i == 0:
            raise KeyError(key)

    def evict(self):
        """Forget and return the next victim, or None if there is none. O(1)."""
        cdef Operation op
        cdef uint32_t i
        key = None
        start(&op)
        self.take_lock()
        i = self.engine.victim()
        if i != 0:
            key = <object>self.engine.table.entries[i].key
            self.take_out(i, &op)
            self.engine.shrink_alone()
        release(&self.shared_lock.lock)
        drop_all(&op)
        return key

    def clear(self):
        """Forget all keys. O(n)."""
        cdef Table old
        self.take_lock()
        old = self.engine.detach()
        release(&self.shared_lock.lock)
        drop_detached(&old)

    def __len__(self):
        cdef Py_ssize_t n = 0
        cdef uint32_t i
        cdef Engine engine = self.at_hand()
        cdef SharedLock shared_lock = self.shared_lock if engine is self.engine else self.server
        acquire(&shared_lock.lock)
        i = engine.victim()
        while i != 0:               # a cache may have reserved entries, which the policy does not know
            n += 1
            i = engine.next_victim(i)
        release(&shared_lock.lock)
        return n

    def __contains__(self, key):
        cdef Operation op
        cdef uint64_t h
        cdef uint32_t i
        cdef Engine engine = self.at_hand()
        cdef SharedLock shared_lock = self.shared_lock if engine is self.engine else self.server
        h = mixed(&engine.table, hash_of(<PyObject*>key))
        start(&op)
        try:
            i = find_in(engine, shared_lock, key, h, &op)
            known = i != 0 and engine.table.entries[i].value != NULL
            release(&shared_lock.lock)
        finally:
            drop_all(&op)
        return known

    def __iter__(self):
        return iter([key for key, _rank in self.ranked()])

    def __repr__(self):
        return f"<{type(self).__name__}, max_size={self.max_size}, {len(self)} keys>"

    def __reduce__(self):
        cdef list ranked = self.ranked()
        keys = [key for key, _rank in ranked]
        return restore, (type(self), self.max_size, keys, [rank for _key, rank in ranked]), state_of(self)

    def _check(self):
        """Verify every invariant of the engine. Raises AssertionError if one does not hold."""
        cdef Engine engine = self.at_hand()
        cdef SharedLock shared_lock = self.shared_lock if engine is self.engine else self.server
        acquire(&shared_lock.lock)
        try:
            return engine._check()
        finally:
            release(&shared_lock.lock)

    cdef Engine at_hand(self):
        """The engine to read: its own, or that of the cache that it serves."""
        cdef bint serves
        acquire(&self.shared_lock.lock)
        serves = self.served is not None
        release(&self.shared_lock.lock)
        return self.served if serves else self.engine

    cdef uint32_t find(self, object key, Operation* op) except FAILED:
        """The index of a key or 0, for a change. Leaves the lock held; an exception leaves it released."""
        cdef uint64_t h = mixed(&self.engine.table, hash_of(<PyObject*>key))
        cdef uint32_t i = find_in(self.engine, self.shared_lock, key, h, op)
        if self.owned_by_cache:
            release(&self.shared_lock.lock)
            raise lent(self)
        return i

    cdef void take_out(self, uint32_t i, Operation* op) noexcept:
        """Remove an entry. Needs the lock and `reserve_removal`."""
        cdef Table* t = &self.engine.table
        self.engine.on_remove(i)
        note_removal(op, t.entries[i].key, t.entries[i].value, NO_CAUSE)
        self.engine.release(i)

    cdef bint discard(self, object key) except -1:
        """Forget a key; False: it is unknown."""
        cdef Operation op
        cdef uint32_t i
        cdef bint ready = True
        start(&op)
        try:
            i = self.find(key, &op)
            if i != 0:
                ready = reserve_removal(&op)
                if ready:
                    self.take_out(i, &op)
                    self.engine.shrink_alone()
            release(&self.shared_lock.lock)
            if not ready:
                raise MemoryError("no memory left to remove a key")
        finally:
            drop_all(&op)
        return i != 0

    cdef list ranked(self):
        """All keys with their ranks, next victim first, at one instant."""
        cdef Engine engine = self.at_hand()
        cdef SharedLock shared_lock = self.shared_lock if engine is self.engine else self.server
        cdef PyObject** keys
        cdef uint64_t* ranks
        cdef Py_ssize_t size, n = 0, k
        cdef uint32_t i
        while True:
            size = engine.table.used
            keys = <PyObject**>allocate((size + 1) * (sizeof(PyObject*) + sizeof(uint64_t)))
            if keys == NULL:
                raise MemoryError(f"no memory left to copy {size} keys")
            acquire(&shared_lock.lock)
            if <Py_ssize_t>engine.table.used <= size:
                break
            release(&shared_lock.lock)          # it grew meanwhile
            deallocate(keys)
        ranks = <uint64_t*>&keys[size + 1]
        i = engine.victim()
        while i != 0:
            keys[n] = engine.table.entries[i].key
            ranks[n] = engine.rank(i)
            incref(keys[n])
            n += 1
            i = engine.next_victim(i)
        release(&shared_lock.lock)
        try:
            return [(<object>keys[k], ranks[k]) for k in range(n)]
        finally:
            for k in range(n):
                decref(keys[k])
            deallocate(keys)

    cdef int fill(self, keys, ranks) except -1:
        """Add keys of known ranks, next victim first, to an empty policy."""
        cdef Operation op
        cdef uint32_t i
        cdef uint64_t h
        cdef uint64_t rank, highest = 1
        cdef bint ready
        self.engine.expect(bound_of(self.max_size))
        for key, rank in zip(keys, ranks):
            h = mixed(&self.engine.table, hash_of(<PyObject*>key))
            highest = max(highest, rank)        # next victim first, so ranks must not fall
            start(&op)
            try:
                i = self.find(key, &op)
                ready = i == 0 and self.engine.reserve(1 << 31)
                if ready:
                    i = self.engine.insert(<PyObject*>key, h)
                    put_value(&self.engine.table, i, <PyObject*>None)
                    self.engine.on_insert_ranked(i, highest if self.engine.ranks_rise else rank)
                release(&self.shared_lock.lock)
            finally:
                drop_all(&op)
            if not ready and i != 0:
                raise ValueError(f"a damaged state: it has the key {key!r} twice")
            if not ready:
                raise MemoryError("no memory left to restore a policy")
        return 0


cdef uint32_t find_in(Engine engine, SharedLock shared_lock, object key, uint64_t h, Operation* op) except FAILED:
    """The index of a key or 0. Takes the lock and leaves it held; an exception leaves it released."""
    cdef uint32_t i
    acquire(&shared_lock.lock)
    i = lookup(&engine.table, <PyObject*>key, h)
    if i == UNCERTAIN:
        i = find_by_comparing(engine, &shared_lock.lock, key, h, op.n, op)
    return i


cdef Py_ssize_t bound_of(object max_size) except -1:
    return 1 << 31 if max_size is None else <Py_ssize_t>min(max_size, 1 << 31)


cdef object lent(policy):
    return RuntimeError(f"this {type(policy).__name__} serves a cache: change it through the cache")


cdef class LRUPolicy(_BuiltInPolicy):
    """LRUPolicy(max_size=None)
--

    Least recently used first: the key that was added or accessed longest ago is the next victim.

    Args:
        max_size: the most keys it orders when used on its own (an int from 1 on); None: no bound.

    Every operation is O(1): a doubly linked list. Safe from any thread. On its own it is an ordered set, without
    values. As the policy of a cache, ``Cache(policy="LRU")`` or ``policy=LRUPolicy``, it can be read, but changed only
    through the cache (else RuntimeError).

    >>> policy = LRUPolicy(max_size=2)
    >>> policy.add("a"); policy.add("b"); policy.access("a")
    >>> list(policy), policy.evict()
    (['b', 'a'], 'b')
    """

    def __cinit__(self, *args, **kwargs):
        self.engine = LRU.__new__(LRU)


cdef class LFUPolicy(_BuiltInPolicy):
    """LFUPolicy(max_size=None)
--

    Least frequently used first; among equals, the least recently used.

    Adding is a use, and so is every access. Uses are never forgotten, so what was popular long ago stays. Otherwise,
    see `LRUPolicy`. Every operation is O(1): a chain of lists, one for each number of uses (K. Shah, A. Mitra and D.
    Matani, "An O(1) algorithm for implementing the LFU cache eviction scheme", 2010).

    >>> policy = LFUPolicy(max_size=3)
    >>> policy.add("a"); policy.add("b"); policy.add("c"); policy.access("a"); policy.access("b")
    >>> list(policy)
    ['c', 'a', 'b']
    """

    def __cinit__(self, *args, **kwargs):
        self.engine = LFU.__new__(LFU)


cdef class FIFOPolicy(_BuiltInPolicy):
    """FIFOPolicy(max_size=None)
--

    First in, first out: the key added longest ago is the next victim, however often it was accessed.

    A key that was removed and comes back goes to the end. Otherwise, see `LRUPolicy`. Every operation is O(1), `add`
    amortised: a ring buffer.

    >>> policy = FIFOPolicy(max_size=2)
    >>> policy.add("a"); policy.add("b"); policy.access("a")
    >>> policy.evict()
    'a'
    """

    def __cinit__(self, *args, **kwargs):
        self.engine = FIFO.__new__(FIFO)


cdef class AutoPolicy(_BuiltInPolicy):
    """AutoPolicy(max_size=None, seed=None)
--

    Adapts to the requests: the behaviour that has lately had the best hit ratio names the victims.

    Args:
        max_size: as for `LRUPolicy`.
        seed: the seed of its random choices: an int. Policies with one seed and the same calls do the same. None: a
            secret seed of the process, so that nobody can choose keys to mislead it.

    Five behaviours (LRU, LIRS, S3-FIFO, W-TinyLFU with a small and with a large window) work on the same lists of keys.
    A shadow simulates all five on a small sample of the keys, and finds the best one. It remembers evicted keys by
    their hashes alone. Otherwise, see `LRUPolicy`. Every operation is O(1), and takes at most some hundred steps. Takes
    about 13 bytes more for each entry than LRU.

    >>> policy = AutoPolicy(max_size=100, seed=1)
    >>> for key in [*range(101)] * 50:          # a loop, of which LRU would never find anything
    ...     policy.add(key)
    >>> len(policy)
    100
    """

    cdef object seed

    def __cinit__(self, max_size=None, seed=None, *args, **kwargs):
        self.engine = AUTO.__new__(AUTO)

    def __init__(self, max_size=None, seed=None):
        super().__init__(max_size)
        self.seed = checked_seed(seed)
        if self.engine.table.used:
            raise RuntimeError("a policy that orders keys cannot get another seed")
        plant(self.engine, self.seed)

    cdef Engine new_engine(self):
        cdef Engine engine = _BuiltInPolicy.new_engine(self)
        plant(engine, self.seed)
        return engine

    def __reduce__(self):
        made, (kind, max_size, keys, ranks), state = super().__reduce__()
        return made, (kind, max_size, keys, ranks, self.seed), state

    def _behaviour(self):
        """The name of the behaviour that is followed now, for tests."""
        return ("LRU", "LIRS", "S3-FIFO", "W-TinyLFU 1 %", "W-TinyLFU 30 %")[(<AUTO>self.at_hand()).mode]


cdef object checked_seed(object seed):
    if seed is None:
        return None
    if isinstance(seed, bool) or not hasattr(type(seed), "__index__"):
        raise TypeError(f"seed must be an int or None, not {type(seed).__name__}")
    return PyNumber_Index(seed)


cdef int plant(Engine engine, object seed) except -1:
    """Give an empty engine a seed; None: it keeps the process's."""
    cdef uint64_t bits
    if seed is not None:
        bits = <uint64_t>(seed & 0xFFFFFFFFFFFFFFFF) + <uint64_t>0x9E3779B97F4A7C15
        bits = (bits ^ bits >> 30) * <uint64_t>0xBF58476D1CE4E5B9      # splitmix64 (Steele, Lea and Flood, 2014)
        bits = (bits ^ bits >> 27) * <uint64_t>0x94D049BB133111EB
        (<AUTO>engine).set_seed(bits ^ bits >> 31)
    return 0


def restore(cls, max_size, keys, ranks, seed=None):
    """Unpickle a policy, except what a subclass added: `pickle` restores that."""
    cdef EvictionPolicy policy = cls.__new__(cls)
    policy.max_size = max_size
    if isinstance(policy, AutoPolicy):
        (<AutoPolicy>policy).seed = checked_seed(seed)
        plant((<AutoPolicy>policy).engine, seed)
    if isinstance(policy, _BuiltInPolicy):
        (<_BuiltInPolicy>policy).fill(keys, ranks)
    return policy


def empty_like(policy):
    """An empty policy like this one, for a copy of its cache. Just the class, if that is enough."""
    if type(policy) is AutoPolicy:
        return AutoPolicy(policy.max_size, (<AutoPolicy>policy).seed)
    return type(policy)


cdef object state_of(object policy):
    """What a subclass written in Python added, in pickle's form."""
    return policy.__getstate__()


cdef object checked_size(object max_size):
    """The most entries or keys: an int, or None for no bound. Raises TypeError or ValueError if it makes no sense."""
    if max_size is None or type(max_size) is int and max_size > 0:
        return max_size
    if isinstance(max_size, bool) or not hasattr(type(max_size), "__index__"):
        raise TypeError(f"max_size must be an int or None, not {type(max_size).__name__}")
    try:
        size = PyNumber_Index(max_size)
    except Exception as error:
        raise TypeError(f"max_size must be an int or None; {type(max_size).__name__} is none: {error}") from error
    if size < 1:
        raise ValueError(f"max_size must be at least 1, or None for no bound, not {size}")
    return size


LRUCache, LFUCache, FIFOCache = LRUPolicy, LFUPolicy, FIFOPolicy       # their former names

BUILT_IN = {"LRU": LRUPolicy, "LFU": LFUPolicy, "FIFO": FIFOPolicy, "AUTO": AutoPolicy}


cdef int clear_cycles(PyObject* self) noexcept:
    """Break a cycle for the collector: forget the keys of its own engine. A cache forgets its own keys."""
    cdef _BuiltInPolicy policy = <_BuiltInPolicy>self
    cdef Table old = policy.engine.detach()
    drop_detached(&old)
    return 0


for _type in (_BuiltInPolicy, *BUILT_IN.values()):
    (<PyTypeObject*>_type).tp_clear = <inquiry>clear_cycles
