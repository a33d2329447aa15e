"""`record`: every request of a running cache, as hashes, in a file that `simulate` reads; and nothing afterwards."""

from __future__ import annotations

import gzip
import threading
from array import array

import pytest

from cachebox import Cache, cached, record, simulate


def numbers(path):
    data = gzip.open(path).read() if str(path).endswith(".gz") else path.read_bytes()
    found = array("Q")
    found.frombytes(data)
    return found.tolist()


def pattern(requests):
    """Which requests are for the same key: that is all that is left of hashed keys."""
    seen = {}
    return [seen.setdefault(request, len(seen)) for request in requests]


def test_requests_are_written_in_order(any_policy, tmp_path):
    cache = Cache(100, policy=any_policy)
    requests = [n * n % 37 for n in range(500)]
    with record(cache, tmp_path / "load.u64") as recording:
        for key in requests:
            if cache.get(key) is None:
                cache.set(key, True)
    if any_policy in ("LRU", "LFU", "FIFO", "AUTO"):
        assert pattern(numbers(tmp_path / "load.u64")) == pattern(requests)
        assert (recording.requests, recording.lost) == (500, 0)


def test_each_request_is_written_once(policy, tmp_path):
    cache = Cache(2, policy=policy)
    path = tmp_path / "load.u64"
    for deeds, requests in [
        (lambda: [cache.get("absent"), cache.get("absent")], 2),
        (lambda: [cache.get("new"), cache.set("new", 1)], 1),
        (lambda: [cache.get("new"), cache["new"]], 2),
        (lambda: [cache.set("other", 1)], 1),
        (lambda: [cache.get_or_set("third", int), cache.get_or_set("third", int)], 2),
        (lambda: [cache.get_many(["fourth", "fifth"]), cache.update(fourth=4, fifth=5)], 2),
        (lambda: [cache.peek("new"), cache.delete("absent"), "x" in cache], 0),
    ]:
        with record(cache, path) as recording:
            deeds()
        assert recording.requests == requests
        cache.resize(10)


def test_a_cache_does_the_same_while_it_is_recorded(policy, tmp_path):
    cache, other = Cache(20, policy=policy), Cache(20, policy=policy)
    with record(cache, tmp_path / "load.u64"):
        for n in range(2000):
            for each in (cache, other):
                key = n * n % 61
                if each.get(key) is None:
                    each.set(key, n)
        assert list(cache) == list(other)
    for each in (cache, other):
        each.get(next(iter(each)))
    assert list(cache) == list(other) and cache.stats.hits == other.stats.hits


def test_afterwards_nothing_is_written(tmp_path):
    cache = Cache()
    with record(cache, tmp_path / "load.u64"):
        cache["a"] = 1
    cache["b"] = 2
    assert cache["a"] == 1
    assert len(numbers(tmp_path / "load.u64")) == 1
    with record(cache, tmp_path / "load.u64"):
        assert cache["a"] == 1 and cache["b"] == 2
    assert len(numbers(tmp_path / "load.u64")) == 2


def test_a_cached_function_is_recorded(tmp_path):
    @cached(max_size=10)
    def square(x):
        return x * x

    with record(square, tmp_path / "load.u64"):
        for x in (1, 2, 1, 1):
            square(x)
    assert pattern(numbers(tmp_path / "load.u64")) == [0, 1, 0, 0]


def test_loads_are_requests(tmp_path):
    cache = Cache(10, loader=lambda key: key)
    with record(cache, tmp_path / "load.u64"):
        cache.get("a")
        cache.get("a")
        cache.get_or_set("b", lambda: 1)
    assert pattern(numbers(tmp_path / "load.u64")) == [0, 0, 1]


def test_a_sample_is_of_keys(tmp_path):
    cache = Cache(10_000)
    with record(cache, tmp_path / "load.u64", sample=0.25):
        for _ in range(3):
            for key in range(10_000):
                cache.get(key) or cache.set(key, True)
    found = numbers(tmp_path / "load.u64")
    assert 2000 < len(set(found)) < 3000 and len(found) == 3 * len(set(found))


def test_a_name_in_gz_is_gzipped_and_simulated(tmp_path):
    cache = Cache(30)
    with record(cache, tmp_path / "load.u64.gz"):
        for key in [*range(40)] * 20:
            cache.get(key) or cache.set(key, True)
    assert simulate(numbers(tmp_path / "load.u64.gz"), "LRU", [30, 40]).hit_ratios["LRU", 40] == 0.95


def test_threads_are_recorded_together(tmp_path):
    cache = Cache(1000)
    with record(cache, tmp_path / "load.u64") as recording:
        def run():
            for key in range(2000):
                cache.set(key % 700, key)

        threads = [threading.Thread(target=run) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert recording.requests + recording.lost == 8000


def test_one_recording_at_a_time(tmp_path):
    cache = Cache()
    with record(cache, tmp_path / "one"):
        with pytest.raises(RuntimeError, match="recorded already"), record(cache, tmp_path / "two"):
            pass
        cache["a"] = 1
    assert len(numbers(tmp_path / "one")) == 1


@pytest.mark.parametrize(
    "what, options, error",
    [
        (3, {}, TypeError), (len, {}, TypeError), ({}, {}, TypeError),
        (Cache, {}, TypeError),
        (Cache(), {"sample": 0}, ValueError), (Cache(), {"sample": 1.5}, ValueError),
        (Cache(), {"sample": float("nan")}, ValueError), (Cache(), {"sample": "1"}, TypeError),
        (Cache(), {"sample": True}, TypeError),
    ],
)
def test_bad_input_is_refused(what, options, error, tmp_path):
    with pytest.raises(error, match=r"cache_or_function|sample"):
        record(what, tmp_path / "load", **options)
    assert not (tmp_path / "load").exists()


def test_a_file_that_cannot_be_opened_leaves_the_cache_alone(tmp_path):
    cache = Cache()
    with pytest.raises(OSError, match="none"), record(cache, tmp_path / "none" / "load"):
        pass
    with record(cache, tmp_path / "load"):
        cache["a"] = 1
    assert len(numbers(tmp_path / "load")) == 1


def test_what_went_wrong_with_the_file_is_raised_at_the_end():
    import os

    if not os.path.exists("/dev/full"):
        pytest.skip("no /dev/full here")
    cache = Cache()
    with pytest.raises(OSError, match="space"), record(cache, "/dev/full"):
        cache["a"] = 1
    cache["b"] = 1
    assert len(cache) == 2
