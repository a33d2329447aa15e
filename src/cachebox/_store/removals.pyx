"""Removals: of one key, of many, of all entries with a tag, and of those for which a lower bound has no room.

Removals of many entries are done in portions. Between two of them other threads may use the cache, and run at all.
"""

from cpython.object cimport PyObject
from libc.math cimport INFINITY
from libc.stdint cimport uint32_t, uint64_t

from cachebox._engine.table cimport hash_of, mixed
from cachebox._platform.lock cimport acquire, let_others_in, release
from cachebox._store.operation cimport EXPIRED, EXPLICIT, NO_CAUSE, Operation, start
from cachebox._store.state cimport DONE, NO_MEMORY, Outcome, hash_in, reserve
from cachebox._store.store cimport Store
from cachebox._store.tags cimport Tag


cdef enum:
    REMOVED_AT_ONCE = 256           # entries that are removed under one hold of the lock


cdef object take(Store store, object key, bint wanted, object missing):
    """Remove a key. Returns its value (None, unless `wanted`), or `missing` if there was none."""
    cdef Operation op
    cdef double now
    cdef uint32_t i
    cdef uint64_t h = hash_in(store, key)
    cdef Outcome outcome = DONE
    value = missing
    start(&op)
    try:
        now = store.now(INFINITY)
        i = store.find_to_change(key, h, &op)
        if store.is_live(i, now):
            value = <object>store.table.entries[i].value if wanted else None
            outcome = store.remove(i, EXPLICIT, &op)
        elif i != 0 and store.table.entries[i].value != NULL:
            outcome = store.remove(i, EXPIRED, &op)
            store.mark_changed(i, NO_CAUSE)     # a refresh may be in progress
        elif i != 0:
            store.mark_changed(i, NO_CAUSE)     # a load is in progress: its result must not be stored
            reserve(&store.table.entries[i], NULL)
            store.drop_reserved(i, &op)
        store.give_memory_back()
        release(store.lock)
        if outcome != DONE:
            raise MemoryError("no memory left to remove an entry")
    finally:
        store.finish(&op)
    store.forget_failure(key)
    return value


cdef Py_ssize_t remove_tagged(Store store, object name) except -1:
    """Remove all entries with a tag, in small portions. Returns how many were live. O(k) for k of them."""
    cdef Operation op
    cdef Tag tag
    cdef Py_ssize_t left, removed = 0
    cdef double now
    cdef uint32_t i
    cdef int portion
    if store.loads == 0 and store.tags is None:
        hash_of(<PyObject*>name)
        return 0
    tag = store.find_tag(name, store.loads != 0)   # a load in progress must learn of it, even if no entry has the tag
    if tag is None:
        return 0
    now = store.now(INFINITY)
    acquire(store.lock)
    while tag.dropped:                          # it was dropped since it was found
        release(store.lock)
        tag = store.find_tag(name, True)
        acquire(store.lock)
    store.invalidations += 1
    tag.invalidated = store.invalidations
    left = tag.n                                # entries that come after the call began may stay
    release(store.lock)
    while left > 0:
        portion = 0
        start(&op)
        try:
            if store.python_policy is not None:
                store.python_policy.enter(&op, store.lock)
            acquire(store.lock)
            while portion < REMOVED_AT_ONCE and left > 0:
                if tag.n == 0:
                    left = 0
                    break
                i = tag.ring.next.entry
                live = store.is_live(i, now)
                if store.remove(i, EXPLICIT if live else EXPIRED, &op) != DONE:
                    release(store.lock)
                    raise MemoryError("no memory left to remove an entry")
                store.mark_changed(i, NO_CAUSE)
                removed += live
                portion += 1
                left -= 1
            store.give_memory_back()
            release(store.lock)
        finally:
            store.finish(&op)
        let_others_in()
    return removed


cdef Py_ssize_t remove_values(Store store, list pairs) except -1:
    """Remove each key that has that very value; None stands for no pair. Empties the list. Returns how many had it."""
    cdef Py_ssize_t removed = 0, k
    for k in range(len(pairs)):
        if k % REMOVED_AT_ONCE == 0:
            let_others_in()
        if pairs[k] is not None:
            key, value = pairs[k]
            pairs[k] = None                     # or all would be freed at once
            removed += remove_value(store, key, <PyObject*>value)
    return removed


cdef bint remove_value(Store store, object key, PyObject* value) except -1:
    """Remove a key if it has that very value. Returns whether it had."""
    cdef Operation op
    cdef double now
    cdef uint32_t i
    cdef Outcome outcome = DONE
    cdef bint found = False
    start(&op)
    try:
        now = store.now(INFINITY)
        i = store.find_to_change(key, mixed(store.table, hash_of(<PyObject*>key)), &op)
        found = store.is_live(i, now) and store.table.entries[i].value == value
        if found:
            outcome = store.remove(i, EXPLICIT, &op)
            store.give_memory_back()
        release(store.lock)
        if outcome != DONE:
            raise MemoryError("no memory left to remove an entry")
    finally:
        store.finish(&op)
    return found


cdef bint change_bound(Store store, Py_ssize_t bound, bint unbounded) except -1:
    """Set how many entries there may be. `unbounded`: the user set no bound.

    If many have to leave, the bound goes down in steps, unless another call changes it meanwhile. After an exception it
    is as before. Returns whether it is `bound`.
    """
    cdef Py_ssize_t before = store.bound, reached = -1
    cdef bint was_unbounded = store.unbounded
    try:
        while not change_bound_a_step(store, bound, unbounded, &reached):
            let_others_in()
    except:
        acquire(store.lock)
        if store.bound == reached and reached != bound:     # nobody else has changed it
            store.bound, store.unbounded = before, was_unbounded
        release(store.lock)
        raise
    return reached == bound


cdef bint change_bound_a_step(Store store, Py_ssize_t target, bint unbounded, Py_ssize_t* reached) except -1:
    """Set the bound to `target`, or as low as it gets by one portion of removals. Returns whether that was the last step.

    `reached`: the bound that the step before has set, or -1; the step puts its own there.
    """
    cdef Operation op
    cdef Outcome outcome
    cdef double now
    cdef Py_ssize_t bound = target, older
    start(&op)
    try:
        now = store.now(INFINITY)
        if store.python_policy is not None:
            store.python_policy.enter(&op, store.lock)
        while True:
            store.lock_again(&op)
            if reached[0] >= 0 and store.bound != reached[0]:
                release(store.lock)
                return True                     # a later `resize` counts
            if store.python_policy is None:     # such a policy runs Python code, which lets others in
                bound = max(target, store.live - REMOVED_AT_ONCE)
            older, store.bound = store.bound, bound
            outcome = store.make_room(0, 0.0, 0, now, &op)
            if outcome != DONE:                 # the bound always holds: it changes only when it does
                store.bound = older
            elif bound != target:
                store.unbounded = False
            else:
                store.unbounded = unbounded
                store.engine.expect(bound)
                store.give_memory_back()
            reached[0] = store.bound
            release(store.lock)
            if outcome == DONE:
                return bound == target
            if outcome == NO_MEMORY:
                raise MemoryError("no memory left to remove entries")
            store.evict_by_policy(&op)
    finally:
        store.finish(&op)
