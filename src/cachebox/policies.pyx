"""Eviction policies: the built-in ones, usable on their own, and the base class for your own."""

from cpython.number cimport PyNumber_Index
from cpython.object cimport PyObject, PyTypeObject, inquiry
from libc.stdint cimport uint32_t, uint64_t

cimport cython
from cython cimport critical_section

from cachebox._engine.fifo cimport FIFO
from cachebox._engine.lfu cimport LFU
from cachebox._engine.lru cimport LRU
from cachebox._engine.table cimport UNCERTAIN, Table, drop_detached, hash_of, lookup, mixed, note_use, put_value
from cachebox.lock cimport Guard, acquire, release
from cachebox.operation cimport FAILED, NO_CAUSE, Operation, can_leave, drop_all, find_by_comparing, leave, start


cdef class EvictionPolicy:
    """EvictionPolicy(max_size=None)
--

    The order in which keys leave a full cache: subclass it to write your own.

    Args:
        max_size: the most keys that the policy will have to order (an int, or None for no bound).

    All eight methods have to be defined. A cache tells its policy what happens and asks it for victims: `evict` removes
    and returns a key and is called before `add` where the cache is full; an overwrite or a hit is an `access`; a
    deletion or an expiry is a `remove`. The calls come one at a time, whatever the threads do, and the policy may use
    the cache. An instance serves one cache; a class, given as ``policy=``, is called with the cache's `max_size`.

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
        """Take a new key into the order."""
        raise NotImplementedError(f"{type(self).__name__} must define add(key)")

    def remove(self, key):
        """Forget a key that left the cache for another reason than eviction."""
        raise NotImplementedError(f"{type(self).__name__} must define remove(key)")

    def access(self, key):
        """Note that a key was got or set again."""
        raise NotImplementedError(f"{type(self).__name__} must define access(key)")

    def evict(self):
        """Forget and return the next victim; None where there is none."""
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
cdef class _Ordered(EvictionPolicy):
    """What the built-in policies share: an engine, as an ordered set of keys. All methods are safe from any thread."""

    def __cinit__(self, *args, **kwargs):
        self.guard = Guard.__new__(Guard)

    def __init__(self, max_size=None):
        if self.engine is None:
            raise TypeError(f"{type(self).__name__} orders nothing: use LRUCache, LFUCache or FIFOCache")
        self.max_size = checked_size(max_size)

    cdef int refuse_if_lent(self) except -1:
        if self.lent:
            raise RuntimeError(f"this {type(self).__name__} serves a cache: change it through the cache")
        return 0

    def add(self, key):
        """Take a key into the order; a known one is an `access`. If the policy is full, its victim leaves. O(1)."""
        cdef Operation op
        cdef uint32_t i
        cdef uint32_t h = mixed(&self.engine.table, hash_of(<PyObject*>key))
        cdef object size = self.max_size
        cdef Py_ssize_t bound = <Py_ssize_t>min(size, 1 << 31) if size is not None else 1 << 31
        cdef bint stored = True
        self.refuse_if_lent()
        start(&op)
        try:
            i = self.find(key, h, &op)
            if i != 0:
                note_use(<PyObject*>self.engine, i)
            elif self.engine.reserve(bound) and can_leave(&op):
                if self.engine.table.used >= bound:
                    self.take_out(self.engine.first(), &op)
                i = self.engine.insert(<PyObject*>key, h)
                put_value(&self.engine.table, i, <PyObject*>None)
                self.engine.admit(i)
            else:
                stored = False
            release(&self.guard.lock)
            if not stored:
                raise MemoryError("no memory left to add a key")
        finally:
            drop_all(&op)

    def remove(self, key):
        """Forget a key; KeyError where it is unknown. O(1)."""
        self.refuse_if_lent()
        if not self.discard(key):
            raise KeyError(key)

    def access(self, key):
        """Note a use of a key; KeyError where it is unknown. O(1)."""
        cdef Operation op
        cdef uint32_t i
        self.refuse_if_lent()
        start(&op)
        try:
            i = self.find(key, mixed(&self.engine.table, hash_of(<PyObject*>key)), &op)
            if i != 0:
                note_use(<PyObject*>self.engine, i)
            release(&self.guard.lock)
        finally:
            drop_all(&op)
        if i == 0:
            raise KeyError(key)

    def evict(self):
        """Forget and return the next victim, or None where there is none. O(1)."""
        cdef Operation op
        cdef uint32_t i
        key = None
        self.refuse_if_lent()
        start(&op)
        acquire(&self.guard.lock)
        i = self.engine.first()
        if i != 0:
            key = <object>self.engine.table.entries[i].key
            self.take_out(i, &op)
        release(&self.guard.lock)
        drop_all(&op)
        return key

    def clear(self):
        """Forget all keys. O(n)."""
        cdef Table old
        self.refuse_if_lent()
        acquire(&self.guard.lock)
        old = self.engine.detach()
        release(&self.guard.lock)
        drop_detached(&old)

    def __len__(self):
        cdef Py_ssize_t n = 0
        cdef uint32_t i
        if not self.lent:
            return self.engine.table.used
        acquire(&self.guard.lock)
        i = self.engine.first()
        while i != 0:               # a cache may have reserved entries, which no policy knows
            n += 1
            i = self.engine.after(i)
        release(&self.guard.lock)
        return n

    def __contains__(self, key):
        cdef Operation op
        cdef uint32_t i
        start(&op)
        try:
            i = self.find(key, mixed(&self.engine.table, hash_of(<PyObject*>key)), &op)
            known = i != 0 and self.engine.table.entries[i].value != NULL
            release(&self.guard.lock)
        finally:
            drop_all(&op)
        return known

    def __iter__(self):
        cdef Py_ssize_t size = 0, n = 0
        cdef uint32_t i
        cdef list keys
        while True:
            size = self.engine.table.used
            keys = [None] * size
            acquire(&self.guard.lock)
            if <Py_ssize_t>self.engine.table.used <= size:
                break
            release(&self.guard.lock)
        i = self.engine.first()
        while i != 0:
            keys[n] = <object>self.engine.table.entries[i].key
            n += 1
            i = self.engine.after(i)
        release(&self.guard.lock)
        del keys[n:]
        return iter(keys)

    def __repr__(self):
        return f"<{type(self).__name__} max_size={self.max_size} of {len(self)} keys>"

    def __reduce__(self):
        keys = list(self)
        return restore, (type(self), self.max_size, keys, [self.rank_of(key) for key in keys]), state_of(self)

    def _check(self):
        """Verify every invariant of the engine; AssertionError where one does not hold."""
        return self.engine._check()

    cdef uint32_t find(self, object key, uint32_t h, Operation* op) except FAILED:
        """The index of a key or 0. Takes the lock and leaves it held; an exception leaves it released."""
        cdef uint32_t i
        acquire(&self.guard.lock)
        i = lookup(&self.engine.table, <PyObject*>key, h)
        if i == UNCERTAIN:
            i = find_by_comparing(self.engine, &self.guard.lock, key, h, op)
        return i

    cdef void take_out(self, uint32_t i, Operation* op) noexcept:
        """Remove an entry, under the lock. Needs `can_leave`."""
        cdef Table* t = &self.engine.table
        self.engine.forget(i)
        leave(op, t.entries[i].key, t.entries[i].value, NO_CAUSE)
        self.engine.release(i)

    cdef bint discard(self, object key) except -1:
        """Forget a key; False where it is unknown."""
        cdef Operation op
        cdef uint32_t i
        start(&op)
        try:
            i = self.find(key, mixed(&self.engine.table, hash_of(<PyObject*>key)), &op)
            if i != 0 and can_leave(&op):
                self.take_out(i, &op)
            release(&self.guard.lock)
        finally:
            drop_all(&op)
        return i != 0

    cdef object rank_of(self, object key):
        cdef Operation op
        cdef uint32_t i
        cdef uint64_t rank = 0
        start(&op)
        try:
            i = self.find(key, mixed(&self.engine.table, hash_of(<PyObject*>key)), &op)
            if i != 0:
                rank = self.engine.rank(i)
            release(&self.guard.lock)
        finally:
            drop_all(&op)
        return rank

    cdef int fill(self, keys, ranks) except -1:
        """Add keys of known ranks, next victim first, to a policy that is empty and that nobody else knows yet."""
        cdef uint32_t h, i
        for key, rank in zip(keys, ranks):
            h = mixed(&self.engine.table, hash_of(<PyObject*>key))
            if not self.engine.reserve(1 << 31):
                raise MemoryError("no memory left to restore a policy")
            i = self.engine.insert(<PyObject*>key, h)
            put_value(&self.engine.table, i, <PyObject*>None)
            self.engine.admit_ranked(i, rank)
        return 0


cdef class LRUCache(_Ordered):
    """LRUCache(max_size=None)
--

    Least recently used first: the key that was added or accessed longest ago is the next victim.

    Args:
        max_size: the most keys it orders when used on its own (an int from 1 on); None: no bound.

    Every operation is O(1): a doubly linked list. Safe from any thread. On its own it is an ordered set, without
    values; as the policy of a cache, ``Cache(policy="LRU")`` or ``policy=LRUCache``, it can be looked at, but changed
    only through the cache (else RuntimeError).

    >>> policy = LRUCache(max_size=2)
    >>> policy.add("a"); policy.add("b"); policy.access("a")
    >>> list(policy), policy.evict()
    (['b', 'a'], 'b')
    """

    def __cinit__(self, *args, **kwargs):
        self.engine = LRU.__new__(LRU)


cdef class LFUCache(_Ordered):
    """LFUCache(max_size=None)
--

    Least frequently used first; among equals, the least recently used.

    Adding is a use, and so is every access; uses are never forgotten, so what was popular long ago stays. For the rest,
    see `LRUCache`. Every operation is O(1): a chain of lists, one for each number of uses (K. Shah, A. Mitra and
    D. Matani, "An O(1) algorithm for implementing the LFU cache eviction scheme", 2010).

    >>> policy = LFUCache(max_size=3)
    >>> policy.add("a"); policy.add("b"); policy.add("c"); policy.access("a"); policy.access("b")
    >>> list(policy)
    ['c', 'a', 'b']
    """

    def __cinit__(self, *args, **kwargs):
        self.engine = LFU.__new__(LFU)


cdef class FIFOCache(_Ordered):
    """FIFOCache(max_size=None)
--

    First in, first out: the key added longest ago is the next victim, however often it was accessed.

    A key that was removed and comes back goes to the end. For the rest, see `LRUCache`. Every operation is O(1), `add`
    amortised: a ring buffer.

    >>> policy = FIFOCache(max_size=2)
    >>> policy.add("a"); policy.add("b"); policy.access("a")
    >>> policy.evict()
    'a'
    """

    def __cinit__(self, *args, **kwargs):
        self.engine = FIFO.__new__(FIFO)


def restore(cls, max_size, keys, ranks):
    """Unpickle a policy, all but what a subclass added: `pickle` adds that."""
    cdef EvictionPolicy policy = cls.__new__(cls)
    policy.max_size = max_size
    if isinstance(policy, _Ordered):
        (<_Ordered>policy).fill(keys, ranks)
    return policy


cdef object state_of(object policy):
    """What a subclass written in Python added, as `pickle` has it."""
    if hasattr(policy, "__getstate__"):         # from 3.11 on every object has it
        return policy.__getstate__()
    return getattr(policy, "__dict__", None)


cdef object checked_size(object max_size):
    """The most entries or keys: an int, or None for no bound. Raises where it makes no sense."""
    if max_size is None:
        return None
    if isinstance(max_size, bool) or not hasattr(type(max_size), "__index__"):
        raise TypeError(f"max_size must be an int or None, not {type(max_size).__name__}")
    try:
        size = PyNumber_Index(max_size)
    except Exception as error:
        raise TypeError(f"max_size must be an int or None; {type(max_size).__name__} is none: {error}") from error
    if size < 1:
        raise ValueError(f"max_size must be at least 1, or None for no bound, not {size}")
    return size


BUILT_IN = {"LRU": LRUCache, "LFU": LFUCache, "FIFO": FIFOCache}


cdef int clear_cycles(PyObject* self) noexcept:
    """What the collector may do to break a cycle: forget the keys. Those of a cache are the cache's to forget."""
    cdef _Ordered policy = <_Ordered>self
    cdef Table old
    if not policy.lent:
        old = policy.engine.detach()
        drop_detached(&old)
    return 0


for _type in (_Ordered, *BUILT_IN.values()):
    (<PyTypeObject*>_type).tp_clear = <inquiry>clear_cycles
