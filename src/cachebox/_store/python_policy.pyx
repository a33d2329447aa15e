"""A python policy: one written by the user in Python, so that only Python code can call it.

Its methods must run without the cache's lock. Yet no other operation may change the cache between a change and the
policy's notice of it. So an operation that changes such a cache holds the *policy lock*: it changes the cache under the
cache's lock, then notifies the policy, then releases the policy lock. The policy lock is re-entrant, because a policy
may use its cache.

While an operation holds the policy lock, user code runs: the policy's, and its keys' `==`. If that code waits for a
thread that waits for the policy lock, neither can go on. So no wait for it is endless. After `PATIENCE` seconds an
operation *strays*: it goes on without the policy lock. If it needs a victim, it takes the oldest entry. The next holder
of the policy lock makes the policy agree with the cache (`Store.reconcile`).

An operation may come in the middle of another one of the same thread that holds the policy lock: through a key's `==`
or `__hash__`, or a finalizer. The inner operation cannot know of what the outer one has not notified the policy yet. So
each of the two makes the policy agree instead of notifying it of its changes.

Invariant: when no operation holds the policy lock and none strays, the policy knows exactly the keys of the cache's
live entries.
"""

from cpython.object cimport PyObject

import os
from _thread import get_ident
from _weakrefset import WeakSet
from time import monotonic

from cachebox._engine.table cimport decref
from cachebox._platform.lock cimport Lock, acquire, release
from cachebox._store.operation cimport EXPIRED, EXPLICIT, Operation

from cachebox._platform.callers import Turn


cdef object everyone = WeakSet()
cdef object PATIENCE = 2.0          # seconds


cdef class PythonPolicy:

    def __init__(self, policy):
        self.policy = policy
        self.policy_lock = Turn(strict=True)
        everyone.add(self)

    cdef int enter(self, Operation* op, Lock* lock) except -1:
        """Take the policy lock, or stray."""
        if op.has_policy_lock or op.strays:
            return 0
        op.has_policy_lock = self.policy_lock.acquire(timeout=PATIENCE)
        if op.has_policy_lock:
            self.nesting += 1
        else:
            acquire(lock)
            op.strays = True
            self.strays += 1
            self.behind = True
            release(lock)
        return 0

    cdef int exit(self, Operation* op) except -1:
        if op.has_policy_lock:
            op.has_policy_lock = False
            self.nesting -= 1
            self.policy_lock.release()
        return 0

    cdef int notify(self, Operation* op) except -1:
        """Notify the policy of what it does not know yet, in the order in which it happened."""
        cdef PyObject* key
        if self.depth != 0 and (op.notified < op.n or op.added != NULL):
            self.behind = True                  # one of its methods is in progress, which may not notice this
        self.depth += 1
        try:
            while op.notified < op.n:
                op.notified += 1
                if op.removed[op.notified - 1].cause == EXPIRED or op.removed[op.notified - 1].cause == EXPLICIT:
                    self.policy.remove(<object>op.removed[op.notified - 1].key)
            if op.used != NULL:
                self.policy.access(<object>op.used)
                key, op.used = op.used, NULL
                decref(key)
            if op.added != NULL:
                self.policy.add(<object>op.added)       # if this raises, `added` stays: the cache takes the entry back
                key, op.added = op.added, NULL
                decref(key)
        finally:
            self.depth -= 1
        return 0

    cdef int clear(self) except -1:
        """Notify the policy that all entries are gone."""
        if self.depth != 0 or self.nesting > 1:
            self.behind = True                  # the method or operation in progress may go on to add a key
        self.depth += 1
        try:
            self.policy.clear()
        finally:
            self.depth -= 1
        return 0

    cdef object evict(self, bint is_last):
        """The key that the policy gives up. None: it named none, but is behind, and this is not the last attempt."""
        if self.depth != 0:
            self.behind = True
        self.depth += 1
        try:
            key = self.policy.evict()
        finally:
            self.depth -= 1
        if key is None and (self.depth != 0 or is_last or not self.behind):
            raise RuntimeError(f"policy {type(self.policy).__name__}: evict() named no victim, but the cache is full")
        return key


# --- forks
# ---------------------------------------------------------------------------------------------------------------- When
# no operation holds the policy lock, cache and policy agree; so a fork waits for that.

cdef double STEPS_ASIDE = 1.0       # the most seconds that it waits: a holder may be waiting for the thread that forks
cdef dict held = {}                 # by thread: the policies whose lock it took in order to fork


def _before_fork():
    cdef double deadline = monotonic() + STEPS_ASIDE
    held[get_ident()] = [
        python_policy for python_policy in list(everyone)
        if (<PythonPolicy>python_policy).policy_lock.acquire(timeout=max(deadline - monotonic(), 0.0))
    ]


def _after_fork_in_parent():
    for python_policy in held.pop(get_ident(), ()):
        (<PythonPolicy>python_policy).policy_lock.release()


def _after_fork_in_child():
    """Free the policy locks of threads that do not exist here."""
    cdef list mine = held.pop(get_ident(), [])
    held.clear()
    for python_policy in list(everyone):
        if python_policy in mine:
            (<PythonPolicy>python_policy).policy_lock.release()
        else:
            (<PythonPolicy>python_policy).depth = (<PythonPolicy>python_policy).nesting = 0
            (<PythonPolicy>python_policy).policy_lock._at_fork_reinit()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_before_fork, after_in_parent=_after_fork_in_parent, after_in_child=_after_fork_in_child
    )
