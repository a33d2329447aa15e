"""The locks of keys, for threads; `key_locks` has the overview.

The code is compiled so that nothing can interrupt it between taking a lock and noting that, nor between the end of a
block and giving the lock back: no signal handler, and no exception set by another thread. Else a lock that nobody has
would keep its key from all other threads without end.
"""

from itertools import count
from operator import itemgetter

from cachebox._platform.callers cimport CallerLock, this_thread
from cachebox._platform.section cimport check_headroom

from cachebox._platform.at_fork import renew_in_child

cdef object by_number = itemgetter(0)


cdef class KeyLock:
    """The lock of one key."""
    cdef CallerLock lock            # re-entrant, because a callback of the cache may write the same key
    cdef readonly Py_ssize_t number
    cdef unsigned long owner        # the thread that holds it
    cdef Py_ssize_t depth           # how often that thread holds it
    cdef list waiting               # one item per waiter, because a list changes in one step
    cdef list stands                # the caller that pops the item removes the lock from the dict

    def __init__(self, number):
        self.lock = CallerLock()
        self.number = number
        self.waiting = []
        self.stands = [None]


cdef class KeyLocks:
    """Locks by key. Memory is bounded by the writes under way.

    Several locks are taken in the order of their creation, so no wait closes a cycle.
    """
    cdef readonly dict _locks
    cdef object numbers             # counts in one step, also without the GIL: no two locks get the same number
    cdef object __weakref__

    def __init__(self):
        self._locks = {}
        self.numbers = count()
        renew_in_child(self)

    def of(self, keys):
        """The locks of some different keys."""
        return Held(self, list(keys))

    cdef KeyLock lock_of(self, object key):
        lock = self._locks.get(key)
        if lock is None:
            lock = self._locks.setdefault(key, KeyLock(next(self.numbers)))
        return lock

    cdef int give_back(self, object key, KeyLock lock) except -1:
        try:
            lock.depth -= 1
            if lock.depth == 0:
                lock.owner = 0
                if not lock.waiting:
                    self.remove(key, lock)
        finally:
            lock.lock.release()
        return 0

    cdef int remove(self, object key, KeyLock lock) except -1:
        """Take an unused lock out of the dict, unless a finalizer that wrote the key has done so."""
        try:
            lock.stands.pop()
        except IndexError:
            return 0
        try:
            self._locks.pop(key, None)
        except BaseException:           # comparing keys has raised
            lock.stands.append(None)
            raise
        return 0

    def _after_fork(self):
        """After a fork, in the child: drop the locks of the parent's other threads, which nobody would release."""
        cdef KeyLock lock
        cdef unsigned long this = this_thread()
        kept = {}
        for key, known in self._locks.items():
            lock = known
            if lock.owner == this:
                lock.waiting.clear()
                kept[key] = lock
        self._locks = kept


cdef class Held:
    """The locks of some keys, for a thread: taken by `take`, and released at the end of the ``with`` block."""
    cdef KeyLocks locks
    cdef list keys
    cdef list wanted                # the number, key and lock of each, in the order in which they are taken
    cdef Py_ssize_t taken           # how many of them are taken

    def __init__(self, KeyLocks locks not None, list keys not None):
        self.locks = locks
        self.keys = keys

    def take(self):
        """Wait for all of them."""
        check_headroom()
        while not self.take_all():
            self.give_back()

    def __enter__(self):
        return self

    def __exit__(self, *raised):
        self.give_back()

    def __del__(self):
        """Give back what a generator held that ended without leaving its block: it was called too deep to go on."""
        self.give_back()

    cdef bint take_all(self) except -1:
        """Returns False if one of the locks is no longer its key's."""
        cdef KeyLock lock
        self.wanted = []
        for key in self.keys:
            lock = self.locks.lock_of(key)
            self.wanted.append((lock.number, key, lock))
        self.wanted.sort(key=by_number)
        for _, key, found in self.wanted:
            lock = found
            lock.waiting.append(None)
            try:
                lock.lock.acquire()
                self.taken += 1
                lock.owner = this_thread()
                lock.depth += 1
            finally:
                lock.waiting.pop()
            if self.locks._locks.get(key) is not lock:
                return False
        return True

    cdef int give_back(self) except -1:
        try:
            while self.taken:
                self.taken -= 1
                _, key, lock = self.wanted[self.taken]
                self.locks.give_back(key, lock)
        finally:
            if self.taken:              # comparing a key has raised
                self.give_back()
        return 0
