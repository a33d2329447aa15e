"""`simulate`: its counts are those of caches and of slow, plain optima; its tables; its errors."""

from __future__ import annotations

import csv
import json
import random
from importlib.util import find_spec

import pytest

from cachebox import AutoPolicy, Cache, EvictionPolicy, LRUPolicy, simulate
from cachebox._simulation.advice import spread
from cachebox.policies import BUILT_IN


def keys(count=3000, seed=1, most=200):
    chance = random.Random(seed)
    return [int(most * chance.random() ** 2) for _ in range(count)]


def on_a_cache(requests, policy, size, **options):
    cache = Cache(size, policy=policy, **options)
    for key in requests:
        if cache.get(key) is None:
            cache.set(key, key)
    return cache.stats.hit_rate()


def optimum(requests, size):
    """Belady's rule: the key whose next request is the last, or that has none, leaves; it may be the new key."""
    held, hits = set(), 0
    for at, key in enumerate(requests):
        hits += key in held
        held.add(key)
        if len(held) > size:
            rest = requests[at + 1:]
            held.remove(max(held, key=lambda one: rest.index(one) if one in rest else len(rest)))
    return hits / len(requests)


class MostRecent(EvictionPolicy):
    """A policy written in Python: it evicts the entry that was used last."""

    def __init__(self, max_size):
        super().__init__(max_size)
        self.keys = {}

    def add(self, key):
        self.keys[key] = None

    def remove(self, key):
        del self.keys[key]

    def access(self, key):
        self.keys[key] = self.keys.pop(key)

    def evict(self):
        return self.keys.popitem()[0] if self.keys else None

    def clear(self):
        self.keys.clear()

    def __len__(self):
        return len(self.keys)

    def __contains__(self, key):
        return key in self.keys

    def __iter__(self):
        return reversed(self.keys)


@pytest.mark.parametrize("size", [1, 2, 17, 100, 500])
def test_hit_ratios_are_those_of_caches(policy, size):
    requests = [f"key {key}" for key in keys()] + keys(500, 2)
    assert simulate(requests, policy, size).hit_ratios[policy, size] == on_a_cache(requests, policy, size)


@pytest.mark.parametrize("size", [1, 2, 5, 20])
@pytest.mark.parametrize("seed", range(4))
def test_the_optimum_is_beladys(size, seed):
    requests = keys(400, seed, 40)
    assert simulate(requests, "LRU", size).hit_ratios["OPT", size] == optimum(requests, size)


def test_no_policy_beats_the_optimum_and_a_larger_one_is_no_worse():
    found = simulate(keys(), sizes=[1, 5, 20, 50, 100, 400])
    best = [found.hit_ratios["OPT", size] for size in found.sizes]
    assert best == sorted(best)
    assert all(found.hit_ratios[policy, size] <= found.hit_ratios["OPT", size]
               for policy in BUILT_IN for size in found.sizes)
    assert best[-1] == 1 - found.distinct / found.requests


def test_without_choices_all_policies_and_a_row_of_sizes():
    found = simulate(iter(keys()))
    assert found.policies == list(BUILT_IN) and (found.requests, found.distinct) == (3000, len(set(keys())))
    assert found.sizes == sorted(found.sizes) and len(found.sizes) == 7
    assert set(found.hit_ratios) == {(policy, size) for policy in [*BUILT_IN, "OPT"] for size in found.sizes}


def test_sizes_are_counts_or_per_cents_of_the_keys():
    requests = list(range(200)) * 2
    assert simulate(requests, "lru", [7, "10%", "2.5 %", "1_000"]).sizes == [5, 7, 20, 1000]
    assert simulate(requests, "lru", "50%").sizes == [100]
    assert simulate([1, 2], "lru", ["0.1%", 1]).sizes == [1]


def test_policies_are_names_in_any_case_or_classes():
    found = simulate(keys(600), [" auto", "Lru", LRUPolicy, MostRecent, "OPT"], [20])
    assert found.policies == ["AUTO", "LRU", "MostRecent"]
    assert found.hit_ratios["MostRecent", 20] == on_a_cache(keys(600), MostRecent, 20)


def weigh(key):
    return 1 + key % 5


@pytest.mark.parametrize("kind", ["LRU", "LFU", "FIFO", "AUTO", MostRecent])
def test_weights_bound_what_is_held(kind):
    requests = keys()
    found = simulate(requests, kind, [40], weights=weigh)
    (name,) = found.policies
    expected = on_a_cache(requests, kind, None, max_weight=40, weigher=lambda key, value: weigh(key))
    allowed = 0.06 if kind == "AUTO" else 0     # its sample is random
    assert found.hit_ratios[name, 40] == pytest.approx(expected, abs=allowed)
    by_mapping = simulate(requests, kind, [40], weights={key: weigh(key) for key in requests})
    assert by_mapping.hit_ratios == found.hit_ratios


def test_what_weighs_more_than_the_size_is_never_held():
    found = simulate(["heavy", "light"] * 50, "LRU", [2], weights={"heavy": 3, "light": 1})
    assert found.hit_ratios["LRU", 2] == found.hit_ratios["OPT", 2] == 0.49


def test_progress_is_told_up_to_the_end():
    told = []
    simulate(keys(1000), ["LRU", "AUTO"], [5, 50], progress=lambda done, total: told.append((done, total)))
    assert told == sorted(told) and told[-1] == (6000, 6000) and len(told) > 50


@pytest.mark.parametrize(
    "arguments, options, error, words",
    [
        ([[]], {}, ValueError, "keys must hold at least one request"),
        ([[[1]]], {}, TypeError, "unhashable"),
        ([[1], "MRU"], {}, ValueError, "policies must be names .LRU, LFU, FIFO, AUTO.*'MRU'"),
        ([[1], [3]], {}, TypeError, "policies must be names"),
        ([[1], []], {}, ValueError, "at least one of LRU"),
        ([[1], "LRU", []], {}, ValueError, "at least one size"),
        ([[1], "LRU", [0]], {}, ValueError, "at least 1, not 0"),
        ([[1], "LRU", ["0%"]], {}, ValueError, "at least 1"),
        ([[1], "LRU", ["ten"]], {}, ValueError, "'ten'"),
        ([[1], "LRU", [1.5]], {}, TypeError, "not float"),
        ([[1], "LRU", [True]], {}, TypeError, "not bool"),
        ([[1], "LRU", [1]], {"weights": 3}, TypeError, "weights must be a callable or a mapping, not int"),
        ([[1], "LRU", [1]], {"weights": {1: -1}}, ValueError, "weights must be 0 or more and finite, not -1.0 for 1"),
        ([[1], "LRU", [1]], {"weights": {1: "2"}}, TypeError, "not str for 1"),
        ([[1], "LRU", [1]], {"progress": 3}, TypeError, "progress must be callable, not int"),
    ],
)
def test_bad_input_is_refused_in_words(arguments, options, error, words):
    with pytest.raises(error, match=words):
        simulate(*arguments, **options)


def test_what_the_callables_raise_comes_out():
    def fail(*_):
        raise LookupError("mine")

    for options in ({"weights": fail}, {"progress": fail}):
        with pytest.raises(LookupError, match="mine"):
            simulate([1, 2], "LRU", [1], **options)


# --- what it shows ---------------------------------------------------------------------------------------------------


def test_the_best_is_by_size_or_by_the_mean_and_never_the_optimum():
    found = simulate([*range(15)] * 100, sizes=[10])
    assert found.best() == found.best(10) == "AUTO"
    with pytest.raises(KeyError, match="11"):
        found.best(11)


def test_the_table_has_a_line_for_each_size_and_a_star_for_the_best():
    found = simulate([*range(15)] * 100, sizes=[10, 15])
    head, titles, ten, fifteen = found.table().splitlines()
    assert "1,500 requests for 15 keys" in head
    assert titles.split() == ["size", "LRU", "LFU", "FIFO", "AUTO", "OPT"]
    assert ten.split()[0] == "10" and ten.count("*") == 1 and fifteen.count("*") == 4


def test_files_hold_every_cell(tmp_path):
    found = simulate(keys(500), ["LRU", "AUTO"], [5, "20%"])
    found.to_csv(tmp_path / "found.csv")
    found.to_json(tmp_path / "found.json")
    with open(tmp_path / "found.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert {(row["policy"], int(row["size"])): float(row["hit_ratio"]) for row in rows} == found.hit_ratios
    document = json.loads((tmp_path / "found.json").read_text())
    cells = {(cell["policy"], cell["size"]): cell["hit_ratio"] for cell in document["hit_ratios"]}
    assert cells == found.hit_ratios and document["advice"] == found.advice() and document["requests"] == 500


def test_in_a_notebook_it_is_a_table():
    class Odd(MostRecent):
        pass

    Odd.__name__ = "<b>"
    html = simulate(keys(500), ["LRU", Odd], [5, 10])._repr_html_()
    assert html.count("<tr>") == 3 and "&lt;b&gt;" in html and "<th><b>" not in html


def test_advice_says_what_would_be_saved_and_how_sure_it_is():
    loop = [*range(150)] * 100
    said = simulate(loop, sizes=[100, 200]).advice()
    assert "AUTO at size 100 saves" in said and "LRU at twice the size saves" in said and "ranges" in said
    chance = random.Random(4)
    even = simulate([chance.randrange(50) for _ in range(5000)], ["LRU", "FIFO"], [25]).advice()
    assert "saves nothing for certain" in even
    assert "too few" in simulate([1, 2, 3], "LRU", [1, 2]).advice()
    assert "Nothing to compare" in simulate(keys(), "LRU", [5]).advice()


def test_ranges_widen_with_what_varies():
    steady, wild = [50] * 20, [0, 100] * 10
    low, high = spread([100] * 20, steady)
    assert low == high == pytest.approx(0.5)
    wide_low, wide_high = spread([100] * 20, wild)
    assert wide_low < 0.35 and wide_high > 0.65


def test_without_matplotlib_a_plot_says_what_to_install(monkeypatch):
    import sys

    for name in ("matplotlib", "matplotlib.figure", "matplotlib.ticker"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ImportError, match=r'pip install "cachebox-cython\[plot\]"'):
        simulate([1, 2, 1], "LRU", [1]).plot()


@pytest.mark.skipif(find_spec("matplotlib") is None, reason="matplotlib is not installed: it is in the extra `plot`")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_plot_is_a_picture_with_a_name_at_each_curve(tmp_path):
    found = simulate(keys(500), ["LRU", "AUTO", MostRecent], [5, 10, 20])
    figure = found.plot(tmp_path / "plot.png")
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")
    (axes,) = figure.axes
    names = {text.get_text(): text.xyann[1] if hasattr(text, "xyann") else None for text in axes.texts}
    assert set(names) == {"LRU", "AUTO", "MostRecent", "OPT"} and len(axes.lines) == 4
    assert len({line.get_linestyle() + str(line.get_marker()) for line in axes.lines}) == 4     # without colour


def test_a_simulation_of_a_policy_with_state_of_its_own_starts_anew():
    first, second = (simulate(keys(), AutoPolicy, [20]).hit_ratios for _ in range(2))
    assert first == second
