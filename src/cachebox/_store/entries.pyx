"""Entries on their way out of a cache and into one: for copies, pickles, dumps and warm starts; see `entries.pxd`."""

from cpython.object cimport PyObject
from libc.math cimport INFINITY
from libc.stdint cimport uint32_t, uint64_t

from cachebox._engine.table cimport (
    Entry, allocate, deallocate, decref, hash_of, incref, mixed, put_value, whole_hash,
)
from cachebox._platform.lock cimport acquire, let_others_in, release
from cachebox._store.deadlines cimport deadline, deadline_after, has_expired, set_deadline
from cachebox._store.operation cimport Operation, start
from cachebox._store.state cimport (
    AHEAD, DONE, EXPIRES, IDLES, NO_MEMORY, STALE, TAGGED, WEIGHED, Outcome, every_key, hash_in,
)
from cachebox._store.store cimport Store
from cachebox._store.tags cimport Tag, TagLink, copy_tags, free_links, make_room_for_links, new_links, some_dropped
from cachebox._store.weights cimport add_weight, sum_of_weights


cdef extern from *:
    """
    #define CB_ITEMS(list) (((PyListObject *)(list))->ob_item)
    #define CB_SET_SIZE(list, n) Py_SET_SIZE((PyVarObject *)(list), n)
    """
    list new_list "PyList_New"(Py_ssize_t n)    # without items
    PyObject** items_of "CB_ITEMS"(list) noexcept
    void set_size "CB_SET_SIZE"(list, Py_ssize_t n) noexcept
    void hide "PyObject_GC_UnTrack"(list) noexcept
    void show "PyObject_GC_Track"(list) noexcept
    void put_in_list "PyList_SET_ITEM"(list, Py_ssize_t, PyObject*) noexcept
    PyObject* new_tuple "PyTuple_New"(Py_ssize_t n) except NULL
    void put_in_tuple "PyTuple_SET_ITEM"(PyObject*, Py_ssize_t, PyObject*) noexcept

cdef enum:
    AT_ONCE = 1024                  # entries that are dealt with, without the lock, before other threads may run


cdef Py_ssize_t copy_entries(Store store, EntryCopy** rows) except -1:
    """Copy the live entries, next victim first, into new memory, which `free_copies` frees. Returns their number."""
    cdef Py_ssize_t size, n = 0
    cdef double now = store.now(INFINITY)
    cdef uint32_t i
    cdef bint failed = False
    rows[0] = NULL
    if store.python_policy is not None:
        return copy_entries_by_policy(store, rows, now)
    while True:
        size = store.live
        rows[0] = <EntryCopy*>allocate(max(size, <Py_ssize_t>1) * sizeof(EntryCopy))
        if rows[0] == NULL:
            raise MemoryError(f"no memory left to copy {size} entries")
        acquire(store.lock)
        if store.live <= size:
            break
        release(store.lock)                  # the cache grew meanwhile
        deallocate(rows[0])
    i = store.engine.victim()
    while i != 0:
        if store.is_live(i, now):
            copy_entry(store, i, &rows[0][n], &failed)
            n += 1
        i = store.engine.next_victim(i)
    release(store.lock)
    if failed:
        free_copies(rows[0], n)
        raise MemoryError("no memory left to copy tags")
    return n


cdef Py_ssize_t copy_entries_by_policy(Store store, EntryCopy** rows, double now) except -1:
    """`copy_entries` for a cache whose order only a python policy knows."""
    cdef Py_ssize_t n = 0
    cdef Operation op
    cdef uint32_t i
    cdef bint failed = False
    start(&op)
    try:
        store.python_policy.enter(&op, store.lock)
        if not op.strays:
            keys = list(store.python_policy.policy)
        else:
            keys = every_key(store, False)
        rows[0] = <EntryCopy*>allocate(max(len(keys), 1) * sizeof(EntryCopy))
        if rows[0] == NULL:
            raise MemoryError(f"no memory left to copy {len(keys)} entries")
        for key in keys:
            i = store.find_itself(key, mixed(store.table, hash_of(<PyObject*>key)), &op)
            if store.is_live(i, now):
                copy_entry(store, i, &rows[0][n], &failed)
                n += 1
            release(store.lock)
        if failed:
            raise MemoryError("no memory left to copy tags")
    except:
        free_copies(rows[0], n)
        rows[0] = NULL
        raise
    finally:
        store.finish(&op)
    return n


cdef void copy_entry(Store store, uint32_t i, EntryCopy* row, bint* failed) noexcept:
    cdef Entry* e = &store.table.entries[i]
    incref(e.key)
    incref(e.value)
    row.key = e.key
    row.value = e.value
    row.deadline = deadline(&store.expiry, i) if store.modes & EXPIRES else INFINITY
    row.end = store.expiry.write_deadlines[i] if store.modes & IDLES else row.deadline
    row.ttl = store.ttls[i] if store.modes & (AHEAD | STALE) else INFINITY
    row.weight = store.weights.of[i] if store.modes & WEIGHED else 0.0
    row.tags = copy_tags(&store.links, i, failed) if store.modes & TAGGED else NULL
    row.rank = store.engine.rank(i)
    row.hash = whole_hash(store.table, i)


cdef void free_copies(EntryCopy* rows, Py_ssize_t n) noexcept:
    cdef Py_ssize_t k
    cdef PyObject** tag
    for k in range(n):
        if k % AT_ONCE == AT_ONCE - 1:
            let_others_in()
        decref(rows[k].key)
        decref(rows[k].value)
        tag = rows[k].tags
        while tag != NULL and tag[0] != NULL:
            decref(tag[0])
            tag += 1
        deallocate(rows[k].tags)
    deallocate(rows)


cdef list snapshot(Store store, bint keys, bint values):
    """The live keys, values or pairs, next victim first. They are the stored objects themselves. O(n)."""
    cdef EntryCopy* rows
    cdef Py_ssize_t n, k
    store.purge(False)
    if store.python_policy is None:
        return copy_pairs(store) if keys and values else copy_objects(store, keys)
    n = copy_entries(store, &rows)
    try:
        if not values:
            return [<object>rows[k].key for k in range(n)]
        if not keys:
            return [<object>rows[k].value for k in range(n)]
        return [(<object>rows[k].key, <object>rows[k].value) for k in range(n)]
    finally:
        free_copies(rows, n)


cdef list copy_objects(Store store, bint keys):
    """A list of the live keys, or of the values, next victim first."""
    cdef Py_ssize_t size
    cdef double now = store.now(INFINITY)
    cdef list made
    while True:
        size = store.live
        made = new_list(size)
        hide(made)                              # from `gc.get_objects`, until it has items
        acquire(store.lock)
        if store.live <= size:
            break
        release(store.lock)                     # the cache grew meanwhile
    size = put_objects(store, keys, not keys, items_of(made), now)
    release(store.lock)
    set_size(made, size)
    show(made)
    return made


cdef list copy_pairs(Store store):
    """A list of pairs of the live keys and their values, next victim first."""
    cdef Py_ssize_t size, n, k, taken = 0
    cdef PyObject** objects                     # the keys and values in turn
    cdef PyObject* pair
    cdef double now = store.now(INFINITY)
    cdef list made
    while True:
        size = store.live
        objects = <PyObject**>allocate(max(size, <Py_ssize_t>1) * 2 * sizeof(PyObject*))
        if objects == NULL:
            raise MemoryError(f"no memory left to copy {size} entries")
        acquire(store.lock)
        if store.live <= size:
            break
        release(store.lock)                     # the cache grew meanwhile
        deallocate(objects)
    n = put_objects(store, True, True, objects, now)
    release(store.lock)
    try:
        made = new_list(n)
        hide(made)
        set_size(made, 0)
        for k in range(n):
            if k % AT_ONCE == AT_ONCE - 1:
                let_others_in()
            pair = new_tuple(2)
            put_in_tuple(pair, 0, objects[2 * k])
            put_in_tuple(pair, 1, objects[2 * k + 1])
            put_in_list(made, k, pair)
            set_size(made, k + 1)
            taken += 1
    except:
        for k in range(2 * taken, 2 * n):
            decref(objects[k])
        raise
    finally:
        deallocate(objects)
    show(made)
    return made


cdef Py_ssize_t put_objects(Store store, bint keys, bint values, PyObject** at, double now) noexcept:
    """Put new references to the keys, the values, or both in turn, where there is room. Returns the number of entries.

    The caller holds the lock.
    """
    cdef Entry* entries = store.table.entries
    cdef Entry* e
    cdef Py_ssize_t n = 0
    cdef uint32_t i = store.engine.victim()
    cdef bint in_list = store.engine.in_list, expire = (store.modes & EXPIRES) != 0
    while i != 0:
        e = &entries[i]
        if e.value != NULL and not (expire and has_expired(&store.expiry, i, now)):
            if keys:
                incref(e.key)
                at[0] = e.key
                at += 1
            if values:
                incref(e.value)
                at[0] = e.value
                at += 1
            n += 1
        i = e.next if in_list else store.engine.next_victim(i)
    return n


cdef tuple export(Store store):
    """The live entries, next victim first, as columns.

    They are lists of keys, values, seconds to the deadline, seconds to the deadline that hits do not move, weights,
    ranks, tags, and given lifetimes. A column is None if it holds for each entry what a cache without such a feature
    has.
    """
    cdef EntryCopy* rows
    cdef EntryCopy* row
    cdef Py_ssize_t n, k
    cdef double now
    cdef bint expire = False, idle = False, ranked = False, tagged = False, refreshed = False
    cdef list keys = [], values = [], lefts = [], ends = [], weights = [], ranks = [], tags = [], lifetimes = []
    now = store.now(0.0)
    n = copy_entries(store, &rows)
    try:
        for k in range(n):
            expire |= rows[k].deadline < INFINITY
            idle |= rows[k].end != rows[k].deadline
            ranked |= rows[k].rank != 0
            tagged |= rows[k].tags != NULL
            refreshed |= rows[k].ttl < INFINITY
        for k in range(n):
            if k % AT_ONCE == AT_ONCE - 1:
                let_others_in()
            row = &rows[k]
            keys.append(<object>row.key)
            values.append(<object>row.value)
            if expire:
                lefts.append(row.deadline - now)
            if idle:
                ends.append(row.end - now)
            if store.modes & WEIGHED:
                weights.append(row.weight)
            if ranked:
                ranks.append(row.rank)
            if tagged:
                tags.append(names_of(row.tags))
            if refreshed:
                lifetimes.append(row.ttl)
    finally:
        free_copies(rows, n)
    return (
        keys, values, lefts if expire else None, ends if idle else None, weights if store.modes & WEIGHED else None,
        ranks if ranked else None, tags if tagged else None, lifetimes if refreshed else None,
    )


cdef object describe(Store store, object key, uint64_t h):
    """A live entry: its key, value, seconds to live or None, weight, and tags. None: there is none."""
    cdef Operation op
    cdef double now
    cdef uint32_t i
    cdef EntryCopy* row = <EntryCopy*>allocate(sizeof(EntryCopy))
    cdef bint found = False, failed = False
    if row == NULL:
        raise MemoryError("no memory left to copy an entry")
    start(&op)
    try:
        now = store.now(INFINITY)
        i = store.find(key, h, &op)
        found = store.is_live(i, now)
        if found:
            copy_entry(store, i, row, &failed)
        release(store.lock)
        if failed:
            raise MemoryError("no memory left to copy tags")
        if not found:
            return None
        return (
            <object>row.key, <object>row.value, row.deadline - now if row.deadline < INFINITY else None,
            sum_of_weights([row.weight]) if store.modes & WEIGHED else 1, names_of(row.tags),
        )
    finally:
        free_copies(row, found)
        store.finish(&op)


cdef tuple names_of(PyObject** tags):
    """The names of copied tags."""
    cdef list names = []
    while tags != NULL and tags[0] != NULL:
        names.append((<Tag>tags[0]).name)
        tags += 1
    return tuple(names)


cdef int copy_into(Store copied, Store store) except -1:
    """Put copies of all entries into an empty cache of the same configuration that no other thread knows.

    Not for a python policy. If that cache has been resized meanwhile, those furthest from eviction are copied.
    """
    cdef Operation op
    cdef EntryCopy* rows
    cdef double now = copied.now(0.0)
    cdef Py_ssize_t n = copy_entries(store, &rows), k
    cdef uint64_t highest = 1
    start(&op)
    try:
        acquire(copied.lock)
        copied.engine.reserve_all(min(n, copied.bound))   # if that fails, it grows step by step
        release(copied.lock)
        for k in range(max(<Py_ssize_t>0, n - copied.bound), n):
            put_row(copied, &rows[k], now, &highest, True, &op)
    finally:
        free_copies(rows, n)
        copied.finish(&op)
    return 0


cdef int restore(Store store, tuple columns) except -1:
    """Put exported entries into an empty cache that no other thread knows. A python policy has the keys already.

    The cache is sound afterwards, whatever the columns hold. Raises ValueError for entries that do not fit.
    """
    cdef Operation op
    cdef EntryCopy row
    cdef double now = store.now(0.0), left, end
    cdef uint64_t highest = 1
    cdef Py_ssize_t k
    cdef list keys, values, lefts, ends, weights, ranks, tags, ttls
    keys, values, lefts, ends, weights, ranks, tags, ttls = [checked_column(column, columns) for column in columns]
    if keys is None or values is None or (weights is None and keys and store.modes & WEIGHED):
        raise damaged_state()
    start(&op)
    try:
        if store.python_policy is not None:
            # Held until the policy agrees, because the sweeper may come for entries that have expired.
            store.python_policy.enter(&op, store.lock)
        for k in range(len(keys)):
            key = keys[k]                       # held, because looking it up may run any code
            value = values[k]
            left = INFINITY if lefts is None else lefts[k]
            end = left if ends is None else ends[k]
            row.key = <PyObject*>key
            row.value = <PyObject*>value
            row.hash = hash_in(store, key)
            row.deadline = now + left
            row.end = now + end
            row.weight = 0.0 if weights is None else weights[k]
            row.rank = 0 if ranks is None else ranks[k]
            row.ttl = INFINITY if ttls is None else ttls[k]
            names = None if tags is None else tags[k]
            found = store.find_tags(names) if names else None
            row.tags = NULL
            if left != left or end != end or not row.weight >= 0.0:
                raise damaged_state()
            put_row_with(store, &row, found, now, &highest, False, &op)
        if store.python_policy is not None:
            store.reconcile()               # with changes between the listing of its keys and the pickling
    finally:
        store.finish(&op)
    return 0


cdef list checked_column(object column, tuple columns):
    """A copy of a column, which nobody can change while keys are hashed; None: the column is omitted."""
    if column is None:
        return None
    if not isinstance(column, list) or not isinstance(columns[0], list) or len(<list>column) != len(<list>columns[0]):
        raise damaged_state()
    return list(<list>column)


cdef object damaged_state():
    return ValueError("a damaged state: its entries cannot be those of such a cache")


cdef int put_row(Store store, EntryCopy* row, double now, uint64_t* highest, bint is_new, Operation* op) except -1:
    """Insert a copied entry as the last victim so far, whose rank was `highest`."""
    found = None
    if row.tags != NULL:
        found = store.find_tags(names_of(row.tags))
    return put_row_with(store, row, found, now, highest, is_new, op)


cdef int put_row_with(
    Store store, EntryCopy* row, list tags, double now, uint64_t* highest, bint is_new, Operation* op
) except -1:
    """`put_row` with the cache's own Tags. `is_new`: the key is certainly absent."""
    cdef TagLink* chain = new_links(tags) if tags is not None else NULL
    cdef uint32_t i = 0
    cdef bint fitting, ready
    try:
        highest[0] = max(highest[0], row.rank)  # next victim first, so ranks must not fall
        if is_new:
            acquire(store.lock)
        else:
            i = store.find(<object>row.key, row.hash, op)
        fitting = i == 0 and not store.is_full(1, row.weight, 0)
        ready = fitting and not some_dropped(chain) and store.prepare(row.deadline < INFINITY or row.end < INFINITY)
        if chain != NULL:
            ready = ready and make_room_for_links(&store.links, store.table.capacity)
        if ready:
            i = store.engine.insert(row.key, row.hash)
            put_value(store.table, i, row.value)
            store.engine.on_insert_ranked(i, highest[0] if store.engine.ranks_rise else row.rank)
            store.live += 1
            if store.modes & WEIGHED:
                store.weights.of[i] = row.weight
                add_weight(&store.weights, row.weight)
            if row.end < INFINITY or store.modes & (IDLES | AHEAD | STALE):
                store.set_end(i, row.end, now, op)
            if store.modes & IDLES:
                set_deadline(&store.expiry, i, row.deadline)
            if store.modes & (AHEAD | STALE):
                store.ttls[i] = row.ttl
            if chain != NULL:
                store.give_tags(i, chain, op)
                chain = NULL
        release(store.lock)
        if not fitting:
            raise damaged_state()
        if not ready:
            raise MemoryError("no memory left to restore a cache")
    finally:
        free_links(chain)
    return 0


cdef Py_ssize_t add_entries(Store store, list entries) except -1:
    """Add entries (ordered next victim first) whose keys are absent. Returns how many are stored afterwards. O(n).

    If not all have room, only the last ones are added: the others would be evicted at once, and stored entries with
    them.
    """
    cdef list added = [], fitting = last_that_fit(store, entries)
    cdef Py_ssize_t n = 0, k
    for k in range(len(fitting)):
        key, value, left, weight, rank, tags = fitting[k]
        fitting[k] = None                       # or all would be freed at once
        if add_entry(store, key, value, left, weight, rank, tags, True):
            added.append((key, value))
        if k % AT_ONCE == AT_ONCE - 1:
            let_others_in()
    for k in range(len(added)):
        key, value = added[k]
        added[k] = None
        n += has_value(store, key, <PyObject*>value)
        if k % AT_ONCE == AT_ONCE - 1:
            let_others_in()
    return n


cdef list last_that_fit(Store store, list entries):
    """The last entries that an empty cache has room for, of those whose keys are absent; with their weights."""
    cdef list weighed = [], chosen = []
    cdef double weight, total = 0.0
    cdef Py_ssize_t k = 0
    for key, value, left, rank, tags in entries:
        k += 1
        if k % AT_ONCE == 0:
            let_others_in()
        weight = store.weigh(key, value)
        # A stored entry is newer, even if it is about to be evicted to make room for the others.
        if weight <= store.bound_weight and not has_value(store, key, NULL):
            weighed.append((key, value, left, weight, rank, tags))
    for entry in reversed(weighed):
        weight = entry[3]
        total += weight
        if len(chosen) == store.bound or total > store.bound_weight:
            break
        chosen.append(entry)
    chosen.reverse()
    return chosen


cdef bint has_value(Store store, object key, PyObject* value) except -1:
    """Whether a key has that very value, live; NULL: any live value."""
    cdef Operation op
    cdef bint found
    cdef uint32_t i
    cdef double now = store.now(INFINITY)
    start(&op)
    try:
        i = store.find(key, hash_in(store, key), &op)
        found = store.is_live(i, now) and (value == NULL or store.table.entries[i].value == value)
        release(store.lock)
    finally:
        store.finish(&op)
    return found


cdef bint add_entry(
    Store store, object key, object value, double left, double weight, uint64_t rank, tuple names, bint exactly
) except -1:
    """Add an entry if its key is absent. Returns whether it was. `exactly`: no jitter shortens its life."""
    cdef Operation op
    cdef Outcome outcome
    cdef double now
    cdef uint64_t h = hash_in(store, key)
    cdef uint32_t i
    cdef TagLink* chain = NULL
    cdef bint dropped, added = False
    start(&op)
    try:
        now = store.now(left)
        while True:
            if names and chain == NULL:
                chain = new_links(store.find_tags(names))
            i = store.find_to_change(key, h, &op)
            dropped = some_dropped(chain)
            outcome = DONE
            if not dropped and not store.is_live(i, now):
                outcome = NO_MEMORY
                if store.prepare(left < INFINITY) and (
                    chain == NULL or make_room_for_links(&store.links, store.table.capacity)
                ):
                    outcome = store.write(i, key, h, value, left, False, weight, now, &op)
                if outcome == DONE:
                    added = True
                    if exactly and store.jitter != 0.0:
                        store.set_end(op.i, deadline_after(now, left), now, &op)
                    if store.python_policy is None and rank != 0:
                        store.engine.on_remove(op.i)
                        store.engine.on_insert_ranked(op.i, rank)
                    if chain != NULL:
                        store.give_tags(op.i, chain, &op)
                        chain = NULL
            release(store.lock)
            if dropped:
                free_links(chain)
                chain = NULL
            elif outcome == DONE:
                return added
            elif outcome == NO_MEMORY:
                raise MemoryError("no memory left to store an entry")
            else:
                store.evict_by_policy(&op)
    finally:
        free_links(chain)
        store.finish(&op)
