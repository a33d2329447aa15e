"""The files of a journal: where they are, whose they are, what fails on the way, and what others put into them."""

from __future__ import annotations

import errno
import os
import shutil
import stat
import struct
import subprocess
import sys
import threading
from zlib import crc32

import pytest

from cachebox import MISSING, Cache, WriteBehind
from cachebox._files.serializer import Encoding
from cachebox.strategies import journal as journals
from cachebox.strategies.journal import Journal, _record
from in_threads import must_end, wait_for, wait_until
from stores import Gate, MemoryStore

NEVER = 3600.0
HEADER = 32

pytestmark = pytest.mark.skipif(os.name == "nt", reason="Windows neither replaces open files nor has modes")


@pytest.fixture
def path(tmp_path):
    return tmp_path / "journal"


@pytest.fixture(autouse=True)
def compact_soon(monkeypatch):
    monkeypatch.setattr(journals, "COMPACT_AT", 2000)


def replayed(path):
    journal = Journal(path, Encoding(), "process")
    journal.close()
    return {key: value for _, key, value in journal.replayed}


def raising(number):
    def fail(*arguments, **keywords):
        raise OSError(number, os.strerror(number))

    return fail


def down(call, keys):
    if call != "load":
        raise OSError("down")


class Held:
    """A write-behind of which one batch waits in the store, while the journal fills up with what is of no use."""

    def __init__(self, path, **options):
        self.store = MemoryStore()
        self.gate = self.store.fault = Gate()
        self.behind = WriteBehind(Cache(), self.store, journal=path, max_delay=0.0, backoff=0.001, **options)
        self.behind.set("hot", 0)
        wait_for(self.gate.entered)
        for n in range(300):
            self.behind.set("hot", n)

    def let_go(self):
        """The batch is delivered, and the journal rewritten before the next one."""
        self.gate.open.set()
        wait_until(lambda: self.behind.pending == 0)


# --- where they are ---------------------------------------------------------------------------------------------------

@must_end
def test_a_relative_path_means_what_it_meant_at_first(tmp_path, monkeypatch):
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir(), there.mkdir()
    monkeypatch.chdir(here)
    store = MemoryStore()
    behind = WriteBehind(Cache(), store, journal="journal", max_delay=NEVER)
    monkeypatch.chdir(there)
    behind.set("balance", 1)
    for n in range(300):
        behind.set("hot", n)
    behind._journal.compact()
    behind.set("balance", 1000)
    assert os.listdir(there) == [] and os.listdir(here) == ["journal"]
    shutil.copy(here / "journal", tmp_path / "copy")
    assert replayed(tmp_path / "copy") == {"balance": 1000, "hot": 299}
    with pytest.raises(RuntimeError, match="open already"):
        Journal(here / "journal", Encoding(), "process")
    assert behind.close() and store.values == {"balance": 1000, "hot": 299}


@must_end
@pytest.mark.parametrize("kind", [str, os.fsencode, lambda path: path], ids=["str", "bytes", "path"])
def test_any_kind_of_path_will_do(path, kind):
    with WriteBehind(Cache(), MemoryStore(), journal=kind(path), max_delay=NEVER) as behind:
        behind.set("a", 1)
        behind._journal.compact()
        assert os.path.getsize(path) > HEADER


@must_end
def test_a_link_is_followed_once_and_stays(tmp_path):
    (tmp_path / "real").mkdir()
    link = tmp_path / "journal"
    link.symlink_to(tmp_path / "real" / "journal")
    with WriteBehind(Cache(), MemoryStore(), journal=link, max_delay=NEVER) as behind:
        behind.set("a", 1)
        behind._journal.compact()
        assert link.is_symlink() and os.listdir(tmp_path / "real") == ["journal"]
        link.unlink()                           # whatever becomes of it
        link.symlink_to(tmp_path / "elsewhere")
        behind.set("b", 1)
        behind._journal.compact()
        assert not (tmp_path / "elsewhere").exists()
        shutil.copy(tmp_path / "real" / "journal", tmp_path / "copy")
    assert replayed(tmp_path / "copy") == {"a": 1, "b": 1}


@must_end
def test_nobody_can_plant_a_file_where_the_next_one_will_be(path, monkeypatch):
    """Not even one who guesses its name: what is there already is neither followed nor written to."""
    victim = path.with_name("victim")
    victim.write_bytes(b"precious")
    monkeypatch.setattr("cachebox._files.dump.token_hex", lambda n: "guessed")
    beside = path.with_name(f".{path.name}.guessed.tmp")
    beside.symlink_to(victim)
    with WriteBehind(Cache(), MemoryStore(), journal=path, max_delay=NEVER) as behind:
        behind.set("a", 1)
        with pytest.raises(FileExistsError):
            behind._journal.compact()
        beside.unlink()
        beside.write_bytes(b"also precious")
        with pytest.raises(FileExistsError):
            behind._journal.compact()
        assert victim.read_bytes() == b"precious" and beside.read_bytes() == b"also precious"
        monkeypatch.undo()
        behind._journal.compact()
        assert not path.is_symlink()


@must_end
def test_names_of_temporary_files_are_random_and_all_files_are_the_owners(path, monkeypatch):
    made = []
    opened = os.open

    def noting(name, flags, mode=0o777, **keywords):
        if flags & os.O_CREAT:
            made.append((os.path.basename(name), flags, mode))
        return opened(name, flags, mode, **keywords)

    monkeypatch.setattr(os, "open", noting)
    before = os.umask(0)
    try:
        with WriteBehind(Cache(), MemoryStore(), journal=path, max_delay=NEVER) as behind:
            behind.set("a", 1)
            for _ in range(3):
                behind._journal.compact()
                assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
            Cache().dump(path.with_name("dump"))
            assert stat.S_IMODE(os.stat(path.with_name("dump")).st_mode) == 0o600
    finally:
        os.umask(before)
    assert len({name for name, _, _ in made}) == len(made) == 5
    assert all(flags & os.O_EXCL and mode == 0o600 for _, flags, mode in made)
    assert sorted(os.listdir(path.parent)) == ["dump", "journal"]


def test_what_is_no_regular_file_is_refused(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(ValueError, match=r"fifo'.*regular"):
        WriteBehind(Cache(), MemoryStore(), journal=tmp_path / "fifo")
    with pytest.raises(OSError, match="directory"):
        WriteBehind(Cache(), MemoryStore(), journal=tmp_path)
    with pytest.raises(ValueError, match=r"null'.*regular"):
        WriteBehind(Cache(), MemoryStore(), journal="/dev/null")


# --- rewriting --------------------------------------------------------------------------------------------------------

@must_end
def test_what_the_store_refused_survives_rewriting(path):
    store = MemoryStore()
    store.fault = down
    behind = WriteBehind(Cache(), store, journal=path, retries=0, max_delay=0.0)
    behind.set("bad", "important")
    behind.delete("worse")
    assert behind.flush() is False
    store.fault = lambda call, keys: None
    for _ in range(3):
        behind.set("good", "x" * 3000)
        assert behind.flush() is False
        with behind._backlog._lock:
            behind._journal.compact()
        shutil.copy(path, path.with_name("copy"))
        assert replayed(path.with_name("copy")) == {"bad": "important", "worse": MISSING}
    behind.close()
    assert replayed(path) == {"bad": "important", "worse": MISSING}


@must_end
def test_rewriting_keeps_the_bytes_of_values_that_have_changed_since(path):
    value = [1]
    with WriteBehind(Cache(), MemoryStore(), journal=path, max_delay=NEVER) as behind:
        behind.set("a", value)
        value.append(object())                  # which no journal could hold
        behind._journal.compact()
        shutil.copy(path, path.with_name("copy"))
        assert replayed(path.with_name("copy")) == {"a": [1]}
        value.pop()


FAILURES = ["open", "write", "fsync", "replace", "lock"]


def fail_to_rewrite(monkeypatch, what):
    if what == "open":
        monkeypatch.setattr(journals, "made_beside", raising(errno.EACCES))
    elif what == "write":
        whole, full = journals._write_all, raising(errno.ENOSPC)
        monkeypatch.setattr(
            journals, "_write_all", lambda file, data: full() if data[:1] == b"\x93" else whole(file, data)
        )
    elif what == "lock":
        monkeypatch.setattr(journals, "lock_file", raising(errno.ENOLCK))
    else:
        monkeypatch.setattr(journals.os, what, raising(errno.EIO))


@must_end
@pytest.mark.parametrize("what", FAILURES)
def test_rewriting_that_fails_loses_nothing_and_stops_nothing(path, monkeypatch, caplog, what):
    held = Held(path)
    fail_to_rewrite(monkeypatch, what)
    held.let_go()
    behind = held.behind
    assert held.store.values == {"hot": 299}
    held.gate.open.clear()
    behind.set("a", 1)                          # the thread is there, and goes on
    held.gate.open.set()
    wait_until(lambda: held.store.values.get("a") == 1)
    assert os.listdir(path.parent) == ["journal"]
    told = [record for record in caplog.records if "journal" in record.message]
    assert len(told) <= 1 or what == "fsync"
    monkeypatch.undo()
    monkeypatch.setattr(journals, "COMPACT_AT", 2000)
    assert behind.close() is True and replayed(path) == {}


@must_end
@pytest.mark.parametrize("what", FAILURES)
def test_what_raised_while_rewriting_has_changed_nothing(path, monkeypatch, what):
    with WriteBehind(Cache(), MemoryStore(), journal=path, max_delay=NEVER) as behind:
        behind.set("a", 1)
        behind.set("b", 2)
        before = path.read_bytes()
        fail_to_rewrite(monkeypatch, what)
        with pytest.raises(OSError, match=r"\[Errno"):
            behind._journal.compact()
        monkeypatch.undo()
        assert path.read_bytes() == before and os.listdir(path.parent) == ["journal"]
        behind.set("c", 3)
        behind._journal.compact()
        shutil.copy(path, path.with_name("copy"))
        assert replayed(path.with_name("copy")) == {"a": 1, "b": 2, "c": 3}


@must_end
def test_a_rewritten_file_is_used_even_if_its_folder_cannot_be_synced(path, monkeypatch):
    with WriteBehind(Cache(), MemoryStore(), journal=path, max_delay=NEVER) as behind:
        behind.set("a", 1)
        monkeypatch.setattr(journals, "sync_folder", raising(errno.EIO))
        with pytest.raises(OSError, match="Errno"):
            behind._journal.compact()
        behind.set("b", 2)
        shutil.copy(path, path.with_name("copy"))
        monkeypatch.undo()
        assert replayed(path.with_name("copy")) == {"a": 1, "b": 2}


@must_end
@pytest.mark.parametrize("when", ["before", "after"])
def test_an_interruption_at_the_change_of_names_loses_nothing(path, monkeypatch, when):
    replace = os.replace

    def interrupted(source, target):
        if when == "after":
            replace(source, target)
        raise KeyboardInterrupt

    with WriteBehind(Cache(), MemoryStore(), journal=path, max_delay=NEVER) as behind:
        behind.set("a", 1)
        monkeypatch.setattr(journals.os, "replace", interrupted)
        with pytest.raises(KeyboardInterrupt):
            behind._journal.compact()
        monkeypatch.undo()
        behind.set("b", 2)
        assert os.listdir(path.parent) == ["journal"]
        shutil.copy(path, path.with_name("copy"))
        assert replayed(path.with_name("copy")) == {"a": 1, "b": 2}
        with pytest.raises(RuntimeError, match="open already"):
            Journal(path, Encoding(), "process")


# --- a disk that is full, or broken -----------------------------------------------------------------------------------

@must_end
def test_a_full_disk_is_one_message_when_it_begins_and_one_when_it_is_over(path, monkeypatch, caplog):
    store = MemoryStore()
    with WriteBehind(Cache(), store, journal=path, max_delay=NEVER) as behind:
        behind.set("a", 1)
        whole = journals._write_all
        for n in range(2):
            monkeypatch.setattr(journals, "_write_all", raising(errno.ENOSPC))
            for k in range(50):
                with pytest.raises(OSError, match="space"):
                    behind.set(f"key {k}", "value")
            assert len(caplog.records) == 2 * n + 1 and behind.pending == n + 1
            monkeypatch.setattr(journals, "_write_all", whole)
            behind.set(f"after {n}", 1)
            assert len(caplog.records) == 2 * n + 2
        assert "key 1" not in caplog.text and "value" not in caplog.text
    assert store.values == {"a": 1, "after 0": 1, "after 1": 1}


@must_end
def test_what_cannot_be_recorded_as_done_is_recorded_later(path, monkeypatch, caplog):
    store = MemoryStore()
    gate = Gate()
    with WriteBehind(Cache(), store, journal=path, max_delay=0.0) as behind:
        store.fault = lambda call, keys: gate(call, keys) if keys == ["held"] else None
        behind.set("held", 1)
        wait_for(gate.entered)
        behind.set_many({n: n for n in range(20)})
        shutil.copy(path, path.with_name("copy"))
        assert len(replayed(path.with_name("copy"))) == 21
        monkeypatch.setattr(journals, "_write_all", raising(errno.ENOSPC))
        gate.open.set()
        wait_until(lambda: len(store.values) == 21)
        monkeypatch.undo()
        monkeypatch.setattr(journals, "COMPACT_AT", 2000)
        store.fault = gate2 = Gate()
        behind.set_many({"b": 1, "c": 2})
        wait_for(gate2.entered)
        behind.set("later", 1)
        gate2.open.set()
    assert len([record for record in caplog.records if "journal" in record.message]) <= 2
    assert replayed(path) == {}


@must_end
def test_half_a_record_that_cannot_be_cut_off_is_cut_off_later(path, monkeypatch):
    store = MemoryStore()
    with WriteBehind(Cache(), store, journal=path, max_delay=NEVER) as behind:
        behind.set("a", 1)
        write = os.write

        def half(file, data):
            write(file, data[:7])
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(journals.os, "write", half)
        monkeypatch.setattr(journals.os, "ftruncate", raising(errno.EIO))
        with pytest.raises(OSError, match="Errno"):
            behind.set("b", 2)
        monkeypatch.undo()
        behind.set("c", 3)
        shutil.copy(path, path.with_name("copy"))
        assert replayed(path.with_name("copy")) == {"a": 1, "c": 3}
    assert store.values == {"a": 1, "c": 3}


@must_end
def test_a_write_that_the_disk_did_not_take_has_changed_nothing(path, monkeypatch):
    store, cache = MemoryStore(), Cache()
    behind = WriteBehind(cache, store, journal=path, max_delay=NEVER, durability="power")
    behind.set("a", "old")
    assert behind.flush()
    monkeypatch.setattr(journals.os, "fsync", raising(errno.EIO))
    for n in range(3):
        with pytest.raises(OSError, match="Errno"):
            behind.set("a", f"new {n}")
        with pytest.raises(OSError, match="Errno"):
            behind.delete("a")
    assert cache.peek("a") == "old" and behind.get("a") == "old" and behind.pending == 0
    assert behind._backlog.unfinished == {} and behind._backlog._unsynced == {}
    shutil.copy(path, path.with_name("copy"))
    monkeypatch.undo()
    assert replayed(path.with_name("copy")) == {}       # not even a kill brings them back
    store.calls.clear()
    assert behind.get("a") == "old" and store.calls == []
    behind.set("a", "newest")
    assert not behind._journal.is_doubtful      # it was rewritten, because what the disk has of the old one is unknown
    shutil.copy(path, path.with_name("copy"))
    assert replayed(path.with_name("copy")) == {"a": "newest"}
    assert behind.close() and store.values == {"a": "newest"} and store.saved("a") == ["newest"]


@must_end
def test_one_sync_serves_many_and_where_it_fails_each_of_them_hears_of_it(path, monkeypatch):
    from in_threads import Started

    store = MemoryStore()
    behind = WriteBehind(Cache(), store, journal=path, max_delay=NEVER, durability="power")
    fsync = os.fsync
    entered, go_on, calls, fails = threading.Event(), threading.Event(), [], [False]

    def slow(file):
        calls.append(file)
        entered.set()
        wait_for(go_on)
        if fails[0]:
            raise OSError(errno.EIO, "Input/output error")
        fsync(file)

    monkeypatch.setattr(journals.os, "fsync", slow)
    for fails[0] in (False, True):
        entered.clear(), go_on.clear(), calls.clear()
        first = Started(behind.set, "first", fails[0])
        wait_for(entered)
        others = [Started(behind.set, n, fails[0]) for n in range(5)]
        wait_until(lambda: len(behind._backlog._unsynced) == 6)
        assert behind.pending == (6 if fails[0] else 0)
        go_on.set()
        errors = [one.wait().error for one in (first, *others)]
        if fails[0]:
            assert all(isinstance(error, OSError) for error in errors)
        else:
            assert errors == [None] * 6 and len(calls) <= 3
        assert behind.pending == 6 and behind._backlog._unsynced == {} and behind._queue.promised == 0
    monkeypatch.undo()
    assert behind.close() and set(store.values.values()) == {False}


@must_end
def test_closing_waits_for_what_is_about_to_be_accepted(path, monkeypatch):
    from in_threads import Started

    store = MemoryStore()
    behind = WriteBehind(Cache(), store, journal=path, max_delay=NEVER, durability="power")
    fsync = os.fsync
    entered, go_on = threading.Event(), threading.Event()

    def slow(file):
        entered.set()
        wait_for(go_on)
        fsync(file)

    monkeypatch.setattr(journals.os, "fsync", slow)
    setting = Started(behind.set, "a", 1)
    wait_for(entered)
    closing = Started(behind.close)
    wait_until(lambda: behind._backlog.closing)
    go_on.set()
    setting.result()
    assert closing.result() is True and store.values == {"a": 1} and replayed(path) == {}


@must_end
def test_a_journal_that_the_disk_did_not_take_later_is_written_anew(path, monkeypatch, caplog):
    monkeypatch.setattr(journals, "SYNC_EVERY", 0.01)
    monkeypatch.setattr(journals, "COMPACT_AGAIN", 0.0)
    store = MemoryStore()
    fsync = os.fsync
    failed = threading.Event()

    def fail_once(file):
        if not failed.is_set():
            failed.set()
            raise OSError(errno.EIO, "Input/output error")
        fsync(file)

    with WriteBehind(Cache(), store, journal=path, max_delay=NEVER) as behind:
        monkeypatch.setattr(journals.os, "fsync", fail_once)
        behind.set("a", 1)
        wait_for(failed)
        wait_until(lambda: behind._journal.is_doubtful)
        inode = os.stat(path).st_ino
        behind.set("b", 1)
        assert behind.flush() is True
        wait_until(lambda: os.stat(path).st_ino != inode and not behind._journal.is_doubtful)
    assert [record.levelname for record in caplog.records if "disk" in record.message][:1] == ["WARNING"]
    assert store.values == {"a": 1, "b": 1}


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 64 KiB, where this process may mount one."""
    folder = tmp_path / "small"
    folder.mkdir()
    if not shutil.which("mount") or not hasattr(os, "geteuid") or os.geteuid() != 0:
        pytest.skip("only root can mount a small file system to fill up")
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", folder], capture_output=True)
    if mounted.returncode:
        pytest.skip("this system does not let root mount a small file system to fill up")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


@must_end
def test_a_disk_that_is_really_full_costs_only_the_writes_that_raised(small_disk, caplog, monkeypatch):
    monkeypatch.setattr(journals, "COMPACT_AGAIN", 0.0)
    path = small_disk / "journal"
    store = MemoryStore()
    store.fault = down
    accepted, refused = {}, 0
    behind = WriteBehind(Cache(), store, journal=path, max_delay=0.0, backoff=0.001, max_backoff=0.01)
    for n in range(400):
        try:
            behind.set(n % 150, "x" * 500 + str(n))
        except OSError as error:
            refused += error.errno == errno.ENOSPC
        else:
            accepted[n % 150] = "x" * 500 + str(n)
    assert refused > 100 and len(accepted) > 30 and behind.pending == len(accepted)
    assert sum("cannot be written" in record.message for record in caplog.records) == 1
    cache = Cache()
    cache["a"] = "x" * 60_000
    with pytest.raises(OSError, match="space"):
        cache.dump(small_disk / "dump")
    assert os.listdir(small_disk) == ["journal"]
    shutil.copy(path, small_disk.parent / "copy")
    assert replayed(small_disk.parent / "copy") == accepted
    store.fault = lambda call, keys: None
    assert behind.flush() is True and store.values == accepted and os.path.getsize(path) == HEADER
    behind.set("after", 1)
    assert behind.close() is True and store.values["after"] == 1


# --- what others put into them ----------------------------------------------------------------------------------------

def header():
    return struct.pack("<16sH?13s", journals.MAGIC, 1, False, b"json")


FORGED = {
    "a number of five bytes": _record(3, 0, b"12345"),
    "a done record with a number": _record(3, 7, b""),
    "no JSON": _record(1, 1, b"xx"),
    "nothing": _record(1, 1, b""),
    "a list as the key": _record(1, 1, b"[[1],2]"),
    "a dict as the key": _record(2, 1, b'[{"a":1}]'),
    "three things": _record(1, 1, b'["a",2,3]'),
    "a set without a value": _record(1, 1, b'["a"]'),
    "a delete with a value": _record(2, 1, b'["a",1]'),
    "a str that has two letters": _record(1, 1, b'"ab"'),
    "a dict of two": _record(1, 1, b'{"a":1,"b":2}'),
    "an unknown kind": _record(9, 1, b""),
    "kind zero": _record(0, 1, b'["a",1]'),
    "the number zero": _record(1, 0, b'["a",1]'),
    "the largest number": _record(1, 2**64 - 1, b'["a",1]'),
    "a number after which there is none": _record(2, 2**63, b'["a"]'),
    "a number twice": _record(1, 1, b'["a",1]') + _record(1, 1, b'["b",2]'),
    "NaN as the key": _record(1, 1, b"[NaN,1]"),
    "an infinite key": _record(1, 1, b"[1e999,1]"),
    "an infinite value": _record(1, 1, b'["a",-1e999]'),
    "brackets without end": _record(1, 1, b"[" * 100_000 + b"]" * 100_000),
    "digits without end": _record(1, 1, b'["a",' + b"9" * 10_000 + b"]"),
    "bytes that are no text": _record(1, 1, b'["\xff\xfe",1]'),
}


@pytest.mark.parametrize("forged", FORGED)
@pytest.mark.parametrize("around", ["alone", "among others"])
def test_forged_records_are_refused_by_name_and_nothing_has_changed(path, forged, around):
    good = _record(1, 500, b'["good",1]')
    content = header() + (good if around != "alone" else b"") + FORGED[forged]
    content += _record(1, 501, b'["last",1]') if around != "alone" else b""
    path.write_bytes(content)
    store, cache = MemoryStore(), Cache()
    with pytest.raises(ValueError, match="journal'"):
        WriteBehind(cache, store, journal=path)
    assert path.read_bytes() == content and store.calls == [] and len(cache) == 0
    file = os.open(path, os.O_RDWR)
    assert journals.lock_file(file)             # nobody has it
    os.close(file)


@must_end
def test_numbers_go_on_after_the_largest_that_is_allowed(path):
    path.write_bytes(header() + _record(1, journals._LAST_NUMBER, b'["a",1]'))
    with WriteBehind(Cache(), MemoryStore(), journal=path, max_delay=NEVER) as behind:
        for n in range(10):
            behind.set(n, n)
        behind.set(3, 3)
        shutil.copy(path, path.with_name("copy"))
        assert behind.flush()
    assert replayed(path.with_name("copy")) == {"a": 1, **{n: n for n in range(10)}}


def test_a_size_that_is_announced_is_not_allocated(path):
    start = struct.pack("<IBQ", 0xFFFFFFFF, 1, 1)
    path.write_bytes(header() + _record(1, 1, b'["a",1]') + start + struct.pack("<II", crc32(start), 0) + b"x" * 50)
    assert replayed(path) == {"a": 1}           # a record whose end is missing: the last one, dropped alone


def test_done_records_of_what_is_not_there_are_nothing(path):
    path.write_bytes(header() + _record(3, 0, struct.pack("<3Q", 5, 1, 2**64 - 1)) + _record(1, 1, b'["a",1]'))
    assert replayed(path) == {"a": 1}


def test_memory_that_is_missing_is_a_memory_error(path):
    class Hungry:
        dumps = staticmethod(lambda thing: b"x")

        @staticmethod
        def loads(data):
            raise MemoryError

    journal = Journal(path, Encoding(Hungry), "process")
    journal.append(journal.encode("a", 1), False)
    journal.close()
    before = path.read_bytes()
    with pytest.raises(MemoryError):
        Journal(path, Encoding(Hungry), "process")
    assert path.read_bytes() == before


if sys.platform != "win32":

    @must_end
    def test_a_journal_that_was_replaced_while_it_was_being_opened_is_opened_anew(path, monkeypatch):
        Journal(path, Encoding(), "process").close()
        lock = journals.lock_file
        replaced = []

        def meanwhile(file):
            if not replaced:
                replaced.append(os.fstat(file).st_ino)
                shutil.copy(path, path.with_name("other"))
                os.replace(path.with_name("other"), path)
            return lock(file)

        monkeypatch.setattr(journals, "lock_file", meanwhile)
        journal = Journal(path, Encoding(), "process")
        assert os.fstat(journal._file).st_ino == os.stat(path).st_ino != replaced[0]
        journal.close()
