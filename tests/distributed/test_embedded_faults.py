"""Accidents of a folder: a full disk, removal, forks, writers that are stopped. Never a wrong value."""

from __future__ import annotations

import contextlib
import errno
import gc
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from functools import partial

import pytest

from both_kinds import KINDS, make
from cachebox import BackendRefused, BackendUnavailable, DistributedCache
from cachebox.distributed._embedded import opened
from cachebox.distributed._embedded.database import Database
from folders import at, data_file, folder, root, running, start, work  # noqa: F401
from in_threads import Started, run_all, wait_for, wait_until

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="there are no folders on Windows yet")

# --- the machine stops ------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("durability", ["process", "machine"])
@pytest.mark.parametrize("is_closed", [False, True], ids=["killed", "closed"])
def test_another_start_of_the_machine(at, monkeypatch, is_closed, durability):
    code = "cache.set('a', 1)\nprint('ready', flush=True)\nsys.stdin.readline()\ncache.close()\n"
    with running(code, json.dumps({**at, "durability": durability})) as process:
        if is_closed:
            process.communicate("\n")
        else:
            process.kill()
            process.wait(30)
    monkeypatch.setattr(opened, "boot_id", lambda: b"another start...")
    with DistributedCache(**at) as cache:
        assert cache.get("a") == (1 if is_closed or durability == "machine" else None)
        cache.set("a", 2)
        assert cache.get("a") == 2
    monkeypatch.setattr(opened, "boot_id", lambda: b"and another one.")
    with DistributedCache(**at) as cache:
        assert cache.get("a") == 2


# --- a full disk ------------------------------------------------------------------------------------------------------

class FullDisk:
    """Has SQLite find no room for the writes of some caches, for the first `times` transactions."""

    def __init__(self, monkeypatch, times, *caches):
        self.times = times
        self.real = Database.transaction
        for cache in caches:
            monkeypatch.setattr(cache._core, "fast_path", None)             # the fast path makes no transactions
        monkeypatch.setattr(Database, "transaction", lambda database, run: self.transaction(database, run))

    def transaction(self, database, run):
        if self.times > 0:
            self.times -= 1
            writer = database.writer
            ((before,),) = writer.execute("PRAGMA max_page_count").fetchall()
            writer.execute("PRAGMA max_page_count = 1")
            try:
                return self.real(database, lambda execute: (run(execute), grow(execute)))
            finally:
                writer.execute(f"PRAGMA max_page_count = {before}")
        return self.real(database, run)


def grow(execute) -> None:
    """More than fits."""
    execute("CREATE TABLE too_much(b BLOB)")
    execute("INSERT INTO too_much VALUES(zeroblob(1000000))")


@pytest.mark.parametrize("kind", KINDS)
def test_on_a_full_disk_set_raises_and_what_is_forgotten_is_forgotten(at, kind, monkeypatch):
    with make(kind, **at) as cache, make(kind, **at) as other:
        cache.set("a", "old")
        cache.set("b", "kept")
        assert other.get("a") == "old"
        full = FullDisk(monkeypatch, 10**6, cache, other)
        with pytest.raises(BackendRefused, match="nothing more fits on the disk"):
            cache.set("a", "new")
        assert other.get("a") == "old" and cache.get("a") == "old" and other.get("b") == "kept"
        assert cache.stats.last_error
        assert cache.delete("a") in (True, False)
        assert other.get("a") is None and cache.get("a") is None
        full.times = 0
        cache.set("a", "newest")
        assert other.get("a") == "newest"
        assert cache.stats.last_error is None
        full.times = 10**6
        cache.clear()
        assert other.get("a") is None
        full.times = 0
        cache.set("t", 1, tags=["x"])
        assert other.get("t") == 1
        full.times = 10**6
        cache.invalidate_tag("x")
        assert other.get("t") is None


def test_a_disk_that_is_full_for_a_moment_costs_nothing(at, monkeypatch):
    with DistributedCache(**at) as cache:
        cache.set("a", 1)
        FullDisk(monkeypatch, 2, cache)
        cache.set("b", 2)
        assert cache.get_many(["a", "b"]) == {"a": 1, "b": 2}


def write_too_much(cache) -> None:
    for i in range(100):
        cache.set(f"big{i}", "x" * 200_000)


def fill_up(disk) -> None:
    """Leave no room on a disk."""
    with contextlib.suppress(OSError), open(disk / "filler", "ab", buffering=0) as file:
        while True:
            file.write(b"x" * 4096)


@pytest.mark.skipif(sys.platform != "linux" or os.geteuid() != 0, reason="only root can mount a small disk")
def test_a_disk_that_is_really_full(root):
    disk = root / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m,mode=700", "none", disk], capture_output=True).returncode:
        pytest.skip("this place lets nobody mount anything")
    try:
        at = {"url": f"file://{disk}/cache", "on_unavailable": "raise"}
        with DistributedCache(**at) as cache, DistributedCache(**at) as other:
            cache.set("a", "old")
            assert other.get("a") == "old"
            with pytest.raises(BackendUnavailable):
                write_too_much(cache)
            assert other.get("a") == "old"
            fill_up(disk)
            cache.delete("a")
            assert other.get("a") is None
            (disk / "filler").unlink(missing_ok=True)
            cache.set("a", "new")
            assert other.get("a") == "new"
            with pytest.raises(BackendUnavailable):
                write_too_much(cache)
            other.clear()
            assert cache.get("a") is None
            cache.set("a", "newest")
            assert other.get("a") == "newest"
        fill_up(disk)
        with pytest.raises(OSError) as caught:
            DistributedCache(url=f"file://{disk}/another")
        assert caught.value.errno == errno.ENOSPC
    finally:
        gc.collect()
        subprocess.run(["umount", "-l", disk], check=True)


def test_without_free_descriptors_nothing_is_taken_for_damage(at):
    """A process that can open no more files must not discard the entries of all."""
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with DistributedCache(**at) as cache, DistributedCache(**{**at, "timeout": 0.2}) as other:
        cache.set("a", 1)
        held = []
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (min(256, soft), hard))
            with contextlib.suppress(OSError):
                while True:
                    held.append(os.open(os.devnull, os.O_RDONLY))
            for _ in range(4):
                with contextlib.suppress(BackendUnavailable):
                    other.get("a")
                with contextlib.suppress(BackendUnavailable):
                    other.delete("b")
                os.close(held.pop())
        finally:
            for fd in held:
                os.close(fd)
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        assert cache.get("a") == 1 and other.get("a") == 1


def test_a_limit_of_the_process_is_like_a_full_disk(at):
    """So is a quota: SQLite calls both an error of input and output."""
    code = """
import resource
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
cache.set("a", 1)
resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, resource.RLIM_INFINITY))
try:
    for i in range(1000):
        cache.set(f"b{i}", "x" * 1000)
except Exception as error:
    print(type(error).__name__, cache.get("a"), cache.get("b0") == "x" * 1000)
cache.delete("a")
print(cache.get("a"))
"""
    process = start(code, json.dumps(at))
    assert process.communicate(timeout=60)[0] == "BackendRefused 1 True\nNone\n"


# --- removal ----------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("what", ["root", "namespace"])
@pytest.mark.parametrize("kind", KINDS)
def test_after_the_folder_was_removed_processes_meet_again_at_their_next_write(at, root, folder, kind, what):
    with make(kind, **at) as a, make(kind, **at) as b:
        a.set("k", 1)
        assert b.get("k") == 1
        shutil.rmtree(root / "cache" if what == "root" else folder)
        a.set("k", 2)
        assert a.get("k") == 2
        b.set("other", 3)
        assert b.get("k") == 2 and a.get("other") == 3
        assert a.increment("n") == 1 and b.increment("n") == 2
        assert a.get_or_set("computed", lambda: 4) == 4 and b.get("computed") == 4
        shutil.rmtree(root / "cache" if what == "root" else folder)
        assert a.delete("k") is False
        assert a.get("k") is None


@pytest.mark.parametrize("what", ["remove", "close"])
def test_files_are_closed_only_when_no_thread_uses_them(at, root, what):
    """The number of a closed file belongs to another one soon: a thread that went on with it would lock that."""
    for _ in range(8):
        cache, begun, errors = DistributedCache(**at), threading.Event(), []

        def use(n, cache=cache, begun=begun, errors=errors):
            for i in range(200):
                try:
                    cache.set(f"k{n}", i)
                    cache.increment(f"n{n}")
                    cache.get_or_set(f"g{n}{i}", lambda: 1)
                except (BackendUnavailable, RuntimeError) as error:
                    errors.append(str(error))
                    return
                begun.set()

        workers = [Started(use, n) for n in range(3)]
        wait_for(begun)
        if what == "remove":
            shutil.rmtree(root / "cache", ignore_errors=True)
        else:
            cache.close()
        for worker in workers:
            worker.result()
        cache.close()
        assert all("closed" in error for error in errors) and (what == "close" or not errors)


def test_a_file_that_was_removed_is_begun_anew(at, folder):
    with DistributedCache(**at) as cache:
        cache.set("a", 1)
        cache.get("a")
    data_file(folder).unlink()
    with DistributedCache(**at) as cache:
        assert cache.get("a") is None
        work(cache)


# --- forks ------------------------------------------------------------------------------------------------------------

def in_child(body) -> None:
    """Run something in the child of a fork, and see that it went well."""
    child = os.fork()
    if child == 0:
        try:
            body()
            os._exit(0)
        except BaseException:
            import traceback

            traceback.print_exc()
            os._exit(1)
    deadline = time.monotonic() + 60
    while True:
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            assert os.waitstatus_to_exitcode(status) == 0
            return
        if time.monotonic() > deadline:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            raise AssertionError("the child hangs")
        time.sleep(0.002)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
@pytest.mark.parametrize("url", ["file", "memory"])
def test_forks_under_threads_that_work(at, url):
    if url == "memory":
        at["url"] = "memory://"
    stop = []
    with DistributedCache(**at) as cache:
        cache.set("a", 1)

        def use(n):
            i = 0
            while not stop:
                i += 1
                cache.set(f"k{n}", i)
                assert cache.get(f"k{n}") == i
                cache.get_many(["a", f"k{n}"])

        def child():
            assert cache.get("a") == 1
            cache.set("child", os.getpid())
            assert cache.get("child") == os.getpid()
            cache.increment("children")
            assert cache.get_or_set("made", lambda: 1) == 1

        workers = [Started(use, n) for n in range(3)]
        try:
            for _ in range(15):
                in_child(child)
        finally:
            stop.append(1)
        for worker in workers:
            worker.result()
        assert cache.get("children") == 15
        with contextlib.closing(sqlite3.connect(cache._core.topology.store._database[1].path)) as database:
            assert database.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_a_dead_leader_is_replaced_though_a_child_that_it_forked_lives_on(at):
    code = """
def factory():
    if os.fork() == 0:
        time.sleep(1000)
    print("ready", flush=True)
    time.sleep(1000)
cache.get_or_set("k", factory)
"""
    process = subprocess.Popen(
        [sys.executable, "-c", "import json, os, sys, time\nfrom cachebox import DistributedCache\n"
         "cache = DistributedCache(**json.loads(sys.argv[1]))\n" + code, json.dumps(at)],
        stdout=subprocess.PIPE, text=True, start_new_session=True,
    )
    try:
        assert process.stdout.readline() == "ready\n"
        with DistributedCache(**at) as cache:
            waiter = Started(lambda: cache.get_or_set("k", lambda: "second"))
            wait_until(lambda: cache.stats.misses == 1)
            process.kill()
            process.wait(30)
            begun = time.monotonic()
            assert waiter.result() == "second"
            assert time.monotonic() - begun < 4.0           # a second would do; the rest is for a machine under load
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.stdout.close()


# --- writers that are stopped -----------------------------------------------------------------------------------------

STOPPED = """
store = cache._core.topology.store
cache.set("a", 1)
cache.set("b", 1)
from cachebox.distributed._embedded.database import Database
real = Database.transaction
def transaction(database, run):
    print("ready", flush=True)
    os.kill(os.getpid(), signal.SIGSTOP)
    return real(database, run)
Database.transaction = transaction
cache._core.fast_path = None
cache.set("a", 2)
cache.close()
"""


def test_a_stopped_writer_holds_up_no_reader_and_writes_raise_in_time(at):
    with running(STOPPED, json.dumps(at)) as process, DistributedCache(**{**at, "timeout": 0.2}) as cache:
        assert cache.get("a") == 1 and cache.get("b") == 1
        assert cache.get("a") == 1 and cache.get_many(["a", "b", "c"]) == {"a": 1, "b": 1}
        begun = time.monotonic()
        with pytest.raises(BackendUnavailable, match="another process has kept the writer lock"):
            cache.set("b", 2)
        with pytest.raises(BackendUnavailable):
            cache.delete("b")
        assert 0.2 < time.monotonic() - begun < 10
        process.send_signal(signal.SIGCONT)
        process.communicate(timeout=60)
        cache.set("b", 3)
        assert cache.get("a") == 2 and cache.get("b") == 3


def test_a_killed_writer_is_settled_by_the_next(at):
    with running(STOPPED, json.dumps(at)) as process, DistributedCache(**at) as cache:
        assert cache.get("a") == 1
        process.kill()
        process.wait(30)
        assert cache.get("a") == 1
        assert cache._core.topology.store.opened(0.0).page.dirty
        cache.set("b", 2)
        assert not cache._core.topology.store.opened(0.0).page.dirty
        assert cache.get("a") == 1 and cache.get("b") == 2


# --- the end ----------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("kind", KINDS)
def test_nothing_is_left_open(at, kind):
    def descriptors():
        gc.collect()
        found = [f"/proc/self/fd/{fd}" for fd in os.listdir("/proc/self/fd")]
        return {os.readlink(path) for path in found if os.path.lexists(path)}

    if not os.path.isdir("/proc/self/fd"):
        pytest.skip("this system does not tell what is open")
    with make(kind, **at) as cache:
        cache.set("a", 1)
        get = partial(cache.get, "a")
        run_all(get, get) if kind == "sync" else get()
        assert any(at["url"][7:] in name for name in descriptors())
    del cache, get
    assert not [name for name in descriptors() if at["url"][7:] in name]


def test_a_private_folder_is_gone_with_its_cache():
    with DistributedCache(url="memory://") as a, DistributedCache(url="memory://") as b:
        a.set("k", 1)
        assert b.get("k") is None
        folders = [cache._core.topology.servers.root for cache in (a, b)]
        assert len(set(folders)) == 2 and all(map(os.path.isdir, folders))
    assert not any(map(os.path.exists, folders))


def test_a_private_folder_is_gone_with_its_process():
    code = "import cachebox\nc = cachebox.DistributedCache(url='memory://')\nc.set('a', 1)\n"
    code += "print(c._core.topology.servers.root)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and done.stderr == ""
    assert done.stdout.startswith("/") and not os.path.exists(done.stdout.strip())


@pytest.mark.filterwarnings("error")
def test_old_private_folders_are_removed_unless_they_are_used():
    with DistributedCache(url="memory://") as cache:
        cache.set("k", 1)
        folder = cache._core.topology.servers.root
        left = f"{folder}-left"
        os.makedirs(f"{left}/one")
        os.makedirs(f"{folder}/two")                # after a look at the used one there is more to look at
        for each in (folder, left):
            os.utime(each, (0, 0))
        with DistributedCache(url="memory://"):
            gc.collect()                            # reports what was left open
            assert os.path.isdir(folder)
            assert not os.path.exists(left)
        assert cache.get("k") == 1
