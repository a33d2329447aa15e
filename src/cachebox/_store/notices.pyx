"""The surroundings of a cache that learn what happens in it: callbacks, the log and the sweeper; see `notices.pxd`.

The modules needed for that are imported at their first use. A fork must not copy a module in the middle of its import,
because it would never be complete in the child. So `importing` is held during an import, and a fork waits for it.
"""

from cpython.exc cimport PyErr_SetObject, PyErr_WriteUnraisable
from cpython.object cimport PyObject
from libc.math cimport INFINITY

import os
import sys
from _thread import RLock

from cachebox._engine.table cimport decref, incref, xdecref
from cachebox._platform.caught cimport ask, caught
from cachebox._platform.lock cimport acquire, release
from cachebox._store.state cimport CLOCK_LAGS, EXPIRES, State

from cachebox._platform.awaitables import refuse_awaitable


cdef extern from "_platform/results.h":
    bint is_awaitable "cb_is_awaitable"(PyObject* value) noexcept


cdef extern from "Python.h":
    PyObject* vectorcall "PyObject_Vectorcall"(PyObject*, PyObject**, size_t, PyObject*) noexcept
    const size_t FIRST_IS_FREE "PY_VECTORCALL_ARGUMENTS_OFFSET"
    int add_pending_call "Py_AddPendingCall"(int (*function)(void*) noexcept, void* argument) noexcept


cdef tuple causes = ()              # RemovalCause, in the order of Cause; set when a callback first needs it
cdef object sweeper = None          # the module; set when an entry first has a deadline
cdef object importing = RLock()
cdef bint fork_waited = False


# --- callbacks ---------------------------------------------------------------------------------------------------------

cdef object notify(State store, PyObject* key, PyObject* value, Cause cause):
    """Run the callbacks for one removal. Returns an exception that must propagate, or None."""
    cdef PyObject* answer
    cdef PyObject* given[4]
    given[0] = NULL                             # a place that the callee may use
    given[1] = key
    given[2] = value
    interruption = None
    on_evict, on_removal = store.on_evict, store.on_removal
    if on_evict is not None:
        answer = plain(vectorcall(<PyObject*>on_evict, &given[1], 2 | FIRST_IS_FREE, NULL), "on_evict")
        xdecref(answer)
        interruption = judge(store, "on_evict", on_evict, caught() if answer == NULL else None)
    if on_removal is not None:
        answer = NULL
        if causes or (<int (*)() noexcept>import_causes)() != -1:
            given[3] = <PyObject*>causes[<int>cause]
            answer = plain(vectorcall(<PyObject*>on_removal, &given[1], 3 | FIRST_IS_FREE, NULL), "on_removal")
        xdecref(answer)
        later = judge(store, "on_removal", on_removal, caught() if answer == NULL else None)
        interruption = later if interruption is None else interruption
    return interruption


cdef object judge(State store, str what, object callback, object error):
    """Handle the exception of a callback, if any: KeyboardInterrupt and SystemExit propagate, others are reported."""
    if error is None:
        note_success(store, what)
        return None
    if isinstance(error, (KeyboardInterrupt, SystemExit)):
        return error
    PyErr_SetObject(type(error), error)
    PyErr_WriteUnraisable(callback)
    note_failure(store, what, error)
    return None


cdef inline PyObject* plain(PyObject* answer, object name) noexcept:
    """What a callback returned; NULL and an exception if that is an awaitable, which no code would await."""
    if answer != NULL and is_awaitable(answer) and (<int (*)(PyObject*, object) noexcept>refuse)(answer, name) == -1:
        xdecref(answer)
        return NULL
    return answer


cdef int refuse(PyObject* answer, object name) except -1:
    refuse_awaitable(name, <object>answer)
    return 0


cdef int import_causes() except -1:
    global causes
    importing.acquire()
    try:
        from cachebox.removal import IN_ORDER
    finally:
        importing.release()
    causes = IN_ORDER                           # the module keeps it, so every thread sets the same object
    return 0


# --- the log -----------------------------------------------------------------------------------------------------------

cdef int note_failure(State store, str what, object error) except -1:
    """Log that something fails, unless that is logged already. Never raises."""
    cdef dict made
    try:
        trouble = store.troubles.get(what) if store.troubles is not None else None
        if trouble is None:
            called = f"cache {store.called!r}" if store.called is not None else "a cache without a name"
            made = {}
            trouble = make_trouble(called, what)
            acquire(store.lock)
            if store.troubles is None:
                store.troubles = made
            release(store.lock)
            trouble = store.troubles.setdefault(what, trouble)
        trouble.begin(error)
    except Exception:
        pass
    return 0


cdef int note_success(State store, str what) except -1:
    """Log that something works again, if its failure was logged. Never raises."""
    if store.troubles is not None:
        try:
            trouble = store.troubles.get(what)
            if trouble is not None:
                trouble.end()
        except Exception:
            pass
    return 0


cdef object make_trouble(str called, str what):
    """Make the Trouble that logs when something of a cache fails, and when it works again."""
    importing.acquire()
    try:
        from cachebox._platform.trouble import Trouble
    finally:
        importing.release()
    if what == "refresh":
        begins, ends = "refreshing values in the background fails", "values are refreshed again"
    else:
        begins, ends = f"{what} fails", f"{what} works again"
    return Trouble(f"{called}: {begins}", f"{called}: {ends}", traceback=True)


# --- the sweeper -------------------------------------------------------------------------------------------------------

cdef object as_exhaustion(object error):
    """The exception to raise if the sweeper could not be called; a MemoryError, if there was no memory for a lock."""
    return MemoryError("no memory left to have the entry swept") if isinstance(error, RuntimeError) else error


cdef int import_sweeper() except -1:
    global sweeper
    importing.acquire()
    try:
        from cachebox._store import sweeper as imported
    finally:
        importing.release()
    if hasattr(imported, "IS_WHOLE"):           # else an interrupt cut this import short: the next deadline calls it
        sweeper = imported
    return 0


cdef int call_sweeper(State store) except -1:
    """Schedule the sweeper for the earliest deadline."""
    cdef double due
    cdef bint called = False
    if sweeper is None:
        import_sweeper()
        if sweeper is None:
            return 0
    acquire(store.lock)
    known = store.known
    release(store.lock)
    made = sweeper.register(store) if known is None else None
    acquire(store.lock)
    if store.known is None:
        store.known = made
    known = store.known
    due = store.expiry.deadlines[1] + store.stale + CLOCK_LAGS if store.modes & EXPIRES else INFINITY
    store.next_visit = due
    release(store.lock)
    try:
        sweeper.schedule(known, due)
        called = True
    finally:
        if not called:                          # so that the next deadline calls it again
            store.next_visit = INFINITY
    return 0


cdef int run_pending(void* function) noexcept with gil:
    cdef PyObject* resume = <PyObject*>function
    cdef PyObject* called = ask(resume, NULL)
    if called == NULL:
        PyErr_WriteUnraisable(<object>resume)
    xdecref(called)
    decref(resume)
    return 0


def resume_after_fork():
    """Let the sweeper resume in the parent after a fork. Called by the hook that runs then.

    From 3.13 on CPython counts the threads after the hooks have run, and warns if there are several. So the thread has
    to start a moment later, when the main thread next runs Python code. A hook written in Python would already be such
    code.
    """
    cdef PyObject* resume
    module = sys.modules.get("cachebox._store.sweeper")     # `sweeper` is not set before an entry has had a deadline
    if module is None:
        return
    if module.may_resume_later():
        resume = <PyObject*>module.resume
        incref(resume)
        if add_pending_call(run_pending, <void*>resume) == 0:
            return
        decref(resume)
    module.resume()


def _before_fork():
    global fork_waited
    fork_waited = importing.acquire(timeout=1.0)


def _after_fork_in_parent():
    if fork_waited:
        importing.release()


def _after_fork_in_child():
    if fork_waited:
        importing.release()
    else:
        importing._at_fork_reinit()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_before_fork, after_in_parent=_after_fork_in_parent, after_in_child=_after_fork_in_child
    )
