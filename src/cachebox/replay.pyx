"""Requests replayed on an engine, without a cache around it: what `simulation` counts hits with."""

from cpython.object cimport PyObject
from libc.stdint cimport uint32_t

from cachebox._engine.table cimport Engine, allocate_zeroed, deallocate, decref, mixed, note_use, put_value, reallocate
from cachebox.policies cimport _Ordered


cdef class Replay:
    """A cache that holds numbers: `keys` many of them may be asked for, and a miss is followed by a set.

    Args:
        policy: a built-in policy, new; it serves this replay alone.
        hashes: the hash of each key, by number (an array of type "q").
        size: the most entries, or the most weight.
        weights: of each key, by number (an array of type "d"), or None.
    """

    cdef Engine engine
    cdef const Py_ssize_t[::1] hashes
    cdef const double[::1] weights
    cdef uint32_t* where            # number -> entry; 0: not held
    cdef uint32_t* who              # entry -> number
    cdef uint32_t room_for
    cdef Py_ssize_t live
    cdef bint weighed
    cdef double size
    cdef double weight
    cdef readonly Py_ssize_t hits

    def __cinit__(self, _Ordered policy, hashes, size, weights=None):
        self.engine = policy.lend()
        if weights is None:
            self.engine.expect(size)
        self.hashes = hashes
        self.size = size
        self.weighed = weights is not None
        if self.weighed:
            self.weights = weights
        self.where = <uint32_t*>allocate_zeroed(max(len(hashes), 1), sizeof(uint32_t))
        if self.where == NULL:
            raise MemoryError(f"no memory left to replay requests for {len(hashes)} keys")

    def __dealloc__(self):
        deallocate(self.where)
        deallocate(self.who)

    def run(self, const uint32_t[::1] keys):
        """Replay these requests after those before."""
        cdef Py_ssize_t k
        cdef uint32_t i
        for k in range(keys.shape[0]):
            i = self.where[keys[k]]
            if i != 0:
                self.hits += 1
                note_use(<PyObject*>self.engine, i)
            else:
                self.store(keys[k])

    cdef int store(self, uint32_t number) except -1:
        cdef double weight = self.weights[number] if self.weighed else 1.0
        cdef uint32_t* who
        cdef uint32_t i
        if weight > self.size:
            return 0
        while self.weight + weight > self.size and self.live > 0:
            self.evict()
        if not self.engine.reserve(<Py_ssize_t>1 << 31 if self.weighed else <Py_ssize_t>self.size):
            raise MemoryError("no memory left to replay requests")
        if self.engine.table.capacity >= self.room_for:
            who = <uint32_t*>reallocate(self.who, (<size_t>self.engine.table.capacity + 1) * sizeof(uint32_t))
            if who == NULL:
                raise MemoryError("no memory left to replay requests")
            self.who = who
            self.room_for = self.engine.table.capacity + 1
        i = self.engine.insert(<PyObject*>None, mixed(&self.engine.table, self.hashes[number]))
        put_value(&self.engine.table, i, <PyObject*>None)
        self.engine.admit(i)
        self.where[number] = i
        self.who[i] = number
        self.live += 1
        self.weight += weight
        return 0

    cdef void evict(self) noexcept:
        cdef uint32_t i = self.engine.first()
        self.engine.forget(i)
        self.where[self.who[i]] = 0
        self.weight -= self.weights[self.who[i]] if self.weighed else 1.0
        self.live -= 1
        if self.live == 0:
            self.weight = 0.0
        self.engine.release(i)
        decref(<PyObject*>None)
        decref(<PyObject*>None)
