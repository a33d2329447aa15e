"""The journal of a write-behind: what survives, what is refused, and kill -9 at any moment."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import textwrap
import threading
import time

import pytest

from cachebox import MISSING, Cache, WriteBehind
from cachebox._files.serializer import Encoding
from cachebox.strategies import SQLiteStore
from cachebox.strategies import journal as journals
from cachebox.strategies.journal import Journal
from in_threads import must_end, raise_in, run_all, wait_for, wait_until
from stores import Gate, MemoryStore

NEVER = 3600.0
HEADER = 32


@pytest.fixture
def path(tmp_path):
    return tmp_path / "journal"


def interrupted(path, *writes, **options):
    """The files of a process that accepted these writes and was killed."""
    journal = Journal(path, Encoding(), "process")
    for key, value in writes:
        journal.append(journal.encode(key, value), value is MISSING)
    journal.close()


def down(call, keys):
    if call != "load":
        raise OSError("down")


def replayed(path):
    journal = Journal(path, Encoding(), "process")
    journal.close()
    return [(key, value) for _, key, value in journal.replayed]


def test_what_was_accepted_is_replayed_in_order_and_the_file_shrinks(path):
    interrupted(path, ("b", 1), (1, None), ("1", [1, {"x": 2.5}]), ("b", 2), ("a", MISSING))
    store = MemoryStore(a=1)
    with WriteBehind(Cache(), store, journal=path, max_delay=NEVER) as behind:
        assert behind.pending == 4 and behind.get("b") == 2 and behind.get("a", "none") == "none"
        assert behind.flush() is True and os.path.getsize(path) == HEADER
    assert store.calls[-4:] == [("save", "b", 2), ("save", 1, None), ("save", "1", [1, {"x": 2.5}]), ("delete", "a")]
    assert store.values == {"b": 2, 1: None, "1": [1, {"x": 2.5}]}
    assert replayed(path) == []


@must_end
def test_what_the_store_lacks_stays_and_what_it_has_does_not(path):
    store = MemoryStore()
    gate = Gate()
    store.fault = lambda call, keys: gate(call, keys) if keys == ["c"] else None
    behind = WriteBehind(Cache(), store, journal=path, max_delay=0)
    behind.set("a", 1)
    wait_until(lambda: behind.pending == 0)
    behind.set("b", 1)
    behind.set("c", 1)
    wait_for(gate.entered)
    behind.set("d", 1)
    behind.set("c", 2)
    wait_until(lambda: "b" in store.values)
    assert behind.close(timeout=0.01) is False
    copy = path.with_name("copy")
    copy.write_bytes(path.read_bytes())
    assert sorted(replayed(copy)) == [("c", 2), ("d", 1)]
    gate.open.set()
    wait_until(lambda: behind._backlog.thread is None)


CIRCULAR = [1]
CIRCULAR.append({"itself": CIRCULAR})


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ((1,), 1),
        (b"a", 1),
        ("a", (1, 2)),
        ("a", {1: 2}),
        ("a", {1}),
        ("a", [object()]),
        ("a", float("nan")),
        (float("inf"), 1),
        ("a", b"x"),
        ("a", CIRCULAR),
        pytest.param("a", 10**5000, id="an int too long to be read back"),
        pytest.param(10**5000, 1, id="a key too long to be read back"),
    ],
)
def test_what_json_cannot_give_back_is_a_type_error_and_changes_nothing(path, key, value):
    cache = Cache()
    store = MemoryStore()
    with WriteBehind(cache, store, journal=path) as behind:
        with pytest.raises(TypeError, match="serializer"):
            behind.set(key, value)
        with pytest.raises(TypeError):
            behind.set_many({"good": 1, key: value})
        assert len(cache) == 0 and behind.pending == 0 and os.path.getsize(path) == HEADER
    assert store.calls == []


def test_other_serializers(path):
    store = MemoryStore()
    options = {"serializer": "pickle", "secret": "s"}
    with WriteBehind(Cache(), store, journal=path, max_delay=NEVER, **options) as behind:
        behind.set((1, b"x"), {1, 2})
        raw = path.read_bytes()
    assert store.values == {(1, b"x"): {1, 2}}
    path.write_bytes(raw)
    with pytest.raises(ValueError, match="serializer"):
        WriteBehind(Cache(), store, journal=path)
    with pytest.raises(ValueError, match="another secret"):
        WriteBehind(Cache(), store, journal=path, serializer="pickle", secret="t")
    assert path.read_bytes() == raw
    store.values.clear()
    with WriteBehind(Cache(), store, journal=path, **options) as behind:
        assert behind.flush() and store.values == {(1, b"x"): {1, 2}}


def test_a_torn_last_record_is_dropped_alone(path):
    interrupted(path, ("a", 1), ("b", 2), ("c", "x" * 50))
    whole = path.read_bytes()
    ends = [HEADER]
    for key, value in (("a", 1), ("b", 2), ("c", "x" * 50)):
        ends.append(ends[-1] + 21 + len(Encoding().dumps(key, value)))
    assert ends[-1] == len(whole)
    for length in range(HEADER, len(whole)):
        path.write_bytes(whole[:length])
        n = sum(end <= length for end in ends) - 1
        assert replayed(path) == [("a", 1), ("b", 2), ("c", "x" * 50)][:n], length
        assert os.path.getsize(path) == ends[n]
    for garbage in (b"\0" * 300, whole[ends[2] : ends[2] + 10] + b"\0" * 100):
        path.write_bytes(whole[: ends[2]] + garbage)
        assert replayed(path) == [("a", 1), ("b", 2)]
    path.write_bytes(whole[:-1] + b"!")
    assert replayed(path) == [("a", 1), ("b", 2)]


def test_damage_elsewhere_is_refused_and_nothing_is_changed_or_delivered(path):
    interrupted(path, ("a", 1), ("b", 2), ("c", 3))
    whole = path.read_bytes()
    last = len(whole) - 21 - len(Encoding().dumps("c", 3))
    store = MemoryStore()
    for at in range(last):
        damaged = whole[:at] + bytes([whole[at] ^ 0x55]) + whole[at + 1 :]
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match="journal"):
            WriteBehind(Cache(), store, journal=path)
        assert path.read_bytes() == damaged
    assert store.calls == []


@pytest.mark.parametrize(
    "content", [b"hello", b"x" * 1000, b"SQLite format 3\0" + b"\0" * 100, b"\0" * 100], ids=range(4)
)
def test_a_foreign_file_is_refused_by_name_and_left_alone(path, content):
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"journal'.*not a journal"):
        WriteBehind(Cache(), MemoryStore(), journal=path)
    assert path.read_bytes() == content


def test_an_empty_file_is_a_new_journal_and_so_is_a_header_that_was_being_written(path):
    for content in (b"", b"\x93Cache"):
        path.write_bytes(content)
        with WriteBehind(Cache(), MemoryStore(), journal=path) as behind:
            behind.set("a", 1)
            assert behind.flush()


def test_one_at_a_time(path):
    with WriteBehind(Cache(), MemoryStore(), journal=path):
        with pytest.raises(RuntimeError, match="open already"):
            WriteBehind(Cache(), MemoryStore(), journal=path)
        code = "import sys; from cachebox.strategies.journal import *; Journal(sys.argv[1], Encoding(), 'process')"
        done = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True, timeout=60)
        assert done.returncode == 1 and "open already" in done.stderr
    WriteBehind(Cache(), MemoryStore(), journal=path).close()


def test_a_closed_journal_can_be_opened_while_the_disk_still_takes_it(path, monkeypatch):
    fsync, entered, go_on = os.fsync, threading.Event(), threading.Event()

    def slow(file):
        if threading.current_thread().name == "cachebox-journal":
            entered.set()
            go_on.wait(60)
        fsync(file)

    monkeypatch.setattr(journals, "SYNC_EVERY", 0.0)
    monkeypatch.setattr(journals.os, "fsync", slow)
    try:
        behind = WriteBehind(Cache(), MemoryStore(), journal=path)
        behind.set("a", 1)
        assert entered.wait(60) and behind.close() is True
        WriteBehind(Cache(), MemoryStore(), journal=path).close()
    finally:
        go_on.set()


def test_a_full_disk_refuses_the_write_and_leaves_no_trace(path, monkeypatch):
    store, cache = MemoryStore(), Cache()
    behind = WriteBehind(cache, store, journal=path, max_delay=NEVER)
    behind.set("a", 1)
    size = os.path.getsize(path)
    write = os.write

    def full(file, data):
        write(file, data[:5])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(journals.os, "write", full)
    with pytest.raises(OSError, match="space"):
        behind.set("b", 2)
    monkeypatch.undo()
    assert os.path.getsize(path) == size and "b" not in cache and behind.pending == 1
    behind.set("c", 3)
    assert behind.close() and store.values == {"a": 1, "c": 3}


@must_end
def test_the_file_is_rewritten_when_most_of_it_is_of_no_use(path, monkeypatch):
    monkeypatch.setattr(journals, "COMPACT_AT", 2000)
    store = MemoryStore()
    with WriteBehind(Cache(), store, journal=path, max_delay=NEVER, batch_size=2) as behind:
        for n in range(200):
            behind.set("hot", n)
        behind.set("other", 1)
        wait_until(lambda: behind.pending == 0)
        for n in range(200):
            behind.set("hot", n)
        gate = store.fault = Gate()
        behind.set("other", 2)
        wait_for(gate.entered)
        behind.set("third", 3)
        assert os.path.getsize(path) > 2000
        behind._journal.compact()
        assert os.path.getsize(path) < 300
        with pytest.raises(RuntimeError, match="open already"):
            Journal(path, Encoding(), "process")
        copy = path.with_name("copy")
        copy.write_bytes(path.read_bytes())
        assert replayed(copy) == [("hot", 199), ("other", 2), ("third", 3)]
        gate.open.set()
    assert store.values == {"hot": 199, "other": 2, "third": 3}


@must_end
@pytest.mark.parametrize("then", ["set", "delete"])
def test_a_write_that_failed_while_a_newer_one_came_is_not_replayed_over_that(path, then):
    """An outage, and a newer write during it: the journal is done with the older write when the store has the newer."""
    store, gate = MemoryStore(), Gate()

    def fault(call, keys):
        gate(call, keys)
        if len(store.calls) == 1:
            raise OSError("down")

    store.fault = fault
    with WriteBehind(Cache(), store, journal=path, max_delay=0.0, backoff=0.001) as behind:
        behind.set("a", 1)
        wait_for(gate.entered)
        behind.set("a", 2) if then == "set" else behind.delete("a")
        gate.open.set()
        assert behind.flush() is True and store.values == ({"a": 2} if then == "set" else {})
        assert os.path.getsize(path) == HEADER          # the store has everything
        later = store.fault = Gate()
        behind.set("b", 1)
        wait_for(later.entered)
        behind._journal.compact()
        copy = path.with_name("copy")
        copy.write_bytes(path.read_bytes())
        assert replayed(copy) == [("b", 1)]
        later.open.set()


@pytest.mark.parametrize("at", ["before", "after"])
def test_a_write_that_the_disk_refuses_leaves_the_older_one_of_its_key(path, monkeypatch, at):
    """The older write was accepted, so it is replayed, although a refused one came after it."""
    behind = WriteBehind(Cache(), MemoryStore(), journal=path, durability="power", max_delay=NEVER)
    behind.set("a", 1)
    fsync = os.fsync

    def fail(file):
        if at == "after":
            fsync(file)
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(journals.os, "fsync", fail)
    with pytest.raises(OSError, match="Input"):
        behind.set("a", 2)
    monkeypatch.undo()
    copy = path.with_name("copy")
    copy.write_bytes(path.read_bytes())
    assert replayed(copy) == [("a", 1)]
    behind.set("a", 3)
    copy.write_bytes(path.read_bytes())
    assert replayed(copy) == [("a", 3)] and behind.close()


@pytest.mark.parametrize("seed", range(10))
def test_what_a_journal_gives_back_is_what_was_accepted_and_is_not_done(path, seed):
    """Random appends, ends, withdrawals and rewritings next to a model: a list of the live writes of every key."""
    chance = random.Random(seed)
    journal = Journal(path, Encoding(), "process")
    model: dict[str, list[tuple[int, object]]] = {}
    for n in range(150):
        key = chance.choice("abcd")
        writes = model.setdefault(key, [])
        step = chance.random()
        if step < 0.5 or not writes:
            value = MISSING if chance.random() < 0.2 else n
            number = journal.append(journal.encode(key, value), value is MISSING)
            if chance.random() < 0.2:
                journal.take_back(number)
            else:
                writes.append((number, value))
        elif step < 0.7:                        # the store has a write, which stands for all before it
            end = chance.randrange(len(writes)) + 1
            journal.done([number for number, _ in writes[:end]])
            del writes[:end]
        elif step < 0.95:
            journal.drop([number for number, _ in writes[:-1]])
            del writes[:-1]
        else:
            journal.compact()
    journal.close()
    assert dict(replayed(path)) == {key: writes[-1][1] for key, writes in model.items() if writes}


@must_end
@pytest.mark.parametrize("seed", range(5))
def test_journal_and_store_together_have_the_newest_of_every_key_at_any_moment(path, monkeypatch, seed):
    """A store that fails at random, exceptions in the delivering thread, and a copy of the file at random moments."""
    monkeypatch.setattr(journals, "COMPACT_AT", 300)
    monkeypatch.setattr("sys.unraisablehook", lambda args: None)
    chance, faults = random.Random(seed), random.Random(seed)
    store, newest = MemoryStore(), {}

    def fault(call, keys):
        if call != "load" and faults.random() < 0.4:
            raise OSError("down")

    store.fault = fault
    behind = WriteBehind(
        Cache(5), store, journal=path, max_delay=0.0, batch_size=3, backoff=0.0001, max_backoff=0.001, max_queue=8
    )
    copy = path.with_name("copy")
    for n in range(400):
        key = f"key {chance.randrange(6)}"
        if chance.random() < 0.2:
            newest.pop(key, None)
            behind.delete(key)
        else:
            newest[key] = n
            behind.set(key, n)
        if chance.random() < 0.2 and behind._backlog.thread is not None:
            raise_in(behind._backlog.thread, MemoryError)
        if chance.random() < 0.1:
            copy.write_bytes(path.read_bytes())
            after = dict(store.values)
            for written, value in replayed(copy):
                after.pop(written, None) if value is MISSING else after.update({written: value})
            assert after == newest
    assert behind.close() is True and store.values == newest
    assert os.path.getsize(path) == HEADER and replayed(path) == []


@must_end
def test_at_the_level_of_power_the_disk_has_it_before_set_returns(path, monkeypatch):
    synced = []
    fsync = os.fsync
    monkeypatch.setattr(journals.os, "fsync", lambda file: (fsync(file), synced.append(os.fstat(file).st_size))[0])
    with WriteBehind(Cache(), MemoryStore(), journal=path, max_delay=NEVER, durability="power") as behind:
        for n in range(3):
            behind.set(n, n)
            assert synced[-1] == os.path.getsize(path)
        run_all(*[lambda n=n: behind.set(n, n) for n in range(8)])
        assert synced[-1] == os.path.getsize(path)


@must_end
def test_at_the_level_of_a_process_the_disk_has_it_soon(path, monkeypatch):
    synced = []
    fsync = os.fsync
    monkeypatch.setattr(journals, "SYNC_EVERY", 0.01)
    monkeypatch.setattr(journals.os, "fsync", lambda file: (fsync(file), synced.append(os.fstat(file).st_size))[0])
    with WriteBehind(Cache(), MemoryStore(), journal=path, max_delay=NEVER) as behind:
        behind.set("a", 1)
        size = os.path.getsize(path)
        wait_until(lambda: size in synced)


@must_end
def test_a_dead_letter_stays_in_the_journal_until_it_is_given_up_or_written_anew(path):
    store = MemoryStore()
    store.fault = down
    for callback in (None, lambda *letter: None):
        with WriteBehind(Cache(), store, journal=path, retries=0, on_dead_letter=callback) as behind:
            behind.set("a", 1)
            assert behind.flush() is False
        assert replayed(path) == [("a", 1)]
    with WriteBehind(Cache(), store, journal=path, retries=0) as behind:
        assert behind.flush() is False and [letter[:2] for letter in behind.discard_dead_letters()] == [("a", 1)]
        assert behind.flush() is True and behind.dead_letters == [] and os.path.getsize(path) == HEADER
        behind.set("b", 1)
        assert behind.flush() is False
        store.fault = lambda call, keys: None
        behind.set("b", 2)
        assert behind.flush() is True and os.path.getsize(path) == HEADER
    assert store.values == {"b": 2} and replayed(path) == []


# --- kill -9 at any moment --------------------------------------------------------------------------------------------

CHILD = textwrap.dedent(
    """
    import os, random, sys
    from cachebox import Cache, WriteBehind
    from cachebox.strategies import SQLiteStore, journal
    journal.COMPACT_AT = 3000
    folder, seed = sys.argv[1], int(sys.argv[2])
    chance = random.Random(seed)
    behind = WriteBehind(
        Cache(20), SQLiteStore(f"{folder}/store.db"), journal=f"{folder}/journal",
        batch_size=chance.choice([1, 7, 50]), max_delay=chance.choice([0, 0.001, 0.02]), max_queue=60,
    )
    accepted = os.open(f"{folder}/accepted", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    start = int(sys.argv[3])
    print("ready", flush=True)
    for n in range(start, start + 1_000_000):
        key = f"key {chance.randrange(40)}"
        if chance.random() < 0.1:
            behind.delete(key)
            os.write(accepted, f'["{key}", null, {n}]\\n'.encode())
        else:
            behind.set(key, n)
            os.write(accepted, f'["{key}", {n}, {n}]\\n'.encode())
    """
)


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="this system has no SIGKILL")
@pytest.mark.parametrize("rounds", [12, pytest.param(200, marks=pytest.mark.slow)])
def test_no_accepted_write_is_lost_by_kill_9(tmp_path, rounds):
    """A child accepts writes and notes each when it was accepted; it is killed at a random moment, again and again.

    After each restart the store must hold, for each key, the last write that was noted, or the one that was under way.
    """
    moment = random.Random(rounds)
    last = {}
    duplicates = start = 0
    for seed in range(rounds):
        command = [sys.executable, "-c", CHILD, str(tmp_path), str(seed), str(start)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as child:
            assert child.stdout.readline() == "ready\n", child.stderr.read()
            try:
                child.wait(moment.uniform(0, 0.12))         # wherever the child happens to be then
            except subprocess.TimeoutExpired:
                pass
            child.kill()
        noted = (tmp_path / "accepted").read_bytes().split(b"\n")[:-1]
        (tmp_path / "accepted").write_bytes(b"")
        for line in noted:
            key, value, n = json.loads(line)
            assert n == start
            last[key] = value
            start += 1
        with (
            SQLiteStore(tmp_path / "store.db") as store,
            WriteBehind(Cache(), store, journal=tmp_path / "journal") as behind,
        ):
            replayed_now = {write.key: write.value for write in behind._queue.make_all_due(time.monotonic())}
            before = store.load_many(list(replayed_now))
            duplicates += sum(before.get(key, MISSING) == value for key, value in replayed_now.items())
            assert behind.flush() is True
            stored = store.load_many([f"key {n}" for n in range(40)])
        there = {key: value for key, value in last.items() if value is not None}
        key, value = operation_of_child(seed, start - len(noted), start)
        if stored != there:         # then the last write was accepted, but the child did not come to note it
            last[key] = value
            there = {key: value for key, value in last.items() if value is not None}
        assert stored == there
        start += 1
    assert start > 10 * rounds
    print(f"{rounds} kills, {start} writes, {duplicates} of the replayed ones were in the store already")


def operation_of_child(seed, first, wanted):
    """The write of the child with the number `wanted`, if it began with `first`."""
    chance = random.Random(seed)
    chance.choice([1, 7, 50]), chance.choice([0, 0.001, 0.02])
    for n in range(first, wanted + 1):
        key = f"key {chance.randrange(40)}"
        value = None if chance.random() < 0.1 else n
    return key, value
