"""Requests replayed on an engine without a cache around it, so that `simulation` can count hits."""

from cpython.buffer cimport PyBUF_FORMAT, PyBUF_ND, PyBuffer_Release, PyObject_GetBuffer
from cpython.object cimport PyObject
from libc.stdint cimport int64_t, uint32_t

from cachebox._engine.table cimport Engine, allocate_zeroed, deallocate, decref, mixed, on_hit, put_value, reallocate
from cachebox.policies cimport _BuiltInPolicy


cdef class Numbers:
    """The buffer of an array, or of a part of one; held for as long as this object lives.

    Cython's typed memoryviews would do the same in a module of three times the size.
    """

    cdef Py_buffer view
    cdef Py_ssize_t n

    def __cinit__(self, numbers, char kind, Py_ssize_t width):
        PyObject_GetBuffer(numbers, &self.view, PyBUF_FORMAT | PyBUF_ND)
        if self.view.format[0] != kind or self.view.format[1] != 0 or self.view.itemsize != width:
            raise TypeError(f"an array of type {chr(kind)!r}, {width} bytes each, is needed, not {numbers!r:.80}")
        self.n = self.view.len // width

    def __dealloc__(self):
        PyBuffer_Release(&self.view)    # does nothing without a buffer


cdef inline Numbers unsigned(numbers):
    return Numbers(numbers, c'I', sizeof(uint32_t))


cdef inline Numbers doubles(numbers):
    return Numbers(numbers, c'd', sizeof(double))


cdef class Replay:
    """A cache of numbers, one for each of `len(hashes)` keys. A miss is followed by a set.

    Args:
        policy: a new built-in policy, which serves this replay alone.
        hashes: the hash of each key, by number (an array of type "q").
        size: the most entries, or the most weight.
        weights: the weight of each key, by number (an array of type "d"), or None.
    """

    cdef Engine engine
    cdef Numbers held               # owns the buffer of `hashes`
    cdef Numbers held_weights       # owns the buffer of `weights`
    cdef const int64_t* hashes
    cdef const double* weights      # NULL: each weighs 1
    cdef uint32_t* where            # number -> entry; 0: not held
    cdef uint32_t* who              # entry -> number
    cdef uint32_t room_for
    cdef Py_ssize_t live
    cdef double size
    cdef double weight
    cdef readonly Py_ssize_t hits

    def __cinit__(self, _BuiltInPolicy policy, hashes, size, weights=None):
        self.engine = policy.lend()
        if weights is None:
            self.engine.expect(size)
        self.held = Numbers(hashes, c'q', sizeof(int64_t))
        self.hashes = <const int64_t*>self.held.view.buf
        self.size = size
        if weights is not None:
            self.held_weights = doubles(weights)
            self.weights = <const double*>self.held_weights.view.buf
        self.where = <uint32_t*>allocate_zeroed(max(len(hashes), 1), sizeof(uint32_t))
        if self.where == NULL:
            raise MemoryError(f"no memory left to replay requests for {len(hashes)} keys")

    def __dealloc__(self):
        deallocate(self.where)
        deallocate(self.who)

    def run(self, requests):
        """Replay more requests."""
        cdef Numbers held = unsigned(requests)
        cdef const uint32_t* keys = <const uint32_t*>held.view.buf
        cdef Py_ssize_t k
        cdef uint32_t i
        for k in range(held.n):
            i = self.where[keys[k]]
            if i != 0:
                self.hits += 1
                on_hit(<PyObject*>self.engine, i)
            else:
                self.store(keys[k])

    cdef int store(self, uint32_t number) except -1:
        cdef double weight = self.weights[number] if self.weights != NULL else 1.0
        cdef uint32_t* who
        cdef uint32_t i
        if weight > self.size:
            return 0
        while self.weight + weight > self.size and self.live > 0:
            self.evict()
        if not self.engine.reserve(<Py_ssize_t>1 << 31 if self.weights != NULL else <Py_ssize_t>self.size):
            raise MemoryError("no memory left to replay requests")
        if self.engine.table.capacity >= self.room_for:
            who = <uint32_t*>reallocate(self.who, (<size_t>self.engine.table.capacity + 1) * sizeof(uint32_t))
            if who == NULL:
                raise MemoryError("no memory left to replay requests")
            self.who = who
            self.room_for = self.engine.table.capacity + 1
        i = self.engine.insert(<PyObject*>None, mixed(&self.engine.table, self.hashes[number]))
        put_value(&self.engine.table, i, <PyObject*>None)
        self.engine.on_insert(i)
        self.where[number] = i
        self.who[i] = number
        self.live += 1
        self.weight += weight
        return 0

    cdef void evict(self) noexcept:
        cdef uint32_t i = self.engine.victim()
        self.engine.on_remove(i)
        self.where[self.who[i]] = 0
        self.weight -= self.weights[self.who[i]] if self.weights != NULL else 1.0
        self.live -= 1
        if self.live == 0:
            self.weight = 0.0
        self.engine.release(i)
        decref(<PyObject*>None)
        decref(<PyObject*>None)


cdef class Optimum:
    """Belady's optimum: it knows when each key is requested next, and evicts the key that is requested last, or never.

    It may decline to store. O(log n) for each request. With weights it is a good guess, not a bound: the true optimum
    is a hard problem then.

    L. A. Belady, "A study of replacement algorithms for a virtual-storage computer", IBM Systems Journal 5, 1966.
    """

    cdef Numbers held_keys          # owns the buffer of `keys`
    cdef Numbers held_weights       # owns the buffer of `weights`
    cdef const uint32_t* keys
    cdef const double* weights      # NULL: each weighs 1
    cdef uint32_t* again            # request -> the next request of the same key; 0: none
    cdef uint32_t* heap             # the next requests of the held keys, the last one first
    cdef char* held                 # by key number
    cdef Py_ssize_t n
    cdef Py_ssize_t done
    cdef double size
    cdef double weight
    cdef readonly Py_ssize_t hits

    def __cinit__(self, requests, Py_ssize_t distinct, double size, weights=None):
        self.held_keys = unsigned(requests)
        self.keys = <const uint32_t*>self.held_keys.view.buf
        self.size = size
        if weights is not None:
            self.held_weights = doubles(weights)
            self.weights = <const double*>self.held_weights.view.buf
        cdef uint32_t* last = NULL
        cdef Py_ssize_t k, count = self.held_keys.n
        self.again = <uint32_t*>allocate_zeroed(count + 1, sizeof(uint32_t))
        self.heap = <uint32_t*>allocate_zeroed(count + 1, sizeof(uint32_t))
        self.held = <char*>allocate_zeroed(distinct + 1, 1)
        last = <uint32_t*>allocate_zeroed(distinct + 1, sizeof(uint32_t))
        if self.again == NULL or self.heap == NULL or self.held == NULL or last == NULL:
            deallocate(last)
            raise MemoryError(f"no memory left to look ahead in {count} requests")
        for k in range(count - 1, -1, -1):
            self.again[k] = last[self.keys[k]]
            last[self.keys[k]] = <uint32_t>k
        deallocate(last)

    def __dealloc__(self):
        deallocate(self.again)
        deallocate(self.heap)
        deallocate(self.held)

    def run(self, Py_ssize_t count):
        """Look at the next requests."""
        cdef Py_ssize_t k
        cdef uint32_t number
        for k in range(self.done, min(self.done + count, self.held_keys.n)):
            number = self.keys[k]
            if self.held[number]:
                self.hits += 1
                self.let_go(number)
            if self.again[k] != 0 and self.weight_of(number) <= self.size:
                self.held[number] = True
                self.weight += self.weight_of(number)
                self.push(self.again[k])
                while self.weight > self.size * (1 + 1e-12):
                    self.let_go(self.keys[self.pop()])      # this may be the same key
            self.done = k + 1

    cdef double weight_of(self, uint32_t number) noexcept nogil:
        return self.weights[number] if self.weights != NULL else 1.0

    cdef void let_go(self, uint32_t number) noexcept nogil:
        self.held[number] = False
        self.weight -= self.weight_of(number)

    # Past requests stay in the heap, but are never popped: while any key is held, its next request is later and so
    # above.

    cdef void push(self, uint32_t request) noexcept nogil:
        cdef Py_ssize_t at = self.n, above
        self.n += 1
        while at > 0:
            above = (at - 1) // 2
            if self.heap[above] >= request:
                break
            self.heap[at] = self.heap[above]
            at = above
        self.heap[at] = request

    cdef uint32_t pop(self) noexcept nogil:
        cdef uint32_t first = self.heap[0], moved
        cdef Py_ssize_t at = 0, below = 1
        self.n -= 1
        moved = self.heap[self.n]
        while below < self.n:
            if below + 1 < self.n and self.heap[below + 1] > self.heap[below]:
                below += 1
            if self.heap[below] <= moved:
                break
            self.heap[at] = self.heap[below]
            at = below
            below = 2 * at + 1
        self.heap[at] = moved
        return first
