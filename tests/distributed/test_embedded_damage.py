"""A damaged folder: whatever its files hold, no value is read that was not written, and the cache goes on."""

from __future__ import annotations

import contextlib
import json
import os
import random
import re
import sqlite3
import sys
import threading
from pathlib import Path

import pytest

from cachebox import DistributedCache
from cachebox.distributed._embedded import opened
from folders import at, data_file, folder, root, running, work  # noqa: F401
from in_threads import Started, wait_for

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="there are no folders on Windows yet")


def fill(cache) -> dict:
    values = {f"k{i}": [i, "x" * (i % 50)] for i in range(300)}
    cache.set_many(values)
    cache.set("tagged", "t", tags=["a", "b"])
    cache.set("gone", 1)
    cache.delete("gone")
    cache.set("cleared", 1, tags=["c"])
    cache.invalidate_tag("c")
    return {**values, "tagged": "t"}


def see(cache, values) -> int:
    """Read every key: each value that is there was written. Returns how many there were."""
    found = cache.get_many([*values, "gone", "cleared"])
    assert found.items() <= values.items()
    for key in random.sample(sorted(values), 20):
        assert cache.get(key, values[key]) == values[key]
    return len(found)


@pytest.mark.parametrize("is_open", [False, True], ids=["closed", "open"])
@pytest.mark.parametrize("seed", range(6))
def test_damaged_bytes_of_the_file(at, folder, seed, is_open):
    dice = random.Random(seed)
    with DistributedCache(**at) as cache:
        values = fill(cache)
        if is_open:
            cache._core.topology.store._database[1].shorten_log()
            damage(data_file(folder), dice)
            see(cache, values)
            work(cache)
    if not is_open:
        damage(data_file(folder), dice)
        with DistributedCache(**at) as cache:
            see(cache, values)
            work(cache)


def damage(path: Path, dice: random.Random, n: int = 40) -> None:
    """Change some bits of a file, or cut it, or overwrite a page."""
    size = path.stat().st_size
    how = dice.randrange(5)
    with open(path, "r+b") as file:
        if how == 0:
            file.truncate(dice.randrange(size))
        elif how == 1:
            file.seek(dice.randrange(size // 4096) * 4096)
            file.write(dice.randbytes(4096))
        elif how == 2:
            file.seek(0)
            file.write(b"not a database at all" * 10)
        else:
            for _ in range(n):
                at = dice.randrange(size)
                file.seek(at)
                byte = file.read(1)[0]
                file.seek(at)
                file.write(bytes([byte ^ (1 << dice.randrange(8))]))


COLUMNS = [
    (table, column)
    for table, columns in {"e": "h k g x c b", "t": "h k v g", "l": "h k token g epoch x place incarnation",
                           "f": "token x c b", "m": "id v"}.items()
    for column in columns.split()
]
WRONG = [None, -1, 1.5, 2**63 - 1, b"", b"\xff\xfe", "a text", "no text"]


def replace_column(path: Path, table: str, column: str, value) -> None:
    """Put a value into a column of every row, whatever type the column has."""
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as database:
        schema = "UPDATE sqlite_master SET sql = ? WHERE name = ?"
        database.execute("PRAGMA writable_schema=ON")
        ((sql,),) = database.execute("SELECT sql FROM sqlite_master WHERE name = ?", (table,)).fetchall()
        database.execute(schema, (re.sub(" NOT NULL| (INTEGER|BLOB)(?! PRIMARY)", "", sql), table))
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as database:
        database.execute("PRAGMA writable_schema=ON")
        database.execute("INSERT OR IGNORE INTO l SELECT h, k, x'00', g, 0, 1 << 60, 0, 1 FROM e LIMIT 9")
        new = "CAST(x'ff41fe' AS TEXT)" if value == "no text" else "?"
        with contextlib.suppress(sqlite3.Error):        # the value does not fit there at all
            database.execute(f"UPDATE OR REPLACE {table} SET {column} = {new}", () if new != "?" else (value,))
        database.execute(schema, (sql, table))


@pytest.mark.parametrize("is_open", [False, True], ids=["closed", "open"])
@pytest.mark.parametrize("table", "etlfm")
def test_a_column_of_another_type_or_value(at, folder, table, is_open):
    for column in [column for name, column in COLUMNS if name == table]:
        for value in random.Random(column).sample(WRONG, 2):
            with DistributedCache(**at) as cache:
                values = fill(cache)
                if is_open:
                    replace_column(data_file(folder), table, column, value)
                    use_all(cache, values)
            if not is_open:
                replace_column(data_file(folder), table, column, value)
                with DistributedCache(**at) as cache:
                    use_all(cache, values)


def use_all(cache, values) -> None:
    """Every kind of operation."""
    see(cache, values)
    assert cache.invalidate_prefix("none") == 0
    cache.invalidate_where(lambda key, value: value != values[key])
    assert cache.get_or_set("computed", lambda: 1, tags=["a"]) == 1
    cache.set("later", 1, tags=["b"])
    assert cache.get("later") == 1
    assert cache.touch("later", 1000) and cache.ttl("later") <= 1000
    assert cache.compute("k1", lambda value: 5) == 5
    cache.add("k2", 2)
    assert cache.warm(["warm"], str).failed == 0
    work(cache)


def test_a_schema_whose_text_is_no_text(at, folder):
    """SQLite quotes it in an error, which then cannot be decoded."""
    for is_open in False, True:
        with DistributedCache(**at) as cache:
            values = fill(cache)
            cache.get("k1")
            data = data_file(folder)
            if not is_open:
                cache.close()
            with contextlib.closing(sqlite3.connect(data, isolation_level=None)) as database:
                database.execute("PRAGMA writable_schema=ON")
                database.execute("UPDATE sqlite_master SET name = CAST(x'fffe' AS TEXT), sql = CAST(x'ff' AS TEXT)")
            with DistributedCache(**at) as cache:
                use_all(cache, values)


KILLED = """
cache.set_many({f"k{i}": [i, "x" * (i % 50)] for i in range(300)})
cache.set("gone", 1)
cache.set("cleared", 1, tags=["c"])
cache.invalidate_tag("c")
cache.delete("gone")
print("ready", flush=True)
time.sleep(1000)
"""


@pytest.mark.parametrize("what", ["cut the log", "no log", "no index", "change the log", "change the index"])
def test_a_log_that_is_not_whole_is_not_believed(at, folder, what):
    """After all processes died, SQLite would take a part of the log for the whole: a deleted value would be back."""
    with running(KILLED, json.dumps(at)) as process:
        process.kill()
        process.wait(30)
    data = data_file(folder)
    log, index = Path(f"{data}-wal"), Path(f"{data}-shm")
    assert log.stat().st_size > 4096
    if what == "cut the log":
        os.truncate(log, log.stat().st_size - 4120)
    elif what == "no log":
        log.unlink()
    elif what == "no index":
        index.unlink()
    elif what == "change the log":
        with open(log, "r+b") as file:
            file.seek(log.stat().st_size - 2000)
            byte = file.read(1)[0]
            file.seek(log.stat().st_size - 2000)
            file.write(bytes([byte ^ 1]))
    else:
        with open(index, "r+b") as file:
            file.seek(20)
            file.write(b"\xff")
    with DistributedCache(**at) as cache:
        assert cache.get_many(["k1", "gone", "cleared"]) == {}
        work(cache)


@pytest.mark.parametrize("lost", [1, 3073, 4096, 3 * 4096])
def test_a_file_whose_end_is_missing_is_not_believed(at, folder, lost):
    """SQLite takes half a page for a whole one, of zeros, and what it wrote there was not found again."""
    keys = [f"k{n}" for n in range(300)]
    with DistributedCache(**at) as cache:
        cache.set_many({key: [key, "x" * 50] for key in keys})
    before = data_file(folder)
    os.truncate(before, before.stat().st_size - lost)
    with DistributedCache(**at) as cache:
        assert cache.get_many(keys) == {} and not before.exists()
        for key in keys:
            cache.set(key, 1, tags=["a"])
        assert cache.get_many(keys) == dict.fromkeys(keys, 1)
    with DistributedCache(**at) as cache:
        assert cache.get_many(keys) == dict.fromkeys(keys, 1), "a whole file is believed"


def test_who_only_tries_to_open_the_folder_does_not_pass_for_a_user(at, folder, monkeypatch):
    """Or the one that really opens it would not look whether its log is whole."""
    with running(KILLED, json.dumps(at)) as process:
        process.kill()
        process.wait(30)
    log = Path(f"{data_file(folder)}-wal")
    os.truncate(log, log.stat().st_size - 4120)
    tries, go_on = threading.Event(), threading.Event()
    take, open_page = opened._take, opened.Opened._open_page

    def waits(self, may_make):
        if not may_make:
            tries.set()
            wait_for(go_on)
        return open_page(self, may_make)

    monkeypatch.setattr(opened, "_take", lambda fd, deadline: tries.is_set() and take(fd, deadline))
    monkeypatch.setattr(opened.Opened, "_open_page", waits)
    without_lock = Started(lambda: DistributedCache(**at))
    wait_for(tries)
    with DistributedCache(**at) as cache:
        assert cache.get_many(["k1", "gone", "cleared"]) == {}
        go_on.set()
        with without_lock.result() as other:
            cache.set("a", 1)
            assert other.get("a") == 1


def test_what_a_killed_process_wrote_is_there(at):
    with running(KILLED, json.dumps(at)) as process:
        process.kill()
        process.wait(30)
    with DistributedCache(**at) as cache:
        assert cache.get_many(["k1", "k2", "gone", "cleared"]) == {"k1": [1, "x"], "k2": [2, "xx"]}


@pytest.mark.parametrize("seed", range(8))
def test_a_damaged_page_is_a_new_one(at, folder, seed):
    dice = random.Random(seed)
    with DistributedCache(**at) as cache:
        values = fill(cache)
    path = folder / "page"
    with open(path, "r+b") as file:
        if seed == 0:
            file.truncate(100)
        elif seed == 1:
            file.truncate(0)
        elif seed == 2:
            file.write(b"\0" * 8)
        else:
            for _ in range(10):
                file.seek(dice.randrange(8, 64) if seed < 6 else dice.randrange(path.stat().st_size))
                file.write(dice.randbytes(1))
    with DistributedCache(**at) as cache:
        see(cache, values)
        work(cache)
        assert set(os.listdir(folder)) >= {"page", "lock", "processes"}
        assert len(list(folder.glob("data-*.sqlite"))) == 1
