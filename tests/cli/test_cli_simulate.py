"""``python -m cachebox simulate``: each form of file, what it prints and writes, and errors that name the line."""

from __future__ import annotations

import csv
import gzip
import io
import json
import sys
from array import array

import pytest

from cachebox import simulate
from cachebox.cli.main import main

LOOP = [n % 15 for n in range(600)]


def run(capsys, *arguments):
    status = main(["simulate", *map(str, arguments)])
    shown = capsys.readouterr()
    return status, shown.out, shown.err


def as_lines(keys=LOOP):
    return "".join(f"{key}\n" for key in keys).encode()


def as_numbers(keys=LOOP):
    numbers = array("Q", keys)
    if sys.byteorder == "big":
        numbers.byteswap()
    return numbers.tobytes()


def as_csv(keys=LOOP):
    return b"time,key\r\n" + b"".join(b'%d,"%d"\r\n' % (n, key) for n, key in enumerate(keys))


FORMS = [
    ("load.txt", as_lines(), []),
    ("load.u64", as_numbers(), []),
    ("load.bin", as_numbers(), ["--format", "u64"]),
    ("load.csv", as_csv(), ["--column", "key"]),
    ("load.csv", as_csv().partition(b"\n")[2], ["--column", "2"]),
    ("spaced", b"\n\n" + as_lines().replace(b"\n", b" \r\n\n") + b"\n", ["--format", "lines"]),
    ("marked", b"\xef\xbb\xbf" + as_lines(), []),
]


@pytest.mark.parametrize("packed", [False, True], ids=["plain", "gz"])
@pytest.mark.parametrize("name, data, options", FORMS, ids=[" ".join([form[0], *form[2]]) for form in FORMS])
def test_every_form_is_read(capsys, tmp_path, name, data, options, packed):
    path = tmp_path / (name + ".gz" if packed else name)
    path.write_bytes(gzip.compress(data) if packed else data)
    status, out, _ = run(capsys, path, *options, "--policy", "lru,auto", "--size", "10", "--json")
    document = json.loads(out)
    assert (status, document["requests"], document["distinct"]) == (0, 600, 15)
    found = {(cell["policy"], cell["size"]): cell["hit_ratio"] for cell in document["hit_ratios"]}
    assert found["LRU", 10] == 0.0 and found["OPT", 10] > 0.6


def test_standard_input_is_a_file(capsys, tmp_path, monkeypatch):
    path = tmp_path / "load"
    path.write_bytes(gzip.compress(as_lines()))
    with open(path) as stream:
        monkeypatch.setattr(sys, "stdin", stream)
        status, out, _ = run(capsys, "-", "--policy", "LRU", "--size", "10")
    assert status == 0 and "600 requests for 15 keys" in out


def test_it_prints_the_table_and_a_sentence_and_progress_elsewhere(capsys, tmp_path):
    path = tmp_path / "load"
    path.write_bytes(as_lines(LOOP * 10))
    status, out, err = run(capsys, path, "--size", "10,20,50%")
    found = simulate(list(map(str, LOOP * 10)), sizes=[10, 20, "50%"])
    assert status == 0 and "100%" in err and "replayed" in err and "replayed" not in out
    assert [line.split() for line in out.splitlines()[1:2]] == [["size", *found.policies, "OPT"]]
    assert "saves" in out.splitlines()[-1] and out.splitlines()[-1].endswith(".")


def test_files_are_written(capsys, tmp_path):
    path = tmp_path / "load"
    path.write_bytes(as_lines())
    status, out, _ = run(capsys, path, "--size", 10, "--csv", tmp_path / "out.csv", "--json", tmp_path / "out.json")
    assert status == 0 and "hit ratios" in out
    rows = list(csv.DictReader(io.StringIO((tmp_path / "out.csv").read_text())))
    assert {row["policy"] for row in rows} == {"LRU", "LFU", "FIFO", "AUTO", "OPT"}
    assert json.loads((tmp_path / "out.json").read_text())["requests"] == 600


BROKEN = [
    (b"", [], "holds no requests"),
    (b"\n \n\n", [], "holds no requests"),
    (b"a\nb\n\xff\xfe\n", [], "line 3: not UTF-8"),
    (b"1234567", ["--format", "u64"], "7 bytes, which is no row of 64-bit numbers"),
    (b"a,b\n1,2\n3\n", ["--column", "b"], "line 3: no column b, it has 1"),
    (b"a,b\n1,2\n", ["--column", "c"], "line 1: no column 'c', but a, b"),
    (b"a,b\n1,2\n", ["--column", "3"], "line 1: no column 3, it has 2"),
    (b"a,b\n1,2\n", ["--column", "0"], "line 1: no column '0'"),
    (b'a,b\n1,"2"x\n', ["--column", "b"], "line 2: "),
    (b"a,b\n1,\xff\n", ["--column", "b"], "line 2: not UTF-8"),
    (b"a,b\n", ["--column", "b"], "holds no requests"),
    (b"a\n", ["--format", "csv"], "CSV needs --column"),
    (b"a\n", ["--format", "lines", "--column", "1"], "--column is for CSV"),
    (b"a\n", ["--size", "ten"], "'ten'"),
    (b"a\n", ["--size", "1,,2"], "--size must be a list"),
    (b"a\n", ["--policy", "MRU"], "policies must be names"),
    (gzip.compress(as_lines())[:-20], [], "cannot read"),
    (gzip.compress(as_lines())[:20] + b"garbage", [], "cannot read"),
]


@pytest.mark.parametrize("data, options, words", BROKEN, ids=[words for _, _, words in BROKEN])
def test_errors_say_where_and_what(capsys, tmp_path, data, options, words):
    path = tmp_path / "load"
    path.write_bytes(data)
    status, out, err = run(capsys, path, *options)
    assert status == 1 and out == "" and "Traceback" not in err
    assert "cachebox: error:" in err and words in err


def test_a_file_that_is_not_there_is_an_error(capsys, tmp_path):
    status, _, err = run(capsys, tmp_path / "none")
    assert status == 1 and "none" in err and "No such file" in err
    (tmp_path / "load").write_bytes(as_lines())
    for option in ("--csv", "--json"):
        status, _, err = run(capsys, tmp_path / "load", "--size", 5, option, tmp_path / "no" / "where")
        assert status == 1 and "cannot write" in err and "where" in err


def test_help_needs_no_file(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["simulate", "--help"])
    assert ended.value.code == 0 and "--column" in capsys.readouterr().out
