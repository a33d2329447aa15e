"""A store that is down, or refuses some writes: nothing accepted is lost, and nothing is hidden."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import subprocess
import sys
import textwrap
import threading
import time

import pytest

from cachebox import MISSING, Cache, WriteBehind
from cachebox.strategies import AsyncWriteBehind, SQLiteStore, delivering
from cachebox.strategies.delivery import PROBES, Delivery
from cachebox.strategies.store import Store
from cachebox.strategies.until import Until
from cachebox.strategies.write_queue import Write, WriteQueue
from in_threads import Started, must_end, run_all, wait_for, wait_until
from stores import BulkStore, Gate, MemoryStore

NEVER = 3600.0


@pytest.fixture(params=[MemoryStore, BulkStore])
def store(request):
    return request.param()


class Switch:
    """A fault that can be turned on and off: the store is down for all, or for some keys."""

    def __init__(self, *keys, error=None):
        self.is_on = True
        self.keys = set(keys)
        self.error = error or OSError("database is down")

    def __call__(self, call, keys):
        if self.is_on and call != "load" and (not self.keys or self.keys & set(keys)):
            raise self.error


@pytest.fixture
def quick():
    """Options with which a test need not wait for pauses."""
    return {"max_delay": 0.0, "backoff": 0.001, "max_backoff": 0.01}


# --- a store that is down ---------------------------------------------------------------------------------------------

@must_end
def test_nothing_is_lost_however_often_the_store_has_failed(store, quick):
    switch = store.fault = Switch()
    with WriteBehind(Cache(), store, **quick) as behind:
        for n in range(150):
            behind.set(n % 50, n)
        behind.delete("gone")
        wait_until(lambda: len(store.calls) > 40)
        assert behind.pending == 51 and store.values == {} and behind.dead_letters == []
        assert behind.get(7) == 107 and behind.get("gone", "none") == "none"
        switch.is_on = False
        assert behind.flush() is True and behind.pending == 0
    assert store.values == {n: 100 + n for n in range(50)}


@must_end
def test_pauses_grow_and_a_flush_does_not_wait_for_their_end(store):
    switch = store.fault = Switch()
    with WriteBehind(Cache(), store, max_delay=0.0, backoff=NEVER, max_backoff=NEVER) as behind:
        behind.set("a", 1)
        wait_until(lambda: store.calls)
        switch.is_on = False
        assert behind.pending == 1
        assert behind.flush() is True and store.values == {"a": 1} and len(store.saved("a")) == 2


def test_a_store_that_seems_down_is_not_asked_for_every_write():
    """Without threads or time: a first batch is tried together, then a few writes alone; later rounds only these."""
    store = BulkStore()
    switch = store.fault = Switch()
    writes = [Write(n, n, n + 1, 0.0, 0) for n in range(100)]
    settled = []
    delivery = Delivery(Store(store, False), settled.extend)
    assert {failed.write for failed in delivery.deliver(writes)} == set(writes) and len(store.calls) == 1 + PROBES
    tried = set()
    for n in range(1000):
        before = len(store.calls)
        assert len(delivery.deliver(writes)) == 100 and len(store.calls) == before + PROBES
        assert delivery.fruitless == n + 2
        tried |= {call[1] for call in store.calls[before:]}
    assert tried == set(range(100))             # chance misses one of them once in 100 billion times
    switch.is_on = False
    before = len(store.calls)
    assert delivery.deliver(writes) == [] and len(store.calls) == before + 2 and delivery.fruitless == 0
    assert set(settled) == set(writes)


@must_end
def test_what_is_written_again_meanwhile_takes_the_older_ones_place(store, quick):
    switch = store.fault = Switch()
    with WriteBehind(Cache(), store, **{**quick, "max_delay": NEVER}) as behind:
        behind.set("a", 1)
        behind.set("b", 1)
        flushing = Started(behind.flush)
        wait_until(lambda: len(store.calls) > 5)
        behind.set("a", 2)                      # nothing else would send it within an hour
        behind.delete("b")
        switch.is_on = False
        assert flushing.result() is True and store.values == {"a": 2} and behind.pending == 0


@must_end
def test_a_newer_write_that_came_while_the_older_one_was_failing(store, quick):
    """The older one is on its way when the newer one is accepted; then it fails."""
    gate = Gate()
    failing = [True]

    def fault(call, keys):
        gate(call, keys)
        if failing[0]:
            raise OSError

    store.fault = fault
    with WriteBehind(Cache(), store, **{**quick, "max_delay": NEVER}) as behind:
        behind.set("a", 1)
        flushing = Started(behind.flush)
        wait_for(gate.entered)
        behind.set("a", 2)
        gate.open.set()
        wait_until(lambda: store.saved("a")[-1] == 2)
        assert behind.pending == 1 and behind.get("a") == 2
        failing[0] = False
        assert flushing.result() is True and store.values == {"a": 2}
    assert store.saved("a").index(2) == store.saved("a").count(1)


@must_end
def test_the_log_says_once_that_it_began_and_once_that_it_is_over(store, quick, caplog):
    switch = store.fault = Switch(error=OSError("database is down"))
    with WriteBehind(Cache(), store, **quick) as behind:
        for n in range(2):
            switch.is_on = True
            for k in range(20):
                behind.set(f"key {k}", f"value {k}")
            wait_until(lambda: len(store.calls) > 100 * (n + 1))
            assert len(caplog.records) == 2 * n + 1
            switch.is_on = False
            assert behind.flush() is True
            wait_until(lambda: len(caplog.records) == 2 * n + 2)
    assert {(record.name, record.levelno) for record in caplog.records} == {("cachebox", logging.WARNING)}
    assert [("down" in record.message, "again" in record.message) for record in caplog.records] == [
        (True, True),
        (False, True),
    ] * 2
    assert "key 1" not in caplog.text and "value" not in caplog.text


@must_end
def test_a_log_handler_that_raises_or_writes_stops_nothing(store, quick, monkeypatch):
    reported = []
    monkeypatch.setattr(sys, "unraisablehook", lambda args: reported.append(args.exc_value))

    class Handler(logging.Handler):
        def handle(self, record):
            Started(behind.set, "from the handler", 1).result()     # no lock of ours is held
            raise LookupError("the log is full")

    handler = Handler()
    logging.getLogger("cachebox").addHandler(handler)
    try:
        switch = store.fault = Switch()
        with WriteBehind(Cache(), store, **quick) as behind:
            behind.set("a", 1)
            wait_until(lambda: reported)
            switch.is_on = False
            assert behind.flush() is True
        assert store.values == {"a": 1, "from the handler": 1}
        assert LookupError in {type(error) for error in reported} <= {LookupError, RuntimeError}    # it may be closed
    finally:
        logging.getLogger("cachebox").removeHandler(handler)


@must_end
def test_a_full_queue_waits_for_the_end_of_the_outage(store, quick):
    switch = store.fault = Switch()
    with WriteBehind(Cache(), store, max_queue=3, **quick) as behind:
        for n in range(3):
            behind.set(n, n)
        waiting = [Started(behind.set, n, n) for n in range(3, 8)]
        wait_until(lambda: behind._backlog.blocked_writers == 5)
        behind.set(1, "newer")                  # which takes no more room
        switch.is_on = False
        for one in waiting:
            one.result()
    assert store.values == {**{n: n for n in range(8)}, 1: "newer"}


@must_end
def test_close_gives_up_at_its_timeout_and_a_journal_has_the_rest(store, quick, tmp_path):
    store.fault = Switch()
    behind = WriteBehind(Cache(), store, journal=tmp_path / "journal", **quick)
    behind.set("a", 1)
    assert behind.close(0.05) is False
    wait_until(lambda: not behind._backlog._is_served())
    store.fault = lambda call, keys: None
    with WriteBehind(Cache(), store, journal=tmp_path / "journal") as behind:
        assert behind.flush() is True and store.values == {"a": 1}


def test_the_end_of_a_process_says_what_it_could_not_deliver(tmp_path):
    code = """
        import sys
        from cachebox import Cache, WriteBehind
        class Down:
            def save(self, key, value):
                raise OSError("down")
        behind = WriteBehind(Cache(), Down(), exit_timeout=0.2, journal=sys.argv[1] if len(sys.argv) > 1 else None)
        behind.set("a", 1)
        behind.set("b", 1)
    """
    for arguments, expected in (([], "2 writes: they are lost"), ([tmp_path / "j"], "writes: they are in the journal")):
        done = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(code), *arguments], capture_output=True, text=True, timeout=60
        )
        assert done.returncode == 0 and expected in done.stderr, done.stderr


# --- a store that refuses some writes ---------------------------------------------------------------------------------

@must_end
@pytest.mark.parametrize("bad", [("bad",), ("bad", "worse", "worst"), tuple(f"bad {n}" for n in range(30))])
def test_what_the_store_refuses_holds_up_nothing_else(store, quick, bad):
    store.fault = Switch(*bad, error=ValueError("no"))
    behind = WriteBehind(Cache(), store, **quick)
    behind.set_many({**dict.fromkeys(bad, 1), **{n: n for n in range(30)}})
    wait_until(lambda: set(store.values) == set(range(30)))
    for n in range(30, 40):                     # nor a later write
        behind.set(n, n)
        wait_until(lambda: n in store.values)
    assert behind.pending == len(bad) and behind.flush(0.01) is False
    store.fault.is_on = False
    assert behind.flush() is True and behind.close() and set(bad) <= set(store.values)


@must_end
def test_a_refused_write_is_told_from_an_outage(store, quick, caplog):
    """A write that failed before and after others got through is sent alone from then on; the log says so once."""
    switch = store.fault = Switch("bad", error=ValueError("no"))
    with WriteBehind(Cache(), store, **quick) as behind:
        behind.set("bad", 1)
        for n in range(30):
            behind.set(n, n)
            wait_until(lambda: n in store.values)
        wait_until(lambda: behind._queue.pending["bad"].alone)
        wait_until(lambda: any("refuses" in record.message for record in caplog.records))
        before = len(store.saved("bad"))
        said = len(caplog.records)
        wait_until(lambda: len(store.saved("bad")) > before + 5)
        assert len(caplog.records) == said
        switch.is_on = False
        assert behind.flush() is True
        wait_until(lambda: len(caplog.records) == said + 1)


@must_end
def test_a_value_that_the_store_takes_replaces_one_that_it_refuses(store, quick):
    def picky(call, keys):
        if call == "save" and store.calls[-1][2] == "bad":
            raise ValueError
        if call == "save_many" and "bad" in store.calls[-1][1].values():
            raise ValueError

    store.fault = picky
    with WriteBehind(Cache(), store, **quick) as behind:
        behind.set_many({"a": "bad", "b": 1})
        wait_until(lambda: len(store.saved("a")) > 3)
        behind.set("a", "good")
        assert behind.flush() is True and store.values == {"a": "good", "b": 1}


@must_end
@pytest.mark.parametrize("retries", [0, 1, 4])
def test_a_number_of_retries_is_kept_for_each_write(store, quick, retries):
    store.fault = Switch("bad", error=ValueError("no"))
    letters = []
    with WriteBehind(
        Cache(), store, retries=retries, on_dead_letter=lambda *letter: letters.append(letter), **quick
    ) as behind:
        behind.set("bad", 1)
        assert behind.flush() is False and len(store.saved("bad")) == retries + 1
        behind.set_many({n: n for n in range(20)})
        behind.delete("bad")
        assert behind.flush() is False
        assert store.values == {n: n for n in range(20)}
        assert [letter[:2] for letter in letters] == [("bad", 1), ("bad", MISSING)]
        assert [letter[:2] for letter in behind.dead_letters] == [("bad", MISSING)] and behind.pending == 0


@must_end
def test_no_write_is_a_dead_letter_because_of_another(store, quick):
    """With a number of retries, each is tried alone before it is given up."""
    store.fault = Switch(*range(0, 60, 2), error=ValueError("no"))
    with WriteBehind(Cache(), store, retries=1, **quick) as behind:
        behind.set_many({n: n for n in range(60)})
        assert behind.flush() is False
        assert sorted(letter.key for letter in behind.dead_letters) == list(range(0, 60, 2))
    assert set(store.values) == set(range(1, 60, 2))


# --- dead letters -----------------------------------------------------------------------------------------------------

def refused(store, quick, **options):
    """A write-behind with three dead letters."""
    store.fault = Switch()
    behind = WriteBehind(Cache(), store, retries=0, **{**quick, **options})
    behind.set("a", 1)
    behind.set("b", [2])
    behind.delete("c")
    assert behind.flush() is False
    assert [letter[:2] for letter in behind.dead_letters] == [("a", 1), ("b", [2]), ("c", MISSING)]
    assert [str(letter.error) for letter in behind.dead_letters] == ["database is down"] * 3
    return behind


@must_end
def test_dead_letters_can_be_accepted_anew(store, quick):
    behind = refused(store, quick)
    store.values["c"] = 3
    assert behind.retry_dead_letters() == 3 and behind.flush() is False     # it is down still
    assert len(behind.dead_letters) == 3
    store.fault.is_on = False
    assert behind.flush() is False              # they are dead until the user asks
    assert behind.retry_dead_letters() == 3 and behind.flush() is True and behind.dead_letters == []
    assert store.values == {"a": 1, "b": [2]} and behind.retry_dead_letters() == 0
    assert behind.close() is True
    with pytest.raises(RuntimeError, match="closed"):
        behind.retry_dead_letters()


@must_end
def test_a_dead_letter_is_not_accepted_over_a_newer_write(store, quick):
    behind = refused(store, {**quick, "max_delay": NEVER})
    store.fault.is_on = False
    behind.set("a", "newer")
    behind.delete("b")
    assert [letter.key for letter in behind.dead_letters] == ["c"]
    assert behind.retry_dead_letters() == 1 and behind.flush() is True
    assert store.values == {"a": "newer"} and behind.get("a") == "newer" and behind.get("b") is None
    assert behind.close() is True


@must_end
def test_what_the_cache_loaded_meanwhile_is_forgotten_when_a_letter_is_tried_again(store, quick):
    behind = refused(store, quick)
    store.values["a"] = "old"
    behind.cache.clear()
    assert behind.get("a") == "old"
    store.fault.is_on = False
    behind.retry_dead_letters()
    assert behind.flush() is True and behind.get("a") == 1
    behind.close()


@must_end
def test_dead_letters_can_be_given_up(store, quick):
    behind = refused(store, quick)
    assert [letter.key for letter in behind.discard_dead_letters()] == ["a", "b", "c"]
    assert behind.dead_letters == [] and behind.flush() is True and behind.close() is True
    assert store.values == {}


@must_end
def test_a_callback_may_look_at_the_letters_and_try_them_again(store, quick):
    seen = []

    def look(key, value, error):
        seen.append([letter.key for letter in behind.dead_letters])
        if len(seen) == 3:
            store.fault.is_on = False
        behind.retry_dead_letters()

    store.fault = Switch()
    with WriteBehind(Cache(), store, retries=0, on_dead_letter=look, **quick) as behind:
        behind.set("a", 1)
        wait_until(lambda: store.values == {"a": 1})
        assert behind.flush() is True
    assert seen == [["a"]] * 3


@must_end
def test_threads_that_write_retry_and_flush_lose_nothing(store, quick):
    """Whatever is refused at times: in the end, when the store takes all, it has the newest value of every key."""
    turn = threading.Lock()
    calls = [0]

    def moody(call, keys):
        with turn:
            calls[0] += 1
            if call != "load" and calls[0] % 3:
                raise OSError

    store.fault = moody
    behind = WriteBehind(Cache(4), store, retries=1, batch_size=4, **quick)

    def work(n):
        for step in range(60):
            behind.set((n, step % 5), step)
            if step % 7 == 0:
                behind.retry_dead_letters()
            if step % 11 == 0:
                behind.flush(0.001)

    run_all(*[lambda n=n: work(n) for n in range(4)])
    store.fault = lambda call, keys: None
    while not behind.flush():                   # the write that was on its way then may be a dead letter still
        behind.retry_dead_letters()
    assert behind.close() is True
    assert store.values == {(n, k): 55 + k for n in range(4) for k in range(5)}


# --- a real store that is killed and started again --------------------------------------------------------------------

SERVER = """
import json, socket, sys
from cachebox.strategies import SQLiteStore
store = SQLiteStore(sys.argv[1])
listening = socket.create_server(("127.0.0.1", int(sys.argv[2])))
print(listening.getsockname()[1], flush=True)
while True:
    connection, _ = listening.accept()
    with connection, connection.makefile("rwb") as stream:
        for line in stream:
            store.save_many(dict(json.loads(line)))
            stream.write(b"ok\\n")
            stream.flush()
"""


class Server:
    """A process that keeps what it is sent, and can be killed."""

    def __init__(self, path):
        self.path = path
        self.port = 0
        self.start()

    def start(self):
        command = [sys.executable, "-c", SERVER, self.path, str(self.port)]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        self.port = int(self.process.stdout.readline())

    def kill(self):
        self.process.kill()
        self.process.wait(60)
        self.process.stdout.close()

    def save(self, key, value):
        self.save_many({key: value})

    def save_many(self, items):
        import json

        with socket.create_connection(("127.0.0.1", self.port), 10) as connection, connection.makefile("rwb") as stream:
            stream.write(json.dumps(list(items.items())).encode() + b"\n")
            stream.flush()
            if stream.readline() != b"ok\n":
                raise ConnectionError("it was killed in the middle")


@must_end
@pytest.mark.skipif(sys.platform == "win32", reason="there a port is not free again at once")
@pytest.mark.parametrize("journaled", [False, True])
def test_a_store_process_that_is_killed_and_started_again_has_everything(tmp_path, quick, journaled):
    server = Server(tmp_path / "store.db")
    options = {"journal": tmp_path / "journal"} if journaled else {}
    newest = {}
    with WriteBehind(Cache(10), server, batch_size=7, **options, **quick) as behind:
        for n in range(400):
            newest[f"key {n % 60}"] = n
            behind.set(f"key {n % 60}", n)
            if n in (80, 230):
                server.kill()
                behind.set("while it is down", n)
                wait_until(lambda: behind._backlog._down.is_on)
            if n in (150, 300):
                assert behind.pending > 0 and behind.get("while it is down") in (80, 230)
                server.start()
        assert behind.flush() is True
    server.kill()
    with SQLiteStore(tmp_path / "store.db") as kept:
        assert kept.load_many([*newest, "while it is down"]) == {**newest, "while it is down": 230}


# --- asyncio ----------------------------------------------------------------------------------------------------------

class Rows:
    """An asyncio store with a fault."""

    def __init__(self):
        self.values = {}
        self.fault = Switch()
        self.calls = 0

    async def load(self, key):
        return self.values[key]

    async def save(self, key, value):
        self.calls += 1
        await asyncio.sleep(0)
        self.fault("save", [key])
        self.values[key] = value


@must_end
def test_asyncio_rides_out_an_outage_and_has_dead_letters_too(quick, caplog):
    async def main():
        rows = Rows()
        async with AsyncWriteBehind(Cache(), rows, **quick) as behind:
            for n in range(20):
                await behind.set(n, n)
            while rows.calls < 10:
                await asyncio.sleep(0.001)
            assert behind.pending == 20 and rows.values == {} and await behind.get(3) == 3
            rows.fault.is_on = False
            assert await behind.flush() is True and rows.values == {n: n for n in range(20)}
        rows.fault.is_on = True
        async with AsyncWriteBehind(Cache(), rows, retries=1, **quick) as behind:
            await behind.set("a", 1)
            await behind.set("b", 1)
            assert await behind.flush() is False and [one.key for one in behind.dead_letters] == ["a", "b"]
            rows.fault.is_on = False
            await behind.set("a", 2)
            assert await behind.retry_dead_letters() == 1 and await behind.flush() is True
            assert rows.values["a"] == 2 and rows.values["b"] == 1 and behind.discard_dead_letters() == []
        assert [record.levelname for record in caplog.records].count("ERROR") == 2

    asyncio.run(main())


@must_end
def test_asyncio_what_was_pending_when_its_loop_ended_is_delivered_in_the_next(quick, monkeypatch):
    from cachebox.strategies import async_write_behind

    monkeypatch.setattr(async_write_behind, "LOOKS_EVERY", 0.01)
    rows = Rows()
    rows.fault.is_on = False
    behind = AsyncWriteBehind(Cache(), rows, **quick)

    async def begin():
        await behind.set("a", 1)
        rows.fault.is_on = True
        await behind.set("b", 1)

    asyncio.run(begin())
    wait_until(lambda: behind._backlog._down.is_on)
    rows.fault.is_on = False

    async def go_on():
        await behind.set("c", 1)
        assert await behind.flush() is True
        assert await behind.close() is True

    asyncio.run(go_on())
    assert rows.values == {"a": 1, "b": 1, "c": 1}


@must_end
@pytest.mark.parametrize("goes_on", [True, False])
def test_asyncio_a_loop_that_stands_still_does_not_hold_the_thread_for_ever(quick, monkeypatch, goes_on):
    from cachebox.strategies import async_write_behind

    monkeypatch.setattr(async_write_behind, "LOOKS_EVERY", 0.01)
    rows = Rows()
    rows.fault.is_on = False
    behind = AsyncWriteBehind(Cache(), rows, **quick)
    loop = asyncio.new_event_loop()

    async def begin():
        await behind.set("a", 1)
        while not rows.calls:
            await asyncio.sleep(0)

    loop.run_until_complete(begin())            # the loop stops in the middle of the store's call
    again = loop if goes_on else asyncio.new_event_loop()
    assert again.run_until_complete(behind.close()) is True and rows.values == {"a": 1}
    loop.run_until_complete(asyncio.sleep(0.001))
    loop.close(), again.close()


@must_end
def test_asyncio_who_is_cancelled_leaves_no_thread_behind_that_waits(quick):
    async def main():
        behind = AsyncWriteBehind(Cache(), Rows(), max_queue=1, **quick)
        await behind.set("a", 1)
        for wait in (behind.flush, lambda: behind.set("b", 1)):
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(wait(), 0.05)
        assert behind._backlog.unfinished == {}
        behind.store.fault.is_on = False
        assert await behind.close() is True and behind.store.values == {"a": 1}
        abandoned = AsyncWriteBehind(Cache(), Rows(), exit_timeout=0.0, **quick)
        await abandoned.set("a", 1)
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(abandoned.flush(), 0.05)
        return abandoned

    abandoned = asyncio.run(main())             # which waits for its threads
    assert abandoned.pending == 1
    abandoned._backlog.close(Until(0))


@must_end
def test_asyncio_a_load_of_a_loop_that_has_ended_holds_up_nobody():
    class Slow(Rows):
        async def load(self, key):
            if loads.append(key) or len(loads) == 1:
                await asyncio.Event().wait()
            return 1

    loads = []
    behind = AsyncWriteBehind(Cache(), Slow())

    async def leave():
        task = asyncio.ensure_future(behind.get("a"))
        while not loads:
            await asyncio.sleep(0)
        task.cancel()

    loop = asyncio.new_event_loop()
    loop.run_until_complete(leave())

    async def load_again():
        return await asyncio.wait_for(behind.get("a"), 60)

    assert asyncio.run(load_again()) == 1
    for task in asyncio.all_tasks(loop):
        task.cancel()
    loop.run_until_complete(asyncio.sleep(0))
    loop.close()
    asyncio.run(behind.close())


@must_end
def test_asyncio_a_cancelled_write_never_comes_after_a_later_one(tmp_path, monkeypatch):
    """With `durability="power"` it waits for the disk in a thread, which a cancellation does not end."""
    from cachebox.strategies import journal as journals

    on_the_way, go_on = threading.Event(), threading.Event()
    fsync = os.fsync

    def slow(file):
        on_the_way.set()
        wait_for(go_on)
        fsync(file)

    async def main():
        rows = Rows()
        rows.fault.is_on = False
        options = {"journal": tmp_path / "j", "durability": "power", "max_delay": NEVER}
        async with AsyncWriteBehind(Cache(), rows, **options) as behind:
            monkeypatch.setattr(journals.os, "fsync", slow)
            first = asyncio.ensure_future(behind.set("a", 1))
            while not on_the_way.is_set():
                await asyncio.sleep(0.001)
            first.cancel()
            await asyncio.sleep(0)
            assert not first.done()
            go_on.set()
            with pytest.raises(asyncio.CancelledError):
                await first
            await behind.set("a", 2)
            assert await behind.get("a") == 2 and await behind.flush() is True and rows.values == {"a": 2}

    asyncio.run(main())


# --- the queue by itself ----------------------------------------------------------------------------------------------

@pytest.mark.parametrize("failed_before", [False, True])
def test_a_write_that_was_taken_by_halves_goes_out_again(failed_before):
    """An exception has come between the two changes that put a write in flight."""
    queue = WriteQueue(10, 5.0, 100)
    write = queue.accept("a", 1, 0.0, ())
    if failed_before:
        queue.take(5.0)
        queue.put_back(write, 6.0)
    queue.in_flight["a"] = write
    for _ in range(2):                          # the second round comes after another exception
        queue.put_back(write, 7.0)
    assert not queue.in_flight and queue.due(6.0, False) == 1.0
    assert queue.take(7.0) == [write] and not queue.pending and queue.due(8.0, True) == float("inf")


def test_a_write_that_failed_waits_for_its_time_and_others_do_not():
    queue = WriteQueue(10, 5.0, 100)
    for key in "abc":
        queue.accept(key, 1, 0.0, ())
    assert queue.due(0.0, False) == 5.0 and [write.key for write in queue.take(5.0)] == ["a", "b", "c"]
    a, b, c = queue.in_flight.values()
    queue.put_back(a, 9.0)
    queue.put_back(b, 7.0)
    queue.settle(c, True)
    queue.accept("d", 1, 6.0, ())
    assert queue.due(6.0, False) == 1.0 and queue.due(6.0, True) == 0.0
    assert [write.key for write in queue.take(6.0)] == ["d"]
    assert [write.key for write in queue.take(7.0)] == ["b"] and queue.due(7.0, False) == 2.0
    queue.accept("b", 2, 7.0, ())                # while the first is on its way
    queue.put_back(b, 20.0)
    assert b.into is queue.pending["b"] and queue.pending["b"].value == 2
    queue.make_all_due(7.5)
    assert {write.key for write in queue.take(7.5)} == {"a", "b"} and not queue.pending
    assert queue.due(8.0, False) == float("inf")


@must_end
def test_it_is_delivered_where_no_thread_is_to_be_had(store, monkeypatch):
    def none(thread):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(delivering.Thread, "start", none)
    behind = WriteBehind(Cache(), store, max_delay=NEVER, backoff=0.001, max_backoff=0.001)
    behind.set_many({n: n for n in range(250)})
    assert behind.pending == 250 and behind.flush() is True and len(store.values) == 250
    switch = store.fault = Switch()
    behind.set("a", 1)
    assert behind.flush(0.02) is False
    switch.is_on = False
    began = time.monotonic()
    assert behind.close() is True and store.values["a"] == 1 and time.monotonic() - began < 60
