"""Warm starts: `warm`, `dump` and `load`."""

from __future__ import annotations

import copy
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
from cachebox import warming as warmings
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
    assert weighed.load(path) == 2 and dict(weighed) == {8: 8, 9: 9}    # not an older 10, now that the newer one left
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
