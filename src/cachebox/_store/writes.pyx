"""Writes of whole values: `set`, `add`, `setdefault`, `touch`, and those that read, modify and write in one step."""

from cpython.object cimport PyObject
from libc.math cimport INFINITY
from libc.stdint cimport uint32_t, uint64_t

from cachebox._engine.table cimport take_over, xdecref
from cachebox._platform.caught cimport raise_current
from cachebox._platform.lock cimport acquire, release
from cachebox._store.operation cimport EXPIRED, EXPLICIT, Operation, start
from cachebox._store.state cimport BY_VALUE, DONE, ISOLATED, NO_MEMORY, TAGGED, WEIGHED, Outcome, Watch, hash_in
from cachebox._store.store cimport Store
from cachebox._store.tags cimport TagLink, free_links, has_just, make_room_for_links, new_links, some_dropped
from cachebox.stats cimport MISSES


cdef extern from *:
    """
    #define CB_ADD(a, b) PyLong_Type.tp_as_number->nb_add(a, b)     /* ints: runs no method of a subclass */
    """
    bint is_int "PyLong_Check"(PyObject*) noexcept
    PyObject* add_ints "CB_ADD"(PyObject*, PyObject*) noexcept


cdef object NO_VALUE = object()
cdef object _zero = 0
cdef PyObject* zero = <PyObject*>_zero


cdef int put(
    Store store, object key, uint64_t h, object value, double lifetime, double weight, bint only_new, Operation* op
) except -1:
    """The slow path of `set`: store a value; if `only_new`, only where there is none. The caller finishes `op`."""
    cdef double now = store.now(lifetime)
    cdef Outcome outcome
    cdef uint32_t i
    while True:
        outcome = DONE
        i = store.find_to_change(key, h, op)
        if not (only_new and store.is_live(i, now)):
            outcome = store.write(i, key, h, value, lifetime, False, weight, now, op)
            if outcome == DONE and store.modes & TAGGED:
                store.take_tags(op.i, op)
            if outcome == DONE:
                store.give_memory_back()     # a heavy entry may have evicted many
        release(store.lock)
        if outcome == DONE:
            return 0
        if outcome == NO_MEMORY:
            raise MemoryError("no memory left to store an entry")
        store.evict_by_policy(op)


cdef int put_tagged(
    Store store, object key, uint64_t h, object value, double lifetime, double weight, tuple names, Operation* op
) except -1:
    """`put` with tags."""
    cdef double now = store.now(lifetime)
    cdef Outcome outcome = NO_MEMORY
    cdef TagLink* chain = NULL
    cdef uint32_t i
    cdef bint dropped, kept
    cdef list tags = store.find_tags(names)
    try:
        while True:
            i = store.find_to_change(key, h, op)
            kept = store.is_live(i, now) and has_just(&store.links, i, tags)
            if chain == NULL and not kept:      # an entry that has these very tags needs no links
                release(store.lock)
                op.locked = False
                chain = new_links(tags)
                i = store.find_to_change(key, h, op)
                kept = False
            dropped = some_dropped(chain)
            outcome = NO_MEMORY
            if not dropped and store.prepare(True) and make_room_for_links(&store.links, store.table.capacity):
                outcome = store.write(i, key, h, value, lifetime, False, weight, now, op)
            if outcome == DONE and not kept:
                store.give_tags(op.i, chain, op)
                chain = NULL
            if outcome == DONE:
                store.give_memory_back()        # a heavy entry may have evicted many
            release(store.lock)
            if outcome == DONE:
                return 0
            if dropped:
                free_links(chain)
                chain = NULL
                tags = store.find_tags(names)
            elif outcome == NO_MEMORY:
                raise MemoryError("no memory left to store an entry")
            else:
                store.evict_by_policy(op)
    finally:
        free_links(chain)


cdef int set_slow(Store store, object key, uint64_t h, object value, double lifetime) except -1:
    cdef double weight = 0.0
    value = made_ready(store, key, value, &lifetime, &weight)
    return set_weighed(store, key, h, value, lifetime, weight, False)


cdef inline object made_ready(Store store, object key, object value, double* lifetime, double* weight):
    """The value to store, with its lifetime and its weight. Most caches have no mode that calls anything here."""
    if store.modes & ISOLATED:
        value = store.copy_of(value)
    if lifetime[0] == BY_VALUE:
        lifetime[0] = store.lifetime_for(lifetime[0], key, value)
    if store.modes & WEIGHED:
        weight[0] = store.weigh_checked(key, value)
    return value


cdef int set_weighed(
    Store store, object key, uint64_t h, object value, double lifetime, double weight, bint only_new
) except -1:
    cdef Operation op
    start(&op)
    try:
        put(store, key, h, value, lifetime, weight, only_new, &op)
    finally:
        store.finish(&op)
    return store.forget_failure(key)


cdef int set_tagged(Store store, object key, uint64_t h, object value, double lifetime, tuple tags) except -1:
    cdef Operation op
    cdef double weight = 0.0
    if not tags:
        return set_slow(store, key, h, value, lifetime)
    value = made_ready(store, key, value, &lifetime, &weight)
    start(&op)
    try:
        put_tagged(store, key, h, value, lifetime, weight, tags, &op)
    finally:
        store.finish(&op)
    return store.forget_failure(key)


cdef object setdefault_slow(Store store, object key, uint64_t h, object default):
    cdef Operation op
    cdef Outcome outcome = DONE
    cdef double weight = 0.0, now, lifetime = store.lifetime
    cdef bint counted = False, weighed = True
    cdef uint32_t i
    cdef PyObject* found
    value = kept = default
    if store.modes & (WEIGHED | ISOLATED) or lifetime == BY_VALUE:
        found = store.look(key)              # if there is a value, the default need not fit
        weighed = found == NULL
        xdecref(found)
        if weighed:
            kept = store.copy_of(default)
            lifetime = store.lifetime_for(lifetime, key, kept)
            weight = store.weigh_checked(key, kept)
    start(&op)
    try:
        now = store.now(lifetime)
        while True:
            i = store.find_to_change(key, h, &op)
            if store.is_live(i, now):
                if not counted:
                    store.note_hit(i, now, &op)
                value = <object>store.table.entries[i].value
                kept = None
                outcome = DONE
            elif not weighed:               # there was a value a moment ago
                release(store.lock)
                value = NO_VALUE
                break
            else:
                if not counted:
                    store.counts[MISSES] += 1
                    counted = True
                outcome = store.write(i, key, h, kept, lifetime, False, weight, now, &op)
            release(store.lock)
            if outcome == DONE:
                store.forget_failure(key)
                break
            if outcome == NO_MEMORY:
                raise MemoryError("no memory left to store an entry")
            store.evict_by_policy(&op)
    finally:
        store.finish(&op)
    if value is NO_VALUE:
        return setdefault_slow(store, key, h, default)
    return value if value is default else store.copy_of(value)


cdef int touch_value(Store store, object key, double lifetime, PyObject* value) except -2:
    """`touch`, if the key has that very value; NULL: any value. Returns 1: done, 0: no value, -1: another value."""
    cdef Operation op
    cdef double now
    cdef uint32_t i
    cdef bint prepared = True
    cdef int touched
    start(&op)
    try:
        now = store.now(lifetime)
        i = store.find_to_change(key, hash_in(store, key), &op)
        touched = store.is_live(i, now)
        if touched and value != NULL and store.table.entries[i].value != value:
            touched = -1
        elif touched:
            prepared = store.prepare(lifetime < INFINITY)
            if prepared:
                store.set_lifetime(i, lifetime, now, &op)
        release(store.lock)
        if not prepared:
            raise MemoryError("no memory left for a deadline")
    finally:
        store.finish(&op)
    return touched


# --- read, modify, write, as one step ---------------------------------------------------------------------------------

cdef object add_int(Store store, object key, object amount):
    """`increment` without a weigher: ints are added under the lock, which runs no Python code."""
    cdef Operation op
    cdef Outcome outcome
    cdef double now
    cdef uint64_t h = hash_in(store, key)
    cdef uint32_t i
    cdef PyObject* total
    start(&op)
    try:
        now = store.now(store.lifetime)
        while True:
            i = store.find_to_change(key, h, &op)
            total = zero
            if store.is_live(i, now):
                total = store.table.entries[i].value
                if not is_int(total):
                    old = <object>total
                    release(store.lock)
                    raise not_an_int(key, old)
            total = add_ints(total, <PyObject*>amount)
            if total == NULL:
                release(store.lock)
                raise_current()
            outcome = store.write(i, key, h, <object>total, store.lifetime, True, 0.0, now, &op)
            release(store.lock)
            if outcome == DONE:
                summed = take_over(total)
                store.forget_failure(key)
                return summed
            xdecref(total)
            if outcome == NO_MEMORY:
                raise MemoryError("no memory left to store an entry")
            store.evict_by_policy(&op)
    finally:
        store.finish(&op)


cdef object sum_of(object a, object b):
    """The sum of two ints, as a plain int. Methods of subclasses are not called."""
    cdef PyObject* total = add_ints(<PyObject*>a, <PyObject*>b)
    if total == NULL:
        raise_current()
    return take_over(total)


cdef object not_an_int(object key, object value):
    return TypeError(f"increment needs an int, but the value of {key!r} is of type {type(value).__name__}")


cdef object look_and_watch(Store store, object key, uint64_t h, Watch watch, object missing):
    """The value of a key, or `missing`; and an open watch on the key."""
    cdef Operation op
    cdef double now
    cdef uint32_t i
    old = missing
    start(&op)
    try:
        now = store.now(store.lifetime)
        i = store.find_to_change(key, h, &op)
        if store.is_live(i, now):
            old = <object>store.table.entries[i].value
        elif i != 0 and store.table.entries[i].value != NULL:
            store.remove(i, EXPIRED, &op)
            if store.table.entries[i].key == NULL:
                i = 0
        if i == 0 and store.prepare(False):
            i = store.engine.insert(<PyObject*>key, h)
        opened = i != 0 and watch.open(i)
        if i != 0 and not opened and store.table.entries[i].value == NULL:
            store.drop_reserved(i, &op)
        release(store.lock)
        if not opened:
            raise MemoryError("no memory left to change an entry")
    finally:
        store.finish(&op)
    return old


cdef int stop_watching(Store store, Watch watch) except -1:
    cdef Operation op
    start(&op)
    acquire(store.lock)
    watch.close(&op)
    release(store.lock)
    return store.finish(&op)


cdef bint replace(
    Store store, object key, uint64_t h, Watch watch, object old, object new, double lifetime, double weight,
    object missing,
) except -1:
    """Store what `compute` computed. False: the key was written meanwhile, so nothing was stored."""
    cdef Operation op
    cdef Outcome outcome
    cdef double now
    cdef uint32_t i = 0
    cdef bint is_held
    start(&op)
    try:
        now = store.now(lifetime)
        while True:
            outcome = DONE
            if store.python_policy is not None:
                store.python_policy.enter(&op, store.lock)
            is_held = op.locked
            store.lock_again(&op)
            if watch.i != 0 or watch.changed:
                i = watch.i
            elif is_held:
                i = i if store.table.entries[i].key != NULL else 0
            else:
                release(store.lock)
                i = store.find(key, h, &op)  # fn cleared the cache, and the watch went with its entry
            if not store.is_live(i, now) and i != 0 and store.table.entries[i].value != NULL:
                outcome = store.remove(i, EXPIRED, &op)
                if store.table.entries[i].key == NULL:
                    i = 0
                watch.changed = watch.changed or old is not missing
            if watch.changed or outcome != DONE:
                changed = False
            elif new is missing:
                changed = True
                if i != 0 and store.table.entries[i].value != NULL:
                    outcome = store.remove(i, EXPLICIT, &op)
                    store.give_memory_back()
            else:
                changed = True
                outcome = store.write(i, key, h, new, lifetime, True, weight, now, &op)
            if outcome == DONE:
                watch.close(&op)
            release(store.lock)
            if outcome == DONE:
                if changed and store.failures is not None:
                    store.failures.forget(key)
                return changed
            if outcome == NO_MEMORY:
                stop_watching(store, watch)
                raise MemoryError("no memory left to change an entry")
            store.evict_by_policy(&op)
    finally:
        store.finish(&op)
