"""`SQLiteStore`: a store in a file."""

from __future__ import annotations

import collections
import datetime as dt
import enum
import gc
import itertools
import os
import sqlite3
import stat
import sys
import threading
import uuid
from decimal import Decimal
from fractions import Fraction
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cachebox import Cache, WriteBehind, WriteThrough
from cachebox.strategies import SQLiteStore, sqlite_store
from cachebox.strategies.row_keys import row_key
from conftest import named
from in_threads import Started, must_end, run_all, wait_for


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
        assert store._connection().connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
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
    assert len(store._all) == 2                 # this thread's connection, and that of the thread that made the store


@must_end
def test_a_connection_may_be_closed_by_its_thread_that_ends_and_by_the_store_at_once(tmp_path):
    """The modules sqlite3 before 3.11 crash if a connection is closed twice at the same time."""
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
    mine = store._connection().connection
    child = os.fork()
    if child == 0:
        store.save("b", store.load("a") + 1)
        mine.execute("SELECT 1").fetchall()     # still open, because SQLite forbids to close it here
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


# --- equal keys are one row -------------------------------------------------------------------------------------------

class Number(enum.IntEnum):
    ONE = 1


class Word(enum.StrEnum):
    A = "a"


class Plain(enum.Enum):
    ONE = 1
    UNO = 1                                     # another name of the same member
    TWO = 2


Point = collections.namedtuple("Point", "x y")
UTC = dt.UTC
KEYS = [
    1, 1.0, True, Decimal(1), Fraction(1), 1 + 0j, Number.ONE, 0, -0.0, False, "1", "a", Word.A, None, "null", b"a",
    0.5, Decimal("0.5"), Fraction(1, 2), 0.1, Decimal("0.1"), Fraction(1, 10), float("inf"), Decimal("Infinity"),
    2**53, 2.0**53, 2**53 + 1, 1e300, int(1e300), Decimal("1e1000"), complex(1, 2), (1, 2), (True, 2.0), Point(1, 2),
    (1,), ((1,),), (), frozenset(), frozenset([1, 2]), frozenset([2.0, True]), Plain.ONE, Plain.UNO, Plain.TWO, "(1,)",
    dt.date(2026, 1, 1), dt.datetime(2026, 1, 1), dt.datetime(2026, 1, 1, fold=1), dt.time(1), dt.timedelta(1),
    dt.timedelta(hours=24), uuid.UUID(int=5), "\ud800", dt.datetime(2026, 1, 1, tzinfo=UTC),
    dt.datetime(2026, 1, 1, 1, tzinfo=dt.timezone(dt.timedelta(hours=1))),
]  # fmt: skip


def test_keys_have_the_same_bytes_where_they_are_equal_and_only_there():
    for a, b in itertools.product(KEYS, repeat=2):
        assert (row_key(a) == row_key(b)) == (a == b), (a, b)


simple = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary()
numbers = st.integers(-3, 3) | st.fractions(-2, 2, max_denominator=4) | st.decimals(-2, 2, places=1)
containers = {"extend": lambda items: st.tuples(items, items) | st.frozensets(items, max_size=3), "max_leaves": 12}
keys = st.recursive(simple | numbers, **containers)


@given(keys, keys)
def test_so_it_is_for_any_keys(a, b):
    assert (row_key(a) == row_key(b)) == (a == b)


class Same(str):
    def __eq__(self, other):
        return True

    __hash__ = str.__hash__


class Odd(int):
    def __hash__(self):
        return 5


@pytest.mark.parametrize(
    "key",
    [
        float("nan"),
        Decimal("nan"),
        Decimal("1e99999"),
        pytest.param(10**5000, id="a number of 5000 digits"),
        Same("a"),
        Odd(1),
        (1, Same("b")),
        object(),
        memoryview(b"a"),
        range(3),
        dt.time(1, tzinfo=UTC),
    ],
    ids=named,
)
@pytest.mark.parametrize("options", [{}, {"serializer": "pickle", "secret": "s"}], ids=["json", "pickle"])
def test_a_key_of_which_that_is_not_known_is_a_type_error_both_ways(tmp_path, key, options):
    with SQLiteStore(tmp_path / "store.db", **options) as store:
        for call in (
            lambda: store.load(key),
            lambda: store.load_many([key]),
            lambda: store.save(key, 1),
            lambda: store.save_many({"good": 1, key: 1}),
            lambda: store.delete(key),
            lambda: store.delete_many(["good", key]),
        ):
            with pytest.raises(TypeError, match="key must"):
                call()
        assert store.load_many(["good"]) == {}


@pytest.mark.parametrize("options", [{}, {"serializer": "pickle", "secret": "s"}], ids=["json", "pickle"])
@pytest.mark.parametrize("strategy", [WriteThrough, WriteBehind])
def test_equal_keys_are_one_row_through_a_strategy(tmp_path, strategy, options):
    with SQLiteStore(tmp_path / "store.db", **options) as store:
        cache = strategy(Cache(), store)
        cache.set(1.0, "old")
        if strategy is WriteBehind:
            cache.flush()
        cache.set(1, "new")
        if strategy is WriteBehind:
            cache.close()
        cache.cache.clear()
        assert cache.get(True) == cache.get(1.0) == cache.get(1) == "new"
        assert store.load_many([1, 1.0, True]) == {1: "new"} and store.delete_many([1.0, True]) == 1


def test_pickled_keys_do_not_depend_on_which_objects_they_are_made_of(tmp_path):
    with SQLiteStore(tmp_path / "store.db", serializer="pickle", secret="s") as store:
        one, other = "".join(["us", "er"]), "".join(["us", "er"])
        store.save((one, one), 1)
        assert store.load((one, other)) == 1 and store.delete((other, one)) is True


# --- where it is, and whose -------------------------------------------------------------------------------------------

def test_every_thread_and_process_opens_the_same_database_wherever_it_is(tmp_path, monkeypatch):
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir(), there.mkdir()
    monkeypatch.chdir(here)
    with SQLiteStore("store.db") as store:
        store.save("a", 1)
        monkeypatch.chdir(there)
        assert Started(store.load, "a").result() == 1
        Started(store.save, "a", 2).result()
        assert store.load("a") == 2 and os.listdir(there) == [] and store.path == str(here / "store.db")
        if hasattr(os, "fork"):
            child = os.fork()
            if child == 0:
                os._exit(0 if store.load("a") == 2 else 1)
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_a_link_that_points_elsewhere_later_changes_nothing(tmp_path):
    (tmp_path / "store.db").symlink_to(tmp_path / "real.db")
    with SQLiteStore(tmp_path / "store.db") as store:
        store.save("a", 1)
        (tmp_path / "store.db").unlink()
        (tmp_path / "store.db").symlink_to(tmp_path / "other.db")
        assert Started(store.load, "a").result() == 1 and not (tmp_path / "other.db").exists()


@pytest.mark.parametrize("path", ["", ":memory:"])
def test_a_path_that_names_no_file_is_a_value_error(path):
    with pytest.raises(ValueError, match="path must name a file"):
        SQLiteStore(path)


@pytest.mark.skipif(os.name == "nt", reason="Windows has no modes")
def test_its_files_are_its_owners_alone(tmp_path):
    before = os.umask(0)
    try:
        with SQLiteStore(tmp_path / "store.db") as store:
            store.save("a", 1)
            modes = {name: stat.S_IMODE(os.stat(tmp_path / name).st_mode) for name in os.listdir(tmp_path)}
    finally:
        os.umask(before)
    assert "store.db" in modes and set(modes.values()) == {0o600}


# --- what others put into it ------------------------------------------------------------------------------------------

STORED = [b"", b"{", b"\xff", b"[1e999]", b"NaN", "text", 5, None, b"[" * 100_000]


@pytest.mark.parametrize("stored", STORED, ids=lambda stored: repr(stored)[:12])
def test_a_value_that_is_none_is_a_value_error_that_names_the_file(tmp_path, stored):
    with SQLiteStore(tmp_path / "store.db") as store:
        store.save("a", 1)
        with store._connection().connection as connection:
            connection.execute("UPDATE cachebox SET value = ?", (stored,))
        for call in (lambda: store.load("a"), lambda: store.load_many(["a"])):
            with pytest.raises(ValueError, match=r"store\.db'.*\"a\""):
                call()


def test_with_a_secret_a_value_stands_for_its_own_key_only(tmp_path):
    with SQLiteStore(tmp_path / "store.db", secret="s") as store:
        store.save("admin", True)
        store.save("guest", False)
        with store._connection().connection as connection:
            rows = dict(connection.execute("SELECT key, value FROM cachebox"))
            connection.execute("UPDATE cachebox SET value = ? WHERE key = ?", (rows[b'"admin"'], b'"guest"'))
        assert store.load("admin") is True
        with pytest.raises(ValueError, match="signed"):
            store.load("guest")


@must_end
@pytest.mark.parametrize("call", ["load", "load_many", "save", "save_many", "delete", "delete_many"])
def test_closing_waits_for_calls_of_other_threads(tmp_path, monkeypatch, call):
    """Closing a connection in the middle of a call of another thread may crash the process."""
    entered, closing, using = threading.Event(), threading.Event(), []

    class Slow(sqlite3.Connection):
        def execute(self, sql, *arguments):
            if using == [True]:
                using.append(self)
                entered.set()
                wait_for(closing)
                was_closed = self.closed.wait(0.1)
                using[:] = [was_closed]
            return super().execute(sql, *arguments)

        def executemany(self, sql, *arguments):
            self.execute("SELECT 1")
            return super().executemany(sql, *arguments)

        def close(self):
            self.closed.set()
            super().close()

    def connect(*arguments, **options):
        connection = sqlite3.connect(*arguments, **options, factory=Slow)
        connection.closed = threading.Event()
        return connection

    monkeypatch.setattr(sqlite_store, "sqlite3", SimpleNamespace(connect=connect))
    store = SQLiteStore(tmp_path / "store.db")
    arguments = {"save": ("a", 2), "save_many": ({"a": 2},), "load": ("a",), "delete": ("a",)}.get(call, (["a"],))
    gc.collect()

    def use():
        store.save("a", 1)
        using.append(True)
        return getattr(store, call)(*arguments)

    user = Started(use)
    wait_for(entered)
    store._local.own.close()                    # this thread's
    closing.set()
    store.close()
    user.result()
    assert using == [False]
    with pytest.raises((RuntimeError, sqlite3.ProgrammingError), match="closed"):
        Started(store.load, "a").result()
