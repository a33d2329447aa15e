"""Warm starts: `warm`, `dump` and `load`."""

from __future__ import annotations

import copy
import hashlib
import math
import os
import pickle
import signal
import subprocess
import sys
import threading
import time

import pytest

from cachebox import Cache
from cachebox._files import dump as dumps
from cachebox._loading import warming as warmings
from in_threads import must_end


@pytest.fixture
def path(tmp_path):
    return tmp_path / "dump"


@pytest.fixture
def wall(monkeypatch):
    """The wall clock, as tests set it."""

    class Wall:
        now = 1.8e9

    monkeypatch.setattr(time, "time", lambda: Wall.now)
    return Wall


# --- dump and load ----------------------------------------------------------------------------------------------------

def test_entries_order_lifetimes_and_tags_come_back(path, wall, clock, any_policy):
    cache = Cache(default_ttl=100, policy=any_policy, clock=clock)
    cache.update({"a": 1, 2: [None, True, 1.5], "2": {"x": {"y": []}}, None: "n", 0.5: "f"})
    cache.set("ever", 1, ttl=math.inf, tags=("t", "u"))
    cache.set("soon", 1, ttl=5)
    cache["a"], cache["a"], cache[2]
    assert cache.dump(path) == 7
    wall.now += 10
    loaded = Cache(policy=any_policy)
    assert loaded.load(path) == 6
    assert list(loaded.items()) == [item for item in cache.items() if item[0] != "soon"]
    assert 89 < loaded.ttl("a") <= 90 and loaded.ttl("ever") is None
    assert [type(key) for key in loaded] == [type(key) for key in cache if key != "soon"]
    assert loaded.invalidate_tag("u") == 1
    assert cache.stats.hits == 3 and loaded.stats.sets == 6


def test_frequencies_travel_along(path):
    cache = Cache(3, policy="LFU")
    cache.update(a=1, b=2, c=3)
    for key in "aaab":
        cache[key]
    cache.dump(path)
    loaded = Cache(3, policy="LFU")
    loaded.load(path)
    loaded["b"]
    loaded["d"] = 4
    assert list(loaded) == ["d", "b", "a"]


def test_load_adds_to_what_is_there(path):
    cache = Cache()
    cache.update(a=1, b=2)
    cache.dump(path)
    other = Cache()
    other.update(x=9, b="newer")
    assert other.load(path) == 1 and dict(other) == {"x": 9, "b": "newer", "a": 1}


def test_a_smaller_cache_keeps_what_was_furthest_from_eviction(path, any_policy):
    cache = Cache(policy=any_policy)
    cache.update({n: n for n in range(10)})
    cache[0]
    expected = list(cache)[-3:]
    cache.dump(path)
    small = Cache(3, policy=any_policy)
    assert small.load(path) == 3 and set(small) == set(expected)
    assert any_policy == "AUTO" or list(small) == expected      # AUTO brings its parts to the smaller size
    weighed = Cache(policy=any_policy, max_weight=20, weigher=lambda key, value: value)
    weighed.load(path)
    assert weighed.weight <= 20 and len(weighed) > 0


def weighed_by_value(policy="LRU", **options):
    return Cache(None, policy=policy, max_weight=20, weigher=lambda key, value: value, **options)


def test_load_counts_what_is_there_in_the_end(path, any_policy):
    cache = Cache(policy="LRU" if any_policy == "AUTO" else any_policy)     # AUTO would list others last
    cache.update({n: n for n in range(1, 11)})
    cache["too heavy"] = 21
    cache.dump(path)
    weighed = weighed_by_value(any_policy)
    assert weighed.load(path) == 2 and dict(weighed) == {9: 9, 10: 10} and weighed.weight == 19
    assert weighed.stats.sets == 2 and weighed.stats.evictions == 0
    weighed = weighed_by_value(any_policy)
    weighed.update({10: 7, "mine": 9})
    assert weighed.load(path) == 2 and dict(weighed) == {8: 8, 9: 9}    # not an older 10: the newer one has left
    small = Cache(3, policy=any_policy)
    assert small.load(path) == 3
    small = Cache(3, policy=any_policy)
    small[10] = small["mine"] = 0
    assert small.load(path) == 3 and set(small) == {8, 9, "too heavy"}


def test_load_does_not_count_what_it_evicts_again(path):
    cache = Cache(policy="LFU")
    cache.update(a=1, b=2, c=3)
    cache.dump(path)
    small = Cache(3, policy="LFU")
    small.update(x=1, y=2)
    for key in "xxyy":
        small[key]
    assert small.load(path) == 1 and dict(small) == {"c": 3, "y": 2, "x": 1}
    assert small.stats.sets - small.stats.evictions == len(small)


def test_load_does_not_count_what_a_callback_removes_or_replaces(path):
    cache = Cache()
    cache.update(a=1, b=2, c=3)
    cache.dump(path)

    def meddle(key, value):
        if key == "mine":
            small.delete("a"), small.set("b", "other")

    small = Cache(3, on_evict=meddle)
    small["mine"] = 0
    assert small.load(path) == len([key for key in "abc" if small.peek(key) == cache[key]]) == 1


def test_a_copy_of_a_full_cache_holds_all_of_it(any_policy):
    cache = weighed_by_value(any_policy)
    for n in range(2000):
        cache[n % 50] = [0.1, 1 / 3, 7.07, 2.5][n % 4]
    for again in (copy.copy(cache), cache.copy()):
        assert list(again.items()) == list(cache.items()) and again.weight == pytest.approx(cache.weight)
        assert again.stats.get_all() == dict.fromkeys(again.stats.get_all(), 0)


def test_every_damage_is_refused_whole_and_changes_nothing(path):
    cache = Cache()
    cache.update(a=1, b="two")
    cache.dump(path)
    whole = path.read_bytes()
    target = Cache()
    target["x"] = 1
    for at in range(len(whole)):
        for damaged in (whole[:at], whole[:at] + bytes([whole[at] ^ 0x10]) + whole[at + 1 :]):
            path.write_bytes(damaged)
            with pytest.raises(ValueError, match="dump"):
                target.load(path)
    for foreign in (b"", b"x" * 500, whole + b"!"):
        path.write_bytes(foreign)
        with pytest.raises(ValueError, match="dump"):
            target.load(path)
    assert dict(target) == {"x": 1} and target.stats.sets == 1
    with pytest.raises(FileNotFoundError):
        target.load(path.with_name("nothing"))


@pytest.mark.parametrize(
    ("key", "value"), [((1, 2), 1), ("a", (1,)), ("a", {1}), ("a", {1: 2}), ("a", b""), ("a", math.nan)]
)
def test_what_json_cannot_give_back_is_refused_and_an_older_file_stays(path, key, value):
    path.write_bytes(b"older")
    cache = Cache()
    cache["good"] = 1
    cache[key] = value
    with pytest.raises(TypeError, match="serializer"):
        cache.dump(path)
    assert path.read_bytes() == b"older" and os.listdir(path.parent) == ["dump"]


class Bomb:
    def __reduce__(self):
        return exploded.append, (1,)


exploded: list[int] = []


def test_pickle_needs_a_secret_which_is_checked_before_anything_is_unpickled(path):
    cache = Cache()
    cache[(1, b"x")] = {1, 2}
    with pytest.raises(ValueError, match="secret"):
        cache.dump(path, serializer="pickle")
    cache.dump(path, serializer="pickle", secret="s")
    loaded = Cache()
    assert loaded.load(path, serializer="pickle", secret=b"s") == 1 and loaded[(1, b"x")] == {1, 2}
    cache["bomb"] = Bomb()
    cache.dump(path, serializer="pickle", secret="theirs")
    for secret, options in (("ours", {"serializer": "pickle"}), ("theirs", {}), (None, {})):
        with pytest.raises(ValueError, match="dump"):
            Cache().load(path, secret=secret, **options)
    assert exploded == []
    cache = Cache()
    cache.dump(path)
    with pytest.raises(ValueError, match="not signed"):
        Cache().load(path, secret="s")
    for secret in ("", 5):
        with pytest.raises((ValueError, TypeError), match="secret"):
            cache.dump(path, secret=secret)


def test_a_serializer_of_your_own(path):
    cache = Cache()
    cache[(1,)] = b"x"
    cache.dump(path, serializer=pickle)
    assert Cache().load(path, serializer=pickle) == 1
    with pytest.raises(ValueError, match="serializer"):
        Cache().load(path)
    for nonsense in ("yaml", 5):
        with pytest.raises((ValueError, TypeError), match="serializer"):
            cache.dump(path, serializer=nonsense)


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="this system has no SIGKILL")
def test_kill_9_during_a_dump_leaves_the_old_file_or_the_new_one(path):
    code = (
        "import sys; from cachebox import Cache\n"
        "for n in range(1, 1_000_000):\n"
        "    cache = Cache(None); cache.update({k: n for k in range(2000)}); cache.dump(sys.argv[1])\n"
        "    print(n, flush=True)\n"
    )
    for n in range(6):
        with subprocess.Popen([sys.executable, "-c", code, path], stdout=subprocess.PIPE) as child:
            child.stdout.readline()
            threading.Event().wait(0.003 * n)
            child.kill()
        loaded = Cache(None)
        assert loaded.load(path) == 2000 and len(set(loaded.values())) == 1


# --- warm -------------------------------------------------------------------------------------------------------------

def test_keys_are_loaded_once_and_failures_counted():
    calls = []

    def load(key):
        calls.append(key)
        return 10 // key

    cache = Cache()
    cache[5] = "there"
    for workers in (1, 4):
        report = cache.warm([1, 2, 0, 5], load, workers=workers)
        assert report.failed == 1 and isinstance(report.first_error, ZeroDivisionError) and report.total == 4
    assert dict(cache) == {5: "there", 1: 10, 2: 5} and sorted(calls) == [0, 0, 1, 2]
    assert (report.loaded, report.skipped) == (0, 3) and cache.stats.load_success == 2


def test_items_are_stored_unless_they_are_there():
    cache = Cache(max_weight=10, weigher=lambda key, value: value)
    cache["a"] = 1
    report = cache.warm({"a": 2, "b": 3, "heavy": 11})
    assert (report.loaded, report.failed, report.skipped) == (1, 1, 1) and dict(cache) == {"a": 1, "b": 3}


def test_the_caches_own_loader_and_load_many(monkeypatch):
    class Source:
        asked = []

        def load(self, key):
            raise AssertionError

        def load_many(self, keys):
            self.asked.append(keys)
            if 13 in keys:
                raise OSError
            return {key: -key for key in keys if key % 2}

    monkeypatch.setattr(warmings, "BATCH", 4)
    cache = Cache(loader=Source())
    done = []
    report = cache.warm(iter(range(10)), progress=lambda *now: done.append(now))
    assert (report.loaded, report.failed) == (5, 5) and done == [(4, 10), (8, 10), (10, 10)]
    assert cache.warm([1, 11, 13]).failed == 2 and Source.asked[-1] == [11, 13]
    assert Cache().warm([1], Source()).loaded == 1


def test_progress_counts_failures_as_done_and_may_stop_it():
    done = []
    Cache().warm("ab and c".split(), {"ab": 1}.__getitem__, workers=1, progress=lambda *now: done.append(now))
    assert done == [(1, 3), (2, 3), (3, 3)]

    def stop(done, total):
        raise LookupError

    cache = Cache()
    for workers in (1, 3):
        with pytest.raises(LookupError):
            cache.warm(range(100), str, workers=workers, progress=stop)
    assert len(cache) < 100 and cache.warm(range(100), str).failed == 0 and len(cache) == 100


def test_any_iterable_that_is_no_mapping_means_keys():
    for keys in ("abc", iter("abc"), {"a", "b", "c"}, dict.fromkeys("abc").keys(), (key for key in "abc")):
        cache = Cache()
        assert cache.warm(keys, str.upper).loaded == 3 and sorted(cache) == ["a", "b", "c"]


@must_end
def test_workers_load_at_the_same_time():
    barrier = threading.Barrier(4)

    def load(key):
        barrier.wait(30)
        return key

    assert Cache().warm(range(8), load, workers=4).loaded == 8


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ((["a"],), TypeError),
        ((5, str), TypeError),
        (([[]], str), TypeError),
        ((["a"], 5), TypeError),
    ],
)
def test_what_makes_no_sense_is_refused(arguments, error):
    with pytest.raises(error):
        Cache().warm(*arguments)
    for options in ({"workers": 0}, {"workers": "2"}, {"progress": 5}):
        with pytest.raises((TypeError, ValueError), match=next(iter(options))):
            Cache().warm(["a"], str, **options)


def test_a_bar_on_a_terminal_and_nothing_elsewhere(monkeypatch, capsys):
    assert Cache().warm(["a"], str, progress=True).loaded == 1
    assert capsys.readouterr() == ("", "")
    pytest.importorskip("rich", reason="rich is not installed: it is in the extra `cli`")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    assert Cache().warm(["a", "b"], str, progress=True).loaded == 2
    assert "warming" in capsys.readouterr().err


# --- the wall clock ---------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("stepped", [-1e9, -3600, -1, 0, 1, 30, 59])
def test_a_lifetime_is_never_longer_than_it_was_whatever_the_wall_clock_says(path, wall, clock, stepped):
    cache = Cache(clock=clock)
    cache.set("a", 1, ttl=60)
    cache.set("ever", 1, ttl=math.inf)
    cache.dump(path)
    wall.now += stepped
    loaded = Cache(clock=clock)
    assert loaded.load(path) == 2 and loaded.ttl("ever") is None
    assert loaded.ttl("a") == pytest.approx(60 - max(stepped, 0), abs=1e-3) and loaded.ttl("a") <= 60


def test_dumping_and_loading_again_and_again_does_not_prolong(path, wall, clock):
    """With a wall clock that is set back each time."""
    cache = Cache(clock=clock)
    cache.set("a", 1, ttl=60)
    left = 60.0
    for _ in range(5):
        clock.now += 10
        cache.dump(path)
        wall.now -= 1000
        cache = Cache(clock=clock)
        cache.load(path)
        assert cache.get("a") is None or cache.ttl("a") <= left - 10 + 1e-3
        left -= 10


def test_a_wall_clock_that_jumps_ahead_ends_what_would_have_ended(path, wall):
    cache = Cache(default_ttl=60)
    cache["a"] = 1
    cache.dump(path)
    wall.now += 60
    assert Cache().load(path) == 0


# --- forged files -----------------------------------------------------------------------------------------------------

def forged(entries=(), n=None, name=b"json", body=None, written=1.7e9):
    """A file whose checksum is right: anybody can compute it."""
    if body is None:
        body = b"".join([dumps._ENTRY.pack(len(data), expires, rank) + data for data, expires, rank in entries])
    n = len(entries) if n is None else n
    content = dumps._HEAD.pack(dumps.MAGIC, 1, name, False, written, n, len(body)) + body
    return content + hashlib.sha256(content).digest()


GOOD = (b'["good",1,[]]', math.inf, 1)
FORGED = {
    "more entries than there are": forged([GOOD], n=2),
    "very many entries": forged([GOOD], n=2**64 - 1),
    "fewer entries than there are": forged([GOOD, GOOD], n=1),
    "no entries, but bytes": forged(n=0, body=b"x"),
    "half the head of an entry": forged(n=1, body=b"x" * 10),
    "an entry longer than the file": forged(n=1, body=dumps._ENTRY.pack(1000, math.inf, 1) + GOOD[0]),
    "an entry that reaches into the checksum": forged(n=1, body=dumps._ENTRY.pack(44, math.inf, 1) + GOOD[0]),
    "an empty entry": forged([GOOD, (b"", math.inf, 1)]),
    "the largest rank": forged([GOOD, (b'["a",1,[]]', math.inf, 2**64 - 1)]),
    "a rank that no use can reach": forged([GOOD, (b'["a",1,[]]', math.inf, 2**63 + 1)]),
    "an end that is no number": forged([GOOD, (b'["a",1,[]]', math.nan, 1)]),
    "written at no time": forged([GOOD], written=math.nan),
    "written at the end of time": forged([GOOD], written=math.inf),
    "tags that are a number": forged([GOOD, (b'["a",1,5]', math.inf, 1)]),
    "tags that are nothing": forged([GOOD, (b'["a",1,null]', math.inf, 1)]),
    "tags that are a str": forged([GOOD, (b'["a",1,"xyz"]', math.inf, 1)]),
    "tags that are a dict": forged([GOOD, (b'["a",1,{"x":1}]', math.inf, 1)]),
    "a tag that is a list": forged([GOOD, (b'["a",1,[["x"]]]', math.inf, 1)]),
    "a tag that is a dict": forged([GOOD, (b'["a",1,["t",{}]]', math.inf, 1)]),
    "a list as the key": forged([GOOD, (b"[[1],1,[]]", math.inf, 1)]),
    "a dict as the key": forged([GOOD, (b"[{},1,[]]", math.inf, 1)]),
    "NaN as the key": forged([GOOD, (b"[NaN,1,[]]", math.inf, 1)]),
    "an infinite value": forged([GOOD, (b'["a",1e999,[]]', math.inf, 1)]),
    "two things": forged([GOOD, (b'["a",1]', math.inf, 1)]),
    "four things": forged([GOOD, (b'["a",1,[],1]', math.inf, 1)]),
    "a dict of three": forged([GOOD, (b'{"a":1,"b":2,"c":3}', math.inf, 1)]),
    "a str of three": forged([GOOD, (b'"abc"', math.inf, 1)]),
    "a number": forged([GOOD, (b"5", math.inf, 1)]),
    "brackets without end": forged([GOOD, (b"[" * 100_000, math.inf, 1)]),
    "bytes that are no text": forged([GOOD, (b'["\xff",1,[]]', math.inf, 1)]),
    "a serializer whose name is no text": forged([GOOD], name=b"\xff\xfe"),
}


@pytest.mark.parametrize("name", FORGED)
def test_a_forged_file_is_refused_by_name_and_changes_nothing(path, any_policy, name):
    path.write_bytes(FORGED[name])
    cache = Cache(50, policy=any_policy, default_ttl=1000)
    cache.set("old", 0, tags=("t",))
    with pytest.raises(ValueError, match="dump'"):
        cache.load(path)
    assert dict(cache) == {"old": 0} and cache.stats.sets == 1 and cache.invalidate_tag("t") == 1


@pytest.mark.parametrize("rank", [0, 1, 2**31, 2**32, 2**62, 2**63 - 1, 2**63])
def test_any_rank_that_is_accepted_leaves_a_sound_cache(path, any_policy, rank):
    path.write_bytes(forged([(b'["a",1,[]]', math.inf, rank), (b'["b",1,["t"]]', 2e9, max(rank - 1, 0)), GOOD]))
    cache = Cache(5, policy=any_policy)
    cache["old"] = 0
    assert cache.load(path) == 3
    for n in range(50):
        for key in ("a", "b", "good", "old"):
            cache.get(key)
        cache[n] = n
        cache._check()
    assert len(cache) == 5


@pytest.mark.parametrize("error", [ValueError, LookupError, RecursionError])
def test_what_a_serializer_of_the_users_raises_names_the_file(path, error):
    class Odd:
        dumps = staticmethod(lambda thing: b"x")

        @staticmethod
        def loads(data):
            raise error

    cache = Cache()
    cache["a"] = 1
    cache.dump(path, serializer=Odd)
    with pytest.raises(ValueError, match="dump'"):
        cache.load(path, serializer=Odd)
    Odd.loads = staticmethod(lambda data: {"a", "b", "c"})
    with pytest.raises(ValueError, match="dump'"):
        cache.load(path, serializer=Odd)

    class Refuses:
        def __hash__(self):
            raise error

    for thing in ((Refuses(), 1, []), ("a", 1, [Refuses()])):
        Odd.loads = staticmethod(lambda data: thing)
        with pytest.raises(ValueError, match="dump'"):
            cache.load(path, serializer=Odd)
    assert dict(cache) == {"a": 1}


def test_memory_that_is_missing_is_a_memory_error(path):
    class Hungry:
        dumps = staticmethod(lambda thing: b"x")

        @staticmethod
        def loads(data):
            raise MemoryError

    cache = Cache()
    cache["a"] = 1
    cache.dump(path, serializer=Hungry)
    with pytest.raises(MemoryError):
        cache.load(path, serializer=Hungry)


# --- writing it -------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("what", ["open", "fsync", "replace"])
def test_a_dump_that_fails_leaves_the_older_file_and_nothing_else(path, monkeypatch, what):
    cache = Cache()
    cache["a"] = 1
    cache.dump(path)
    before = path.read_bytes()
    cache["b"] = 2

    def fail(*arguments, **keywords):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(dumps.os, what, fail)
        with pytest.raises(OSError, match="space"):
            cache.dump(path)
    assert path.read_bytes() == before and os.listdir(path.parent) == ["dump"]


@pytest.mark.skipif(os.name == "nt", reason="Windows cannot sync a folder")
def test_a_dump_says_so_where_only_its_folder_could_not_be_synced(path, monkeypatch):
    fsync, calls = os.fsync, []

    def fail(file):
        calls.append(file)
        if len(calls) == 2:
            raise OSError(5, "Input/output error")
        fsync(file)

    cache = Cache()
    cache["a"] = 1
    monkeypatch.setattr(dumps.os, "fsync", fail)
    with pytest.raises(OSError, match="in place"):
        cache.dump(path)
    assert Cache().load(path) == 1


@pytest.mark.skipif(os.name == "nt", reason="Windows asks for a right to make links")
def test_a_dump_replaces_a_link_and_not_what_it_points_to(path):
    path.with_name("victim").write_bytes(b"precious")
    path.symlink_to(path.with_name("victim"))
    cache = Cache()
    cache["a"] = 1
    cache.dump(path)
    assert path.with_name("victim").read_bytes() == b"precious" and not path.is_symlink()
