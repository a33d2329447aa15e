"""`SQLiteStore`: a store in a file."""

from __future__ import annotations

import gc
import os
import sqlite3
import sys

import pytest

from cachebox import Cache
from cachebox.strategies import SQLiteStore, sqlite_store
from in_threads import Started, must_end, run_all


@pytest.fixture
def store(tmp_path):
    with SQLiteStore(tmp_path / "store.db") as store:
        yield store


def test_all_six_methods(store):
    store.save("a", {"x": [1, None, 2.5]})
    store.save("a", "new")
    store.save_many({1: "int", "1": "str", None: None})
    assert store.load("a") == "new" and store.load(None) is None and store.load("1") == "str"
    assert store.load_many(["a", "1", "x"]) == {"a": "new", "1": "str"}
    assert store.delete("a") is True and store.delete("a") is False
    with pytest.raises(KeyError):
        store.load("a")
    assert store.delete_many(["1", "x", None]) == 2
    store.save_many({}), store.delete_many([])
    assert store.load_many([]) == {}


def test_many_keys_at_once(store):
    store.save_many({n: n for n in range(2500)})
    assert store.load_many(range(3000)) == {n: n for n in range(2500)}
    assert store.delete_many(range(3000)) == 2500


def test_save_many_is_all_or_nothing(store):
    with pytest.raises(TypeError):
        store.save_many({"a": 1, "b": object()})
    with pytest.raises(KeyError):
        store.load("a")


def test_what_was_written_is_there_when_it_is_opened_again(tmp_path):
    for _ in range(2):
        with SQLiteStore(tmp_path / "store.db", "rows") as store:
            store.save("a", 1)
    with SQLiteStore(tmp_path / "store.db", "rows") as store:
        assert store.load("a") == 1
        assert store._connection().execute("PRAGMA journal_mode").fetchone() == ("wal",)
    with pytest.raises(RuntimeError, match="closed"):
        Started(store.load, "a").result()
    with pytest.raises(ValueError, match="table"):
        SQLiteStore(tmp_path / "store.db", "rows; DROP TABLE rows")


@must_end
def test_each_thread_has_a_connection_of_its_own_which_ends_with_it(store):
    own = run_all(*[lambda: (store.save("a", 1), store._connection())[1]] * 4)
    assert len({id(connection) for connection in [*own, store._connection()]}) == 5
    del own
    gc.collect()
    assert len(store._all) == 2                 # this thread's, and that of the one that made it


@must_end
@must_end
def test_a_connection_may_be_closed_by_its_thread_that_ends_and_by_the_store_at_once(tmp_path):
    """The modules sqlite3 before 3.11 crash if they are told to close a connection twice at the same time."""
    for _ in range(10):
        connections = [sqlite_store._Connection(str(tmp_path / "one.db"), 5) for _ in range(10)]
        run_all(*[lambda mine=connections: [each.close() for each in mine]] * 3)
        for each in connections:
            with pytest.raises(sqlite3.ProgrammingError):
                each.connection.execute("SELECT 1")


def test_threads_write_at_the_same_time(store):
    run_all(*[lambda n=n: [store.save((f"{n} {k}"), k) for k in range(30)] for n in range(4)])
    assert len(store.load_many([f"{n} {k}" for n in range(4) for k in range(30)])) == 120


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
def test_a_forked_process_opens_its_own(store):
    store.save("a", 1)
    mine = store._connection()
    child = os.fork()
    if child == 0:
        store.save("b", store.load("a") + 1)
        mine.execute("SELECT 1").fetchall()     # nobody has closed it, which SQLite forbids here
        os._exit(0 if sys.getrefcount(mine) > 2 else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert store.load("b") == 2


def test_a_secret_signs_values(tmp_path):
    path = tmp_path / "store.db"
    with SQLiteStore(path, serializer="pickle", secret="s") as store:
        store.save("a", {1, 2})
        assert store.load("a") == {1, 2}
    with SQLiteStore(path, serializer="pickle", secret="t") as store, pytest.raises(ValueError, match="signed"):
        store.load("a")


def test_it_loads_for_a_cache(store):
    store.save_many({"a": 1, "b": 2})
    cache = Cache(loader=store)
    assert cache["a"] == 1 and cache.get_many(["a", "b", "c"]) == {"a": 1, "b": 2} and cache.get("c") is None


def test_a_file_that_is_no_database_is_refused(tmp_path):
    (tmp_path / "text").write_text("hello " * 100)
    with pytest.raises(sqlite3.DatabaseError):
        SQLiteStore(tmp_path / "text")
    gc.collect()
