"""Operations on many keys; see `many.pxd`."""

from cpython.dict cimport PyDict_Next
from cpython.object cimport PyObject
from libc.math cimport INFINITY
from libc.stdint cimport uint64_t

from cachebox._engine.table cimport allocate, deallocate, hash_of, take_over
from cachebox._loading.fast_path cimport mixed_in, try_delete, try_get, try_set, try_set_for
from cachebox._loading.fetch cimport get_slow
from cachebox._platform.lock cimport let_others_in
from cachebox._store.operation cimport Operation, start
from cachebox._store.removals cimport take
from cachebox._store.state cimport BY_VALUE, ISOLATED, WEIGHED
from cachebox._store.store cimport Store
from cachebox._store.writes cimport put, put_tagged


cdef extern from *:
    dict new_dict "__Pyx_PyDict_NewPresized"(Py_ssize_t n)
    PyObject* item_of_list "PyList_GET_ITEM"(list, Py_ssize_t) noexcept
    PyObject* item_of_pair "PyTuple_GET_ITEM"(PyObject*, Py_ssize_t) noexcept


cdef enum:
    AT_ONCE = 4096                  # keys that are dealt with before other threads may run

cdef object NOTHING = object()


cdef Py_hash_t* room_for_hashes(Py_ssize_t n) except NULL:
    cdef Py_hash_t* hashes = <Py_hash_t*>allocate((n + 1) * sizeof(Py_hash_t))
    if hashes == NULL:
        raise MemoryError(f"no memory left for the hashes of {n} keys")
    return hashes


cdef Py_hash_t* hashes_of(list keys) except NULL:
    """The hashes of all keys, in new memory. Raises what `hash` raises for one of them."""
    cdef Py_ssize_t n = len(keys), k
    cdef Py_hash_t* hashes = room_for_hashes(n)
    try:
        for k in range(n):
            hashes[k] = hash_of(item_of_list(keys, k))
    except:
        deallocate(hashes)
        raise
    return hashes


cdef dict get_all(Store store, list keys):
    cdef Py_ssize_t n = len(keys), k
    cdef Py_hash_t* hashes = hashes_of(keys)
    cdef dict found
    cdef PyObject* value
    cdef uint64_t h
    try:
        found = new_dict(min(n, store.live))
        for k in range(n):
            key = keys[k]
            h = mixed_in(<PyObject*>store, hashes[k])
            value = try_get(<PyObject*>store, <PyObject*>key, h)
            if value == NULL:
                value = get_slow(store, key, h)
            if value != NULL:
                found[key] = take_over(value)
            if k % AT_ONCE == AT_ONCE - 1:
                let_others_in()
    finally:
        deallocate(hashes)
    return found


cdef Py_ssize_t delete_all(Store store, list keys) except -1:
    cdef Py_ssize_t n = len(keys), k, deleted = 0
    cdef Py_hash_t* hashes = hashes_of(keys)
    cdef int done
    try:
        for k in range(n):
            done = try_delete(store, item_of_list(keys, k), mixed_in(<PyObject*>store, hashes[k]))
            if done < 0:
                done = take(store, <object>item_of_list(keys, k), False, NOTHING) is not NOTHING
            deleted += done
            if k % AT_ONCE == AT_ONCE - 1:
                let_others_in()
    finally:
        deallocate(hashes)
    return deleted


cdef int set_all(Store store, object items, double lifetime, tuple tags) except -1:
    """Store all items, as one operation: callbacks run after the last one is stored."""
    cdef Py_ssize_t n = len(items), k
    cdef Py_hash_t* hashes
    cdef Operation op
    cdef Cursor at
    cdef bint is_plain = not tags and not store.modes & (WEIGHED | ISOLATED) and lifetime != BY_VALUE
    if not is_plain:
        return set_checked(store, items.items() if isinstance(items, dict) else items, lifetime, tags)
    hashes = room_for_hashes(n)
    start(&op)
    try:
        begin(&at, items)
        for k in range(n):
            if not has_next(&at, items):        # a `__hash__` got at the items after all
                raise RuntimeError("items changed while they were stored")
            hashes[k] = hash_of(at.key)
        begin(&at, items)
        for k in range(n):
            if has_next(&at, items):
                key = <object>at.key            # held: what is replaced may run any code when it dies
                value = <object>at.value
                set_one(store, key, hashes[k], value, lifetime, &op)
            if k % AT_ONCE == AT_ONCE - 1:
                let_others_in()
    finally:
        deallocate(hashes)
        store.finish(&op)
    return 0


cdef struct Cursor:                 # the next item; what it holds belongs to the items
    Py_ssize_t at
    PyObject* key
    PyObject* value


cdef inline void begin(Cursor* cursor, object items) noexcept:
    cursor.at = 0


cdef inline bint has_next(Cursor* cursor, object items) noexcept:
    cdef PyObject* pair
    if isinstance(items, dict):
        return PyDict_Next(items, &cursor.at, &cursor.key, &cursor.value)
    if cursor.at >= len(<list>items):
        return False
    pair = item_of_list(<list>items, cursor.at)
    cursor.key = item_of_pair(pair, 0)
    cursor.value = item_of_pair(pair, 1)
    cursor.at += 1
    return True


cdef int set_one(
    Store store, object key, Py_hash_t hashed, object value, double lifetime, Operation* op
) except -1:
    cdef uint64_t h = mixed_in(<PyObject*>store, hashed)
    if lifetime == INFINITY and try_set(store, <PyObject*>key, h, <PyObject*>value, False):
        return 0
    if try_set_for(store, <PyObject*>key, h, <PyObject*>value, lifetime):
        return 0
    put(store, key, h, value, lifetime, 0.0, False, op)
    return set_next(store, key, op)


cdef int set_next(Store store, object key, Operation* op) except -1:
    """Between two items."""
    store.forget_failure(key)
    if op.has_policy_lock:
        failure = store.settle(op)
        if failure is not None:
            raise failure
        op.victims = 0
    return 0


cdef int set_checked(Store store, object items, double lifetime, tuple tags) except -1:
    """`set_all` if values are copied or weighed, have lifetimes of their own, or get tags."""
    cdef Operation op
    cdef list checked = []
    cdef uint64_t h
    for key, value in items:
        hashed = hash_of(<PyObject*>key)
        value = store.copy_of(value)
        checked.append((key, hashed, value, store.lifetime_for(lifetime, key, value), store.weigh_checked(key, value)))
    start(&op)
    try:
        for key, hashed, value, lifetime, weight in checked:
            h = mixed_in(<PyObject*>store, hashed)
            if tags:
                put_tagged(store, key, h, value, lifetime, weight, tags, &op)
            else:
                put(store, key, h, value, lifetime, weight, False, &op)
            set_next(store, key, &op)
    finally:
        store.finish(&op)
    return 0
