"""Forks while threads write, with the sweeper on and off."""

from __future__ import annotations

import os
import sys
import threading
import time

from cachebox import Cache, cached


def well_in_the_child(caches):
    """A child's check: nothing hangs, every structure is whole, the bound holds. Never returns."""
    status = 1
    try:
        for cache in caches:
            cache._check()
            for n in range(50):
                cache.set(("child", n), n, ttl=60)
                cache.get(("child", n))
            assert len(cache) <= 20
            cache.get_or_set("load", lambda: 1)
            cache.compute("counter", lambda old: 1)
            cache.increment("number")
            list(cache.items())
            cache._check()
            cache.clear()
        status = 0
    finally:
        os._exit(status)


def write(n, caches, ttl, ended):
    """The body of a thread. Not a closure: a variable shared with the thread that forks would be a cell, and without
    the GIL cells have locks, which CPython 3.13 may leave locked in the child without end."""
    number = 0
    while not ended.is_set():
        number += 1
        for cache in caches:
            cache.set((n, number % 30), number, ttl)
            cache.get((n, number % 7))
            cache.get_or_set((n, "load", number % 9), lambda: number)
            cache.compute((n, "sum"), lambda old: number)
            cache.delete((n, number % 5))
        if number % 50 == 0:
            caches[0].clear()


def fork_while_threads_write(policy, ttl):
    caches = [Cache(20, policy=policy), Cache(20, policy=policy, on_evict=lambda key, value: None)]
    ended = threading.Event()
    sys.setswitchinterval(0.0005)           # else this thread waits for its turn most of the time
    threads = [threading.Thread(target=write, args=(n, caches, ttl, ended)) for n in range(4)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(12):
            child = os.fork()
            if child == 0:
                well_in_the_child(caches)
            assert wait_for(child) == 0
    finally:
        ended.set()
        for thread in threads:
            thread.join()


def wait_for(child):
    """A child's exit status; an AssertionError if it hangs."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return status
        time.sleep(0.002)
    os.kill(child, 9)
    os.waitpid(child, 0)
    raise AssertionError("the child hangs")


def while_threads_write(policy):
    fork_while_threads_write(policy, None)


def while_threads_write_and_the_sweeper_sweeps(policy):
    fork_while_threads_write(policy, 0.003)


def while_a_thread_loads(policy):
    """A load led by a thread that the fork did not copy is void in the child, which loads by itself."""
    cache = Cache(policy=policy)
    started, go_on = threading.Event(), threading.Event()

    @cached(policy=policy)
    def function(x):
        started.set()
        go_on.wait()
        return x

    def load():
        started.set()
        go_on.wait()
        return 1

    for body in (lambda: cache.get_or_set("key", load), lambda: function(1)):
        started.clear()
        go_on.clear()
        thread = threading.Thread(target=body)
        thread.start()
        started.wait()
        child = os.fork()
        if child == 0:
            go_on.set()
            well = cache.get_or_set("key", lambda: 2) in (1, 2) and function(1) == 1
            cache._check()
            os._exit(0 if well else 1)
        assert wait_for(child) == 0
        go_on.set()
        thread.join()


def in_every_callback(policy):
    """A callback that forks; parent and child both go on with the operation."""
    pid = os.getpid()
    children = []

    def fork(*departure):
        if os.getpid() == pid and len(children) < 8:
            children.append(os.fork())
            if children[-1] == 0:
                cache.set("child", 1)
                cache._check()
                os._exit(0)
            assert wait_for(children[-1]) == 0

    cache = Cache(2, policy=policy, on_evict=fork, on_removal=fork)
    for n in range(6):
        cache[n] = n
    assert len(children) == 8 and len(cache) == 2
