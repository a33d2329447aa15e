"""The helpers of the benchmarks run the right statements, in turn, and judge the results. No time is judged here."""

from __future__ import annotations

import functools
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
if not (ROOT / "bench").is_dir():
    pytest.skip("the benchmarks are not here", allow_module_level=True)
sys.path.append(str(ROOT))

from bench import figures, measure, paths, peers, workloads  # noqa: E402
from bench.measure import Candidate, candidate, interleave  # noqa: E402


def test_a_loop_runs_its_statement_once_for_each_key():
    seen = []
    loop = measure.compile_loop("if key:\n    seen.append(key)", seen=seen)
    assert loop([1, 0, 2]) >= 0
    assert seen == [1, 2]


def test_every_loop_has_a_code_object_of_its_own():
    first, second = (measure.compile_loop("f(key)", f=len) for _ in range(2))
    assert first.__code__ is not second.__code__


def test_a_loop_can_be_given_another_object_for_one_call():
    loop = measure.compile_loop("cache[key] = True", cache=None)
    loop(["a"], cache=(fresh := {}))
    assert fresh == {"a": True}


def test_an_async_loop_awaits():
    async def f(key):
        seen.append(key)

    seen = []
    run = measure.run_until_complete()
    assert run(measure.compile_async_loop("await f(key)", f=f)([1, 2])) >= 0
    assert seen == [1, 2]


def test_batches_have_every_key_equally_often_in_random_order():
    batches = measure.shuffled(list(range(100)), batch=50)
    stream = [key for batch in batches for key in batch]
    assert {stream.count(key) for key in range(100)} == {len(stream) // 100}
    assert stream[:100] != sorted(stream[:100])
    assert measure.in_turn(list(range(10)), batch=3) == [[0, 1, 2], [3, 4, 5], [6, 7, 8]]


def test_candidates_take_turns():
    turns = []
    kinds = [Candidate(name, lambda name=name: turns.append(name) or 1.0) for name in "abc"]
    timings = interleave(kinds, least=4, most=4)
    assert turns[:3] == ["a", "b", "c"]         # to warm up
    assert all(set(turns[start : start + 3]) == {"a", "b", "c"} for start in range(3, 15, 3))
    assert [len(timing.samples) for timing in timings.values()] == [4, 4, 4]


def test_the_best_round_counts():
    samples = {"a": [9.0, 3.0, 2.0, 4.0], "b": [9.0, 5.0, 4.0, 6.0]}
    kinds = [Candidate(name, lambda times=times: times.pop(0)) for name, times in samples.items()]
    timings = interleave(kinds, least=3, most=3)
    assert timings["a"].best == 2.0
    assert timings["b"].median == 5.0
    assert measure.ratio(timings, "b", "a") == 2.0


def test_two_candidates_of_one_name_are_refused():
    with pytest.raises(ValueError, match="same name"):
        interleave([Candidate("a", float), Candidate("a", float)])


def test_what_prepares_a_sample_runs_before_it():
    cache = {}
    fill = functools.partial(cache.update, x=1, y=2)
    each = candidate("delete", [["x", "y"]], "del cache[key]", prepare=lambda batch: fill(), cache=cache)
    assert each.sample() >= 0
    assert cache == {}


STANDARD = [peers.LRU, peers.DICT, peers.ORDERED, peers.FUNCTOOLS]


@pytest.mark.parametrize(
    "make",
    [
        lambda: workloads.reads(STANDARD, workloads.text_keys(10)),
        lambda: workloads.reads(STANDARD, workloads.object_keys(10), "item"),
        lambda: workloads.inserts(STANDARD, workloads.text_keys(10), workloads.text_keys(10_000, "new")),
        lambda: workloads.overwrites(STANDARD, workloads.tuple_keys(10)),
        lambda: workloads.deletes(STANDARD, workloads.number_keys(10)),
        lambda: workloads.fills(STANDARD, workloads.scattered_keys(10)),
        lambda: workloads.look_aside(STANDARD, workloads.zipf(1.0, 100, 10_000), 10),
        lambda: workloads.calls("key, y=1", peers.decorators("@cached", peers.FUNCTOOLS)),
        lambda: workloads.method_calls(peers.decorators("@cached", peers.FUNCTOOLS)),
        lambda: workloads.missed_calls(peers.decorators("@cached", peers.FUNCTOOLS)),
        lambda: workloads.async_calls(peers.decorators("@cached")),
    ],
    ids="reads items inserts overwrites deletes fills look_aside calls methods misses async".split(),
)
def test_each_workload_runs(make):
    candidates = make()
    assert any(each.name in (peers.LRU, "@cached") for each in candidates)
    for each in candidates:
        assert each.sample() > 0


def test_an_insert_into_a_full_cache_evicts_each_time():
    import cachebox

    cache = cachebox.Cache(10)
    container = peers.CONTAINERS[peers.LRU]
    container.fill(cache, workloads.text_keys(10))
    measure.compile_loop(container.insert, cache=cache)(workloads.text_keys(30, "new"))
    assert (len(cache), cache.stats.evictions) == (10, 30)


@pytest.mark.parametrize("path", paths.PATHS)
def test_each_path_whose_instructions_are_counted_runs(path):
    paths.run(path, 1000)


def test_a_figure_is_judged_by_the_targets_of_its_interpreter():
    figure = figures.Figure("get", "x", "x", "dict", (1.2, 1.0), (1.3, 1.1))
    old, new = figure.goal((3, 11), False), figure.goal((3, 14), False)
    assert [figure.verdict(value, old) for value in (1.25, 1.15, 0.9)] == ["missed", "must", "moonshot"]
    assert figure.verdict(1.25, new) == "must"
    assert figure.goal((3, 13), True) is None
    more = figures.Figure("threads", "x", "x", "dict", (0.8, 1.5), more=True, free_threaded=True)
    assert [more.verdict(value, (0.8, 1.5)) for value in (0.7, 1.0, 1.6)] == ["missed", "must", "moonshot"]


def test_every_figure_belongs_to_a_group_that_measures():
    assert {figure.group for figure in figures.FIGURES} == set(figures.GROUPS)


def test_a_peer_that_is_not_installed_is_left_out_with_a_word(monkeypatch):
    monkeypatch.setitem(peers.MODULES, "nowhere", "no_such_module_at_all")
    assert not peers.have("nowhere")
    assert peers.ABSENT.pop("nowhere") == "it is not installed"
