"""`cachebox.keys`: arrays, frames and files as arguments."""

from __future__ import annotations

import array
import os
import subprocess
import sys

import pytest

from cachebox import Cache, cached, keys


def test_nothing_is_imported_for_them():
    program = "import sys, cachebox.keys as keys; keys.array(b'a', memoryview(b'b'))\n" + (
        "assert not {'numpy', 'pandas', 'polars'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


def test_an_array_counts_by_type_dtype_shape_and_bytes():
    np = pytest.importorskip("numpy", reason="numpy is not installed: it is in the dependency group `surroundings`")
    a = np.arange(12.0)
    different = [
        a,
        a + 1,
        a.astype("f4"),
        a.astype("M8[s]"),
        a.astype("M8[ms]"),
        a.reshape(3, 4),
        a.reshape(4, 3),
        a[:6],
        np.ma.masked_array(a, a > 3),
        np.ma.masked_array(a, a > 4),
        np.array([1, "a", None], dtype=object),
        np.array([1, "b", None], dtype=object),
        np.array([(1, 2.0)], dtype=[("x", int), ("y", float)]),
        np.array([(1, 2.0)], dtype=[("x", int), ("z", float)]),
        np.zeros(1_000_000, dtype="u1"),
        np.ones(1_000_000, dtype="u1"),
        array.array("d", a.tolist()),
        bytearray(a.tobytes()),
        np.float64(1),
        a.tobytes(),
    ]
    found = [keys.array(value) for value in different]
    assert len(set(found)) == len(found)
    for value in different:
        if hasattr(value, "copy"):
            assert keys.array(value) == keys.array(value.copy())
    transposed = np.asfortranarray(a.reshape(3, 4))
    assert keys.array(transposed) == keys.array(a.reshape(3, 4))           # the order in memory makes no difference
    assert keys.array(a[::2]) == keys.array(a[::2].copy())
    assert len(str(keys.array(np.zeros(1_000_000)))) < 500


def test_a_cached_function_of_arrays():
    np = pytest.importorskip("numpy", reason="numpy is not installed: it is in the dependency group `surroundings`")
    calls = []

    @cached(key_func=keys.array)
    def total(x, scale=1):
        calls.append(scale)
        return x.sum() * scale

    assert total(np.arange(4)) == total(np.arange(4)) == 6
    assert total(np.arange(4), scale=2) == total(np.arange(4), scale=2) == 12
    assert total(np.arange(5)) == 10
    assert calls == [1, 2, 1]
    assert total.invalidate(np.arange(5)) is True


def test_frames_count_by_labels_dtypes_index_and_values():
    pd = pytest.importorskip("pandas", reason="pandas is not installed: it is in the dependency group `surroundings`")
    frame = pd.DataFrame({"a": [1, 2], "b": ["x", "y"]})
    different = [
        frame,
        frame.rename(columns={"a": "c"}),
        frame[["b", "a"]],
        frame.assign(a=[1, 3]),
        frame.assign(b=["x", "z"]),
        frame.assign(a=[1.0, 2.0]),
        frame.set_index("b"),
        frame.set_axis([1, 2]),
        frame.iloc[:1],
        frame.assign(b=[["x"], ["y"]]),
        frame.assign(b=pd.Categorical(["x", "y"])),
        frame.assign(b=pd.Categorical(["x", "y"], ["y", "x"])),
        frame.assign(b=pd.Categorical(["x", "y"], ordered=True)),
        frame.assign(b=pd.array([1, None], dtype="Int64")),
        frame.assign(b=pd.to_datetime(["2026-01-01", "2026-01-02"])),
        frame.assign(b=pd.to_datetime(["2026-01-01", "2026-01-02"]).tz_localize("UTC")),
        frame.assign(b=pd.to_datetime(["2026-01-01", "2026-01-02"]).tz_localize("Asia/Tokyo")),
        pd.DataFrame([[1, 2]], columns=["a", "a"]),
        pd.DataFrame([[1, 3]], columns=["a", "a"]),
        pd.DataFrame([[1]], index=pd.MultiIndex.from_tuples([("x", 1)], names=["k", "n"])),
        pd.DataFrame([[1]], index=pd.MultiIndex.from_tuples([("x", 1)], names=["k", "m"])),
        frame["a"],
        frame["a"].rename("c"),
        frame["a"].to_numpy(),
        frame.index,
        frame.columns,
        pd.DataFrame(),
    ]
    found = [keys.frame(value) for value in different]
    assert len(set(found)) == len(found)
    for value, key in zip(different, found, strict=True):
        assert keys.frame(value.copy()) == key
        assert keys.array(value) == key


def test_frames_of_polars_count_by_names_dtypes_and_values():
    pl = pytest.importorskip("polars", reason="polars is not installed: it is in the dependency group `surroundings`")
    different = [
        pl.DataFrame({"a": [1, 2], "b": ["x", None]}),
        pl.DataFrame({"c": [1, 2], "b": ["x", None]}),
        pl.DataFrame({"b": ["x", None], "a": [1, 2]}),
        pl.DataFrame({"a": [1, 3], "b": ["x", None]}),
        pl.DataFrame({"a": [1, 2], "b": ["x", "None"]}),
        pl.DataFrame({"a": [1.0, 2.0], "b": ["x", None]}),
        pl.DataFrame({"a": pl.Series([1, 2], dtype=pl.Int32), "b": ["x", None]}),
        pl.DataFrame({"a": [[1], [2]]}),
        pl.DataFrame({"a": [[1], [3]]}),
        pl.DataFrame({"a": [{"x": 1}, {"x": 2}]}),
        pl.DataFrame({"a": [{"x": 1}, {"x": 3}]}),
        pl.Series("a", [1, 2]),
        pl.Series("c", [1, 2]),
        pl.DataFrame(),
    ]
    found = [keys.frame(value) for value in different]
    assert len(set(found)) == len(found)
    assert [keys.frame(value.clone()) for value in different] == found
    with pytest.raises(TypeError, match="neither hashable"):
        keys.frame(different[0].lazy())


def test_what_is_no_array_counts_as_it_is():
    assert keys.array(1, "a", x=2) == keys.array(1, "a", x=2)
    assert keys.array(("x", 1)) != keys.array(x=1) and keys.array(a=1, b=2) == keys.array(b=2, a=1)
    assert keys.array(memoryview(b"abc")) not in (keys.array(b"abc"), keys.array("abc"))
    with pytest.raises(TypeError, match="neither hashable, nor an array"):
        keys.array([1])
    part = keys.array(memoryview(b"abc"))[0][0]
    assert keys.array(part) != keys.array(memoryview(b"abc"))       # a part of a key, as an argument, has another


def test_a_file_counts_by_path_size_and_time_of_change(tmp_path, monkeypatch):
    path = tmp_path / "data"
    calls = []

    @cached(key_func=keys.file)
    def read(path, upper=False):
        calls.append(path)
        try:
            with open(path) as file:
                return file.read()
        except FileNotFoundError:
            return None

    assert read(path) is read(path) is None and len(calls) == 1
    path.write_text("one")
    assert read(path) == read(str(path)) == read(os.fsencode(path)) == "one" or os.fsencode(path) not in calls
    count = len(calls)
    os.utime(path, ns=(1, 1))
    assert read(path) == "one" and len(calls) == count + 1
    path.write_text("three")
    os.utime(path, ns=(1, 1))
    assert read(path) == "three" and len(calls) == count + 2
    assert read(path, upper=True) == "three" and len(calls) == count + 3
    assert read(path=path) == "three"
    monkeypatch.chdir(tmp_path)
    assert keys.file("data") == keys.file(path) == keys.file(path="data")
    with pytest.raises(TypeError, match="path"):
        keys.file()
    with pytest.raises(TypeError):
        keys.file(3)


def test_combine_treats_each_parameter_in_its_own_way(tmp_path):
    calls = []

    @cached(key_func=keys.combine("load", path=keys.file, data=keys.array, ignore="session"))
    def load(path, data, session=None, *, scale=1):
        calls.append(path)
        return len(data)

    path = tmp_path / "data"
    assert load(path, bytearray(b"a"), object()) == 1
    assert load(data=bytearray(b"a"), path=str(path), scale=1) == 1
    assert len(calls) == 1
    load(path, bytearray(b"b"))
    load(path, bytearray(b"a"), scale=2)
    path.write_text("")
    load(path, bytearray(b"a"))
    assert len(calls) == 4
    with pytest.raises(TypeError):
        load()                              # says the function
    assert load.cache_key(path, bytearray(b"a"))[0] == "load"


def test_combine_takes_parts_in_order_and_more_arguments():
    @cached(key_func=keys.combine(keys.array, None))
    def f(data, other, *rest, **more):
        return [other, *rest, *more]

    assert f(bytearray(b"a"), 1, 2, x=3) is f(bytearray(b"a"), 1, 2, x=3)
    assert f(bytearray(b"a"), 1, ("x", 3)) is not f(bytearray(b"a"), 1, x=3)


def test_combine_in_a_shared_cache():
    cache = Cache()

    @cached(cache, key_func=keys.combine("least"))
    def least(x):
        return min(x)

    @cached(cache, key_func=keys.combine("most"))
    def most(x):
        return max(x)

    assert least((1, 2)) == 1 and most((1, 2)) == 2


def test_combine_refuses_what_makes_no_sense():
    with pytest.raises(TypeError, match="key function or None, not int"):
        keys.combine(path=1)
    with pytest.raises(ValueError, match=r"'pth', but .* has no such parameter"):
        cached(key_func=keys.combine(pth=keys.file))(lambda path: 0)
    with pytest.raises(ValueError, match="2 parts, for 1"):
        cached(key_func=keys.combine(None, None))(lambda path: 0)
