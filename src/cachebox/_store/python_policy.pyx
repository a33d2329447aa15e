"""A policy written in Python, which only Python code can ask.

Its methods must run without the cache's lock, yet nobody may change the cache between what happened and what the policy
is told of it. So operations that change such a cache take turns: whoever has the turn changes the cache under the lock,
then tells the policy, then lets the next one in. The turn is a re-entrant lock, for a policy may use its cache.

While somebody has the turn code of the user's runs: the policy's, and its keys' `==`. If that waits for a thread that waits
for the turn, neither would go on. So nobody waits for ever: after `PATIENCE` seconds an operation *strays*, which is to go
on without the turn. Where it needs a victim it takes the oldest entry, and whoever has the turn next makes the policy agree
with the cache (`Store.reconcile`).

An operation may come in the middle of another of the same thread's that has the turn: by a key's `==` or `__hash__`, or a
finalizer. What the outer one has changed but not told yet the inner one cannot know. So each of the two makes the policy
agree instead of telling it what happened.

Invariant: when nobody has the turn and nobody strays, the policy knows exactly the keys of the cache's live entries.
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
        """Get the turn, or stray."""
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
        """Tell the policy what it has not been told yet, in the order in which it happened."""
        cdef PyObject* key
        if self.depth != 0 and (op.notified < op.n or op.added != NULL):
            self.behind = True                  # this comes in the middle of a method that may not see it
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
                self.policy.add(<object>op.added)       # where this raises, `added` stays: the cache takes the entry back
                key, op.added = op.added, NULL
                decref(key)
        finally:
            self.depth -= 1
        return 0

    cdef int clear(self) except -1:
        """Tell the policy that all entries are gone."""
        if self.depth != 0 or self.nesting > 1:
            self.behind = True                  # the method, or the operation, around this may go on to add a key
        self.depth += 1
        try:
            self.policy.clear()
        finally:
            self.depth -= 1
        return 0

    cdef object evict(self, bint is_last):
        """The key that the policy gives up; None: there was none, but it is behind, and this is not the last try."""
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


# --- forks: when nobody has the turn, cache and policy agree; so a fork waits for that ------------------------------------

cdef double STEPS_ASIDE = 1.0       # seconds that it waits at the most: who has a turn may be waiting for the one who forks
cdef dict held = {}                 # by thread: the turns that it took to fork


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
    """Whoever had a turn all the same is not here to give it back."""
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
