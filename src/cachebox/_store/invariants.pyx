"""The check of a cache's invariants, which hold whenever its lock is free. For tests."""

from libc.stdint cimport uint32_t
from libc.string cimport memset

from cachebox._platform.lock cimport acquire, release
from cachebox._store.deadlines cimport check_heap
from cachebox._store.operation cimport Operation, start
from cachebox._store.state cimport EXPIRES, IDLES, TAGGED, WATCHED, WEIGHED
from cachebox._store.store cimport Store
from cachebox._store.tags cimport Tag, check_links
from cachebox._store.weights cimport Weights, add_weight, bind_weight, fits, forget_weights, same_room


cdef int check(Store store) except -1:
    """Verify every invariant of the cache. Raises AssertionError if one does not hold. O(n)."""
    cdef Operation op
    cdef uint32_t i, k
    cdef Py_ssize_t linked = 0
    cdef Tag tag
    cdef Weights weighed
    memset(&weighed, 0, sizeof(Weights))
    if store.modes & WEIGHED and not bind_weight(&weighed, store.bound_weight):
        raise MemoryError("no memory left to weigh all entries")
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
            assert store.expiry.n == store.live, "an entry of a cache with an idle limit has no deadline"
        if store.modes & WEIGHED:
            i = store.engine.victim()
            while i != 0:
                assert fits(&weighed, store.weights.of[i], 0.0), "the entries weigh more than max_weight"
                add_weight(&weighed, store.weights.of[i])
                i = store.engine.next_victim(i)
            assert same_room(&weighed, &store.weights), "what is left of max_weight is miscounted"
        assert bool(store.modes & TAGGED) == (store.links.n > 0), "TAGGED and the links disagree"
        check_links(&store.links)
        for i in range(store.links.known):
            if store.links.chains[i] != NULL:
                assert i < store.table.fresh and store.table.entries[i].key != NULL, f"a link of entry {i}, which is free"
                assert store.table.entries[i].value != NULL, f"entry {i} has tags but no value"
        assert bool(store.modes & WATCHED) == (store.watch_count > 0), "WATCHED and the watches disagree"
        if store.watch_count == 0 and store.loads == 0:
            assert store.table.used == store.live, f"{store.table.used - store.live} entries reserved for nobody"
        if store.tags is not None:
            store.tags._check()
        for i in range(1, store.tags.table.fresh if store.tags is not None else 1):
            if store.tags.table.entries[i].key != NULL:
                tag = <Tag>store.tags.table.entries[i].value
                assert not tag.dropped, f"tag {i} was dropped but is still there"
                linked += tag.n
        assert linked == store.links.n, f"{store.links.n} links, {linked} of tags that the cache knows"
    finally:
        release(store.lock)
        forget_weights(&weighed)
    if store.python_policy is not None:
        start(&op)
        try:
            store.python_policy.enter(&op, store.lock)      # else the sweeper might be in the middle of a visit
            if not op.strays:
                store.notify_policy(&op)        # if it is behind
                order = list(store.python_policy.policy)
                assert len(order) == store.live, f"the policy orders {len(order)} keys, of {store.live}"
                assert all([store.holds(key) for key in order]), "the policy orders keys that the cache does not hold"
        finally:
            store.finish(&op)
