"""A journal and what interrupts it: finalizers, exceptions that come from outside, keys that cannot be compared."""

from __future__ import annotations

import os
import pickle

import pytest

import cachebox.strategies.journal as journals
from cachebox import Cache, WriteBehind
from in_threads import Started, must_end, wait_for, wait_until
from stores import Gate, MemoryStore

NEVER = 3600.0


@pytest.fixture
def path(tmp_path):
    return tmp_path / "journal"


def replayed(path, **options):
    """What another process would deliver from a copy of the file."""
    copy = path.with_name("copy")
    copy.write_bytes(path.read_bytes())
    encoding = journals.Encoding(options.get("serializer", "json"), options.get("secret"))
    journal = journals.Journal(copy, encoding, "process")
    journal.close()
    return {key: value for _, key, value in journal.replayed}


def opened(path, durability="process", **options):
    return WriteBehind(Cache(), MemoryStore(), journal=path, durability=durability, max_delay=NEVER, **options)


@must_end
@pytest.mark.parametrize("at", ["create_sibling", "replace"])
def test_what_a_finalizer_writes_while_a_journal_is_rewritten_stays_in_it(path, monkeypatch, at):
    behind = opened(path)
    behind.set("a", 1)
    journal = behind._journal
    where, name = (journals, at) if at == "create_sibling" else (journals.os, at)
    original, written = getattr(where, name), []

    def in_between(*arguments):
        result = original(*arguments)
        if not written:
            written.append(1)
            behind.set("b", 2)
        return result

    monkeypatch.setattr(where, name, in_between)
    with behind._backlog._lock:
        journal.compact()
    monkeypatch.undo()
    assert written and replayed(path) == {"a": 1, "b": 2}
    behind.set("c", 3)
    with behind._backlog._lock:
        journal.compact()
    assert replayed(path) == {"a": 1, "b": 2, "c": 3} and behind.close()


@must_end
@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError])
@pytest.mark.parametrize("at", ["_accept_if_there_is_room", "_wait_for_disk"])
def test_a_write_that_is_interrupted_on_its_way_to_the_disk_is_withdrawn(path, at, error):
    behind = opened(path, "power")
    behind.set("n", 1)
    backlog, original = behind._backlog, getattr(behind._backlog, at)

    def interrupted(*arguments):
        if at == "_accept_if_there_is_room":
            original(*arguments)
        raise error

    setattr(backlog, at, interrupted)
    with pytest.raises(error):
        behind.set("n", 5)
    setattr(backlog, at, original)
    assert behind.increment("n") == 2 and replayed(path) == {"n": 2}
    assert not backlog._unsynced and not backlog.unfinished and behind.close() and behind.store.values == {"n": 2}


class Touchy:
    """A key that may raise when it is compared."""

    raises = False

    def __init__(self, name):
        self.name = name

    def __hash__(self):
        return 7

    def __eq__(self, other):
        if Touchy.raises:
            raise ValueError("this cannot be compared")
        return isinstance(other, Touchy) and other.name == self.name


@must_end
def test_a_key_that_cannot_be_compared_does_not_keep_other_writes_from_the_disk(path):
    behind = opened(path, "power", serializer=pickle, secret="s")
    behind.set(Touchy("a"), 1)
    behind.set(Touchy("b"), 1)
    sync, gate = behind._journal.sync, Gate()

    def slow_sync():
        behind._journal.sync = sync
        gate("sync", ())
        sync()

    behind._journal.sync = slow_sync
    touchy = Started(behind.set, Touchy("c"), 2)
    wait_for(gate.entered)
    Touchy.raises = True
    try:
        behind.set("n", 1)                      # brings both to the disk
        gate.open.set()
        with pytest.raises(ValueError, match="compared"):
            touchy.result()
    finally:
        Touchy.raises = False
    behind.set("n", 2)
    assert behind.increment("n") == 3 and not behind._backlog._unsynced
    assert len(replayed(path, serializer=pickle, secret="s")) == 3
    assert behind.close() and len(behind.store.values) == 3


@must_end
def test_a_made_value_is_written_if_the_disk_refuses_the_write_that_came_before_it(path, monkeypatch):
    behind = opened(path, "power")
    journal, gate, sync = behind._journal, Gate(), behind._journal.sync

    def refused():
        journal.sync = sync
        gate("sync", ())
        raise OSError(5, "Input/output error")

    writers = []

    def make():
        journal.sync = refused
        writers.append(Started(behind.set, "a", 1))
        wait_for(gate.entered)
        return 2

    is_promised = behind._backlog._is_promised

    def promised(key):
        if is_promised(key):
            gate.open.set()
        return is_promised(key)

    behind._backlog._is_promised = promised
    assert behind.get_or_set("a", make) == 2
    with pytest.raises(OSError, match="Input"):
        writers[0].result()
    assert behind.get("a") == 2 and replayed(path) == {"a": 2}
    assert behind.close() and behind.store.values == {"a": 2}


@must_end
def test_what_was_not_accepted_and_could_not_be_recorded_is_recorded_at_the_end(path, monkeypatch):
    behind = opened(path, "power")
    behind.set("a", 1)
    behind._backlog._delivery.store.save = lambda key, value: 1 / 0

    def fail(*arguments):
        raise OSError(5, "Input/output error")

    def refused():
        monkeypatch.setattr(journals.os, "write", fail)
        fail()

    monkeypatch.setattr(behind._journal, "sync", refused)
    with pytest.raises(OSError, match="Input"):
        behind.set("a", 2)
    monkeypatch.undo()
    assert behind.close(0.0) is False
    wait_until(lambda: behind._journal._file < 0)       # its thread may be the one that closes it
    assert replayed(path) == {"a": 1}


@must_end
def test_a_write_in_the_middle_of_another_one_of_its_key_is_not_replayed_over_it(path):
    """It stands later in the file, but the other one is the newest."""
    behind = opened(path)
    queue = behind._queue
    accept, inner = queue.accept, []

    def accepting(key, value, *arguments):
        if not inner:
            inner.append(1)
            behind.set("a", 2)                  # as a finalizer would
        return accept(key, value, *arguments)

    queue.accept = accepting
    behind.set("a", 1)
    queue.accept = accept
    assert behind.get("a") == 1 and not behind._backlog.unfinished
    behind.store.fault = lambda call, keys: 1 / 0 if keys == ["b"] and call == "save" else None
    behind.set("b", 1)
    behind.flush(0.2)
    assert behind.store.values == {"a": 1} and replayed(path) == {"b": 1}
    behind.store.fault = lambda call, keys: None
    assert behind.close() and os.path.getsize(path) == journals._HEADER.size
