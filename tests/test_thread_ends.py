"""A fork waits for the end of threads that have ended as far as Python knows."""

from __future__ import annotations

import os
import threading

import pytest

from cachebox import threads
from cachebox.threads import Thread
from in_threads import wait_until

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
pytestmark = pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")


def ended():
    thread = Thread("cachebox-test", lambda: None)
    thread.start()
    thread.join()
    return thread


def in_a_child(body):
    """The exit status of a child that runs a function: 0 where that returned something true."""
    child = os.fork()
    if child == 0:
        os._exit(0 if body() else 1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def test_it_is_a_daemon_with_a_name():
    ran = threading.Event()
    thread = Thread("cachebox-test", ran.set)
    assert (thread.daemon, thread.name, thread.is_alive()) == (True, "cachebox-test", False)
    thread.start()
    thread.join()
    assert ran.is_set()
    wait_until(thread.is_gone)


def test_what_is_gone_is_forgotten():
    for thread in [ended() for _ in range(20)]:
        wait_until(thread.is_gone)
    last = ended()
    assert len([thread for thread in threads._started if thread.name == last.name]) == 1


@needs_fork
def test_a_fork_waits_for_it(monkeypatch):
    asked = []
    monkeypatch.setattr(Thread, "is_gone", lambda thread: asked.append(thread) or asked.count(thread) >= 3)
    thread = ended()
    asked.clear()
    assert in_a_child(lambda: not threads._started) == 0
    assert asked.count(thread) == 3
    assert thread not in threads._started


@needs_fork
def test_a_fork_does_not_wait_for_those_that_run(monkeypatch):
    go_on = threading.Event()
    thread = Thread("cachebox-test", lambda: go_on.wait(60))
    thread.start()
    monkeypatch.setattr(Thread, "is_gone", lambda thread: pytest.fail("it runs"))
    assert in_a_child(lambda: True) == 0
    assert thread in threads._started
    go_on.set()
    thread.join()
