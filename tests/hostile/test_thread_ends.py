"""A fork waits for the end of threads that have ended as far as Python knows."""

from __future__ import annotations

import os
import threading

import pytest

from cachebox._platform import thread as threads
from cachebox._platform.thread import Thread
from in_threads import wait_until


def ended():
    thread = Thread("cachebox-test", lambda: None)
    thread.start()
    thread.join()
    return thread


def test_it_is_a_daemon_with_a_name():
    ran = threading.Event()
    thread = Thread("cachebox-test", ran.set)
    assert (thread.daemon, thread.name, thread.is_alive()) == (True, "cachebox-test", False)
    thread.start()
    thread.join()
    assert ran.is_set()
    wait_until(thread.is_gone)


def test_one_that_a_signal_handler_starts_in_the_middle_of_another_start_is_not_waited_for_without_end():
    ran = threading.Event()
    thread = Thread("cachebox-test", ran.set)
    with threading._active_limbo_lock:          # as `threading` has it while it starts a thread
        thread.start()
        assert thread.runs() and not ran.is_set()
    assert ran.wait(60)
    wait_until(thread.is_gone)


def test_what_is_gone_is_forgotten():
    for thread in [ended() for _ in range(20)]:
        wait_until(thread.is_gone)
    last = ended()
    assert len([thread for thread in threads._started if thread.name == last.name]) == 1


def test_what_has_ended_is_waited_for(monkeypatch):
    thread = ended()
    asked = []
    monkeypatch.setattr(threads, "_started", {thread})
    monkeypatch.setattr(Thread, "is_gone", lambda thread: asked.append(thread) or len(asked) == 3)
    threads._wait_for_the_ended()
    assert asked == [thread] * 3
    assert not threads._started


def test_what_runs_is_not_waited_for(monkeypatch):
    go_on = threading.Event()
    thread = Thread("cachebox-test", lambda: go_on.wait(60))
    thread.start()
    monkeypatch.setattr(threads, "_started", {thread})
    monkeypatch.setattr(Thread, "is_gone", lambda thread: pytest.fail("it runs"))
    threads._wait_for_the_ended()
    assert threads._started == {thread}
    go_on.set()
    thread.join()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_a_fork_waits_and_the_child_knows_none():
    go_on = threading.Event()
    running = Thread("cachebox-test", lambda: go_on.wait(60))
    running.start()
    thread = ended()
    child = os.fork()
    if child == 0:
        os._exit(2 * (running in threads._started) + (not thread.is_gone()))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert thread not in threads._started
    assert running in threads._started
    go_on.set()
    running.join()
