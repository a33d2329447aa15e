"""Threads for tests: a hang becomes a failure that shows the stack of every thread."""

from __future__ import annotations

import ctypes
import faulthandler
import functools
import tempfile
import threading
import time

LIMIT = 60.0
"""Seconds after which a test counts as hanging; no wait in these tests takes a second, even on the slowest machine."""


class Started:
    """A body that runs in a daemon thread of its own from now on."""

    def __init__(self, body, *args):
        self.value = self.error = None
        self.thread = threading.Thread(target=self._run, args=(body, args), daemon=True)
        self.thread.start()

    def _run(self, body, args):
        try:
            self.value = body(*args)
        except BaseException as error:
            self.error = error

    def wait(self):
        """Wait until the body ends, without raising its exception."""
        self.thread.join(LIMIT)
        if self.thread.is_alive():
            raise AssertionError(f"hangs:\n{stacks()}")
        return self

    def result(self):
        """The body's result; raises the body's exception."""
        self.wait()
        if self.error is not None:
            raise self.error
        return self.value


def run_all(*bodies):
    """Run every body in a thread of its own, all at the same time. Returns their results in order."""
    barrier = threading.Barrier(len(bodies))

    def at_once(body):
        barrier.wait(LIMIT)
        return body()

    started = [Started(at_once, body) for body in bodies]
    return [one.result() for one in started]


def raise_in(thread, error):
    """Raise an exception in another thread, wherever it is; none if it has ended."""
    if thread is not None and thread.ident is not None:
        ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread.ident), ctypes.py_object(error))


def wait_until(condition, what="a condition"):
    """Return when the condition holds."""
    deadline = time.monotonic() + LIMIT
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"waited in vain for {what}:\n{stacks()}")
        threading.Event().wait(0.0005)


def wait_for(event):
    """Wait for an event, which must come."""
    if not event.wait(LIMIT):
        raise AssertionError(f"an event never came:\n{stacks()}")


class Lag:
    """How late a thread was scheduled meanwhile: `seconds` that the machine, not the code, may have added.

    It measures the lateness of one thread. The measured code may wait for three, so each delay counts three times.
    """

    def __enter__(self):
        self.seconds = 0.0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *exception):
        self._over.set()
        self._thread.join(LIMIT)

    def _watch(self):
        wanted = time.monotonic()
        while not self._over.is_set():
            self.seconds += 3 * max(0.0, time.monotonic() - wanted)
            wanted = time.monotonic() + 0.005
            time.sleep(0.005)


def must_end(test):
    """Decorate a test so that it fails instead of hanging."""

    @functools.wraps(test)
    def guarded(*args, **kwargs):
        return Started(functools.partial(test, *args, **kwargs)).result()

    return guarded


def is_same(error, original):
    """Whether an error is the original exception; without the GIL also a copy of it, if another thread raises the
    original."""
    from cachebox._platform.exceptions import HAS_GIL

    return error is original or (not HAS_GIL and type(error) is type(original) and error.args == original.args)


def stacks():
    """The stacks of all threads."""
    with tempfile.TemporaryFile("w+") as file:
        faulthandler.dump_traceback(file, all_threads=True)
        file.seek(0)
        return file.read()
