"""One operation on a cache: how it finds a key, and what it leaves to do after the lock has been released.

References are dropped, callbacks called and a python policy notified only after the lock has been released and every
structure is whole. Until then an `Operation`, on the stack of the call, holds what left the cache.
"""

from cpython.object cimport PyObject
from libc.stdint cimport uint32_t, uint64_t

from cachebox._engine.table cimport Engine
from cachebox._platform.lock cimport Lock
from cachebox._store.tags cimport TagLink


cdef enum Cause:
    SIZE
    EXPIRED
    EXPLICIT
    REPLACED
    NO_CAUSE                        # a mere reference to drop: no callback learns of it

cdef enum:
    FAILED = 0x7FFFFFFF             # no index: an exception is set


cdef struct Removal:                # owns both references; the key may be NULL if the cause is NO_CAUSE
    PyObject* key
    PyObject* value
    Cause cause
    uint32_t i                      # of a key to compare: its entry; 0: the key has left that entry since


cdef struct Operation:
    Removal* removed                # in the order in which they left
    uint32_t n
    uint32_t size
    Removal few[4]
    TagLink* detached               # links of entries that left (owned)
    bint wake_sweeper               # an entry expires before the sweeper's next visit
    bint has_policy_lock            # for a python policy, as the fields below: this operation holds the policy lock
    bint strays                     # this operation goes on without the policy lock: see `python_policy`
    uint32_t notified               # removals of which the policy has been notified
    PyObject* used                  # the key to notify it of as used (owned)
    PyObject* added                 # the key to notify it of as added (owned)
    uint32_t i                      # the entry of `added`
    Py_ssize_t victims              # how many victims it may still be asked for; 0: it has not been asked yet
    uint64_t version                # the table's version when there was no room
    uint32_t wanted                 # the entry that `find_to_change` found
    bint locked                     # the cache's lock is still held after a victim left: nothing else may come between


cdef inline void start(Operation* op) noexcept nogil:
    op.removed = op.few
    op.n = op.notified = 0
    op.victims = 0
    op.size = 4
    op.wake_sweeper = op.has_policy_lock = op.strays = op.locked = False
    op.used = op.added = NULL
    op.detached = NULL


cdef inline bint reserve_removal(Operation* op) noexcept nogil:
    """Make sure that one more removal can be noted; False: no memory."""
    return op.n < op.size or more_room(op)


cdef inline void note_removal(Operation* op, PyObject* key, PyObject* value, Cause cause) noexcept nogil:
    """Note a removal, taking over the references. Needs `reserve_removal`."""
    op.removed[op.n].key = key
    op.removed[op.n].value = value
    op.removed[op.n].cause = cause
    op.n += 1


cdef bint more_room(Operation* op) noexcept nogil
cdef void drop_all(Operation* op) noexcept
cdef uint32_t find_by_comparing(
    Engine engine, Lock* lock, object key, uint64_t h, uint32_t first, Operation* op
) except FAILED
