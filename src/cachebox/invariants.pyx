"""The invariants of a cache, for tests: what holds whenever nobody has its lock."""

from libc.stdint cimport uint32_t

from cachebox.expiry cimport check_heap
from cachebox.lock cimport acquire, release
from cachebox.operation cimport Operation, start
from cachebox.snapshots cimport holds
from cachebox.store cimport EXPIRES, IDLES, TAGGED, WATCHED, WEIGHED, Store
from cachebox.tags cimport check_labels


cdef int check(Store store) except -1:
    """Verify every invariant of the cache; AssertionError where one does not hold. O(n)."""
    cdef Operation op
    cdef uint32_t i, k
    cdef double total = 0.0
    acquire(store.lock)
    try:
        ordered = store.engine._check()
        assert ordered == store.live, f"{ordered} entries ordered, {store.live} counted as live"
        assert store.live <= store.bound, f"{store.live} entries, but max_size is {store.bound}"
        check_heap(&store.expiry)
        assert bool(store.modes & EXPIRES) == (store.expiry.n > 0), "EXPIRES and the heap disagree"
        for k in range(1, store.expiry.n + 1):
            i = store.expiry.entries[k]
            assert store.table.entries[i].value != NULL, f"entry {i} has a deadline but no value"
        if store.modes & IDLES:
            assert store.expiry.n == store.live, "an entry of a cache with a time to idle has no deadline"
        if store.modes & WEIGHED:
            i = store.engine.first()
            while i != 0:
                total += store.weights[i]
                i = store.engine.after(i)
            assert abs(total - store.total_weight) <= 1e-9 * max(1.0, total), f"{total} is not {store.total_weight}"
            assert total <= store.bound_weight * (1 + 1e-12), f"{total} is more than max_weight"
        assert bool(store.modes & TAGGED) == (store.labels.n > 0), "TAGGED and the labels disagree"
        check_labels(&store.labels)
        for i in range(store.labels.known):
            if store.labels.chains[i] != NULL:
                assert i < store.table.fresh and store.table.entries[i].key != NULL, f"label of entry {i}, which is free"
                assert store.table.entries[i].value != NULL, f"entry {i} has tags but no value"
        assert bool(store.modes & WATCHED) == (store.watch_count > 0), "WATCHED and the watches disagree"
        if store.watch_count == 0 and store.loads == 0:
            assert store.table.used == store.live, f"{store.table.used - store.live} entries reserved for nobody"
    finally:
        release(store.lock)
    if store.foreign is not None:
        start(&op)
        try:
            store.foreign.enter(&op)            # else the sweeper might be in the middle of something
            order = list(store.foreign.policy)
            assert len(order) == store.live and all([holds(store, key) for key in order]), "the policy orders others"
        finally:
            store.finish(&op)
