"""Of an `OnlyThread` two never run, and work that comes as it ends is done; wherever other starts interrupt."""

from __future__ import annotations

import sys
import threading
import time

import pytest

from cachebox._platform import thread as threads
from cachebox._platform.section import in_section
from cachebox._platform.thread import OnlyThread, Thread
from in_threads import Started, must_end, wait_until


class Work:
    """What the thread does: it counts how many do it at once, until it has to end."""

    def __init__(self):
        self.end = threading.Event()
        self.lock = threading.Lock()
        self.running = 0
        self.most = 0

    def __call__(self):
        with self.lock:
            self.running += 1
            self.most = max(self.most, self.running)
        self.end.wait()
        with self.lock:
            self.running -= 1


def interrupted_at(n, files, call, inner):
    """Make a call, and another one after n bytecodes of some files in it. Returns whether it came to that."""
    left = [n]

    def trace(frame, event, arg):
        if frame.f_code.co_filename.endswith(files):
            frame.f_trace_opcodes = True
            if event == "opcode":
                left[0] -= 1
                if left[0] == 0:
                    inner()
        return trace

    sys.settrace(trace)
    try:
        call()
    finally:
        sys.settrace(None)
    return left[0] <= 0


@must_end
def test_two_never_run_whatever_interrupts_the_start():
    n = 0
    while True:
        n += 1
        work = Work()
        only = OnlyThread("cachebox-test", work)
        was_interrupted = Started(interrupted_at, n, "_platform/thread.py", only.start, only.start).result()
        wait_until(lambda: work.running)
        assert only.runs()
        thread = only.thread
        only.start()
        assert only.thread is thread and len(only._threads) == 1
        work.end.set()
        thread.join()
        assert work.most == 1, n
        if not was_interrupted:
            break
    assert n > 50


@must_end
def test_one_that_another_caller_never_starts_is_replaced(monkeypatch):
    monkeypatch.setattr(threads, "BEGINS_WITHIN", 0.05)
    work = Work()
    only = OnlyThread("cachebox-test", work)
    Started(lambda: only._threads.append(Thread("cachebox-test", work))).result()
    late = only.thread
    assert late.runs()
    wait_until(lambda: not late.runs())
    only.start()
    wait_until(lambda: work.running)
    late.start()                                # after all: it ends at once
    late.join()
    assert work.most == 1 and only.runs()
    work.end.set()


@must_end
def test_work_that_comes_while_the_thread_ends_is_done(monkeypatch):
    from cachebox.distributed._net import background as backgrounds

    monkeypatch.setattr(backgrounds, "LINGERS", 0.0)
    background, done, came = backgrounds.Background(), threading.Event(), []
    really_ends = background._thread.ends

    def ends():                                 # a finalizer runs here, and so the thread is still there
        if not came:
            came.append(1)
            background.schedule(0.0, done.set)
        really_ends()

    background._thread.ends = ends
    background.schedule(0.0, lambda: None)
    assert done.wait(60)
    background.stop()


@pytest.fixture
def link(server):
    from cachebox import DistributedCache

    def make():
        return DistributedCache(redis_port=server.port, timeout=20)

    return make


@must_end
@pytest.mark.parametrize("at", range(1, 160, 7))
def test_a_link_that_is_started_in_the_middle_of_its_start_has_one_thread_and_can_be_woken(at, link):
    files = "_near/tracking.py", "_platform/thread.py"
    with link() as cache:
        Started(interrupted_at, at, files, lambda: cache.get("a"), cache.barrier).result()
        tracking = cache._core.tracking
        assert len(tracking._wakeups) == 1
        mine = [thread for thread in threading.enumerate() if getattr(thread, "_function", None) == tracking._run]
        assert mine == [tracking._thread.thread]
        made = dict(tracking._connections)
        cache.set("a", 1)
        for _ in range(5):
            cache.barrier()
        assert tracking._connections == made    # none was lost


@must_end
def test_counters_are_read_without_a_section_in_which_other_code_could_wait_for_the_link(link):
    with link() as cache:
        held = []

        def trace(frame, event, arg):
            if frame.f_code.co_filename.endswith("distributed/stats.py"):
                frame.f_trace_opcodes = True
                held.append(in_section())
            return trace

        sys.settrace(trace)
        try:
            cache.stats.get_all()
        finally:
            sys.settrace(None)
        assert held and not any(held)


@must_end
def test_code_in_a_section_does_not_wait_for_the_link(link):
    from cachebox import BackendUnavailable

    with link() as cache:
        begun = time.monotonic()
        with cache._tier.lock:                  # as in a finalizer while the first tier is changed
            assert cache.get("a") is None
            with pytest.raises(BackendUnavailable):
                cache.barrier()
        assert time.monotonic() < begun + 15
        cache.barrier()
