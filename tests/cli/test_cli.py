"""``python -m cachebox``: what a user types and sees."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import subprocess
import sys

import pytest

from cachebox.cli import demo, experiment, main, terminal, words

GUARD = 60                                      # seconds, against hanging
SGR = re.compile(r"\x1b\[[0-9;]*m")

on_posix = pytest.mark.skipif(sys.platform == "win32", reason="signals, ptys and broken pipes are POSIX's")


def environment(**more):
    plain = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "FORCE_COLOR", "COLUMNS")}
    return {**plain, "PYTHONUTF8": "1", **more}


def run(*arguments, **options):
    """The command in a process of its own."""
    usual = {"capture_output": True, "encoding": "utf-8", "timeout": GUARD, "env": environment()}
    return subprocess.run([sys.executable, "-m", "cachebox", *arguments], **{**usual, **options})


@pytest.fixture(scope="module")
def short_run():
    """The whole demo, with the shortest time of measuring."""
    return run("demo", "--seconds", "0.1", "--json")


@pytest.fixture
def few_words(monkeypatch):
    """A library of a few words, so that the demo runs in this process and at once."""
    monkeypatch.setattr(words, "find_sources", lambda: ["one.py", "two.py"])
    monkeypatch.setattr(words, "read_words", lambda sources: ["def", "self", "retrun", "self", "pritn", "def"] * 100)
    monkeypatch.delenv("COLUMNS", raising=False)


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    encoding = "utf-8"

    def isatty(self):
        return True


class AsciiFile(io.StringIO):
    encoding = "ascii"


# --- help and errors --------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("arguments", [[], ["--help"]])
def test_help_lists_the_commands(arguments):
    told = run(*arguments)
    assert (told.returncode, told.stderr) == (0, "")
    assert told.stdout.startswith("usage: python -m cachebox ")
    assert re.search(r"^ +demo +\w", told.stdout, re.MULTILINE)


def test_help_of_the_demo(capsys):
    with pytest.raises(SystemExit) as end:
        main.main(["demo", "--help"])
    told = capsys.readouterr().out
    assert end.value.code == 0
    assert told.startswith("usage: python -m cachebox demo ")
    assert "--seconds N" in told and "--json" in told
    assert "(default: 15)" in " ".join(told.split())
    assert all(len(line) <= 80 for line in told.splitlines())


def test_version(capsys):
    assert main.main(["--version"]) == 0
    assert re.fullmatch(r"cachebox-cython \d+\.\d+\S*, Python \d\S*\n", capsys.readouterr().out)


@pytest.mark.parametrize("seconds", ["0", "-1", "nan", "inf", "soon", ""])
def test_refuses_seconds_that_make_no_sense(seconds, capsys):
    with pytest.raises(SystemExit) as end:
        main.main(["demo", "--seconds", seconds])
    assert end.value.code == 2
    said = " ".join(capsys.readouterr().err.split())
    assert f"must be a number of seconds between 0.1 and 3600, not {seconds!r}" in said


def test_refuses_an_unknown_command(capsys):
    with pytest.raises(SystemExit) as end:
        main.main(["frobnicate"])
    assert end.value.code == 2
    assert "frobnicate" in capsys.readouterr().err


@pytest.mark.parametrize("options", [[], ["--json"]])
def test_says_where_it_found_no_sources(options, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(words.sysconfig, "get_path", lambda name: str(tmp_path))
    assert main.main(["demo", *options]) == 1
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.splitlines()[-1].startswith("cachebox: error: ") and str(tmp_path) in said.err


# --- the input --------------------------------------------------------------------------------------------------------

def test_words_come_from_the_library_alone_and_in_the_same_order(tmp_path):
    for name in ("a.py", "pkg/b.py", "test/c.py", "pkg/tests/d.py", "site-packages/e.py", "notes.txt"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("import os\n", encoding="utf-8")
    found = words.find_sources(tmp_path)
    assert sorted(path.relative_to(tmp_path).as_posix() for path in found) == ["a.py", "pkg/b.py"]
    assert words.find_sources(tmp_path) == found


def test_words_are_what_looks_like_an_identifier(tmp_path):
    source = tmp_path / "a.py"
    source.write_bytes("if x1 == 1.5e3: naïve_name('it', 2)  # \xff".encode("latin-1"))
    gone = tmp_path / "gone.py"
    found = words.read_words([gone, source])
    assert found[:2] == ["if", "x1"]
    assert "it" in found and "2" not in found


def test_reads_the_library_of_this_python():
    sources = words.find_sources()
    found = words.read_words(sources[:50])
    assert "self" in found and len(found) > 1000


# --- the measurement --------------------------------------------------------------------------------------------------

def test_every_contender_takes_every_word():
    told = []
    text = ["self", "retrun", "pritn", "self"] * 300
    measured = experiment.measure(text, 3600, lambda share, so_far: told.append((share, so_far.words)))
    assert (measured.words, measured.distinct) == (1200, 3)
    assert told == [(500 / 1200, 500), (1000 / 1200, 1000), (1.0, 1200)]
    assert len(measured.contenders) == len(experiment.POLICIES) * len(experiment.SIZES)
    for contender in measured.contenders:
        assert (contender.cache.policy, contender.cache.max_size) == (contender.policy, contender.size)
        assert contender.cache.stats.misses == 3
        assert contender.cache.stats.hits == 1197
    assert measured.ceiling == 1197 / 1200
    assert measured.sampled == 120


def test_measures_at_least_one_turn_however_short_the_time():
    assert experiment.measure(["self"] * 2000, 1e-9).words == experiment.WORDS_PER_TURN


def test_the_speed_up_refers_to_the_extrapolated_sample():
    measured = experiment.Experiment(words=1000, distinct=10, sampled=100, sampled_seconds=2.0)
    fast, slow = (experiment.Contender("LRU", 100, seconds) for seconds in (4.0, 10.0))
    measured.contenders += [slow, fast]
    assert measured.uncached_seconds == 20.0
    assert (measured.speed_up(fast), measured.speed_up(slow)) == (5.0, 2.0)
    assert measured.best is fast


def test_caching_does_not_change_the_answers():
    contender = experiment.Contender("LFU", 100)
    assert [contender.function(word) for word in ["pritn", "pritn", "whlie"]] == ["print", "print", "while"]


# --- the result -------------------------------------------------------------------------------------------------------

def test_json_is_one_document_and_all_there_is_on_stdout(short_run):
    assert short_run.returncode == 0
    document = json.loads(short_run.stdout)
    assert {name: type(value) for name, value in document.items()} == {
        "version": int, "cachebox": str, "python": str, "source": dict, "measured": dict, "uncached": dict,
        "runs": list, "best": dict, "unbounded_hit_ratio": float, "elapsed_seconds": float,
    }
    assert document["version"] == 1
    assert set(document["source"]) == {"files", "words"}
    assert set(document["uncached"]) == {"sampled_calls", "sampled_seconds", "seconds_per_call", "extrapolated_seconds"}
    assert len(document["runs"]) == 9
    for each in document["runs"]:
        assert set(each) == {"policy", "size", "hit_ratio", "calls_saved", "seconds", "speed_up", "stats"}


def test_the_figures_in_json_agree_with_each_other(short_run):
    document = json.loads(short_run.stdout)
    measured, uncached = document["measured"], document["uncached"]
    assert 500 <= measured["words"] <= document["source"]["words"]
    assert uncached["extrapolated_seconds"] == pytest.approx(uncached["seconds_per_call"] * measured["words"])
    for each in document["runs"]:
        counts = each["stats"]
        assert counts["hits"] + counts["misses"] == measured["words"]
        assert each["calls_saved"] == counts["hits"]
        assert each["hit_ratio"] == counts["hits"] / measured["words"] <= document["unbounded_hit_ratio"] + 1e-12
        assert counts["sets"] - counts["evictions"] <= each["size"]
        assert each["speed_up"] == pytest.approx(uncached["extrapolated_seconds"] / each["seconds"])
    assert document["best"] in [{"policy": each["policy"], "size": each["size"]} for each in document["runs"]]


def test_progress_without_a_terminal_is_a_few_plain_lines(short_run):
    lines = short_run.stderr.splitlines()
    assert lines[0] == "  0%  reading the standard library"
    assert lines[-1].startswith("100%  ")
    assert len(lines) <= 6
    assert "\x1b" not in short_run.stderr and "\r" not in short_run.stderr


def test_text_has_the_table_and_the_report(few_words, capsys):
    assert main.main(["demo"]) == 0
    text = capsys.readouterr().out
    assert "\x1b" not in text
    for title in ("policy", "size", "hit ratio", "calls saved", "time", "speed-up"):
        assert title in text
    assert len(re.findall(r"^  (?:LRU|LFU|FIFO) ", text, re.MULTILINE)) == 9
    assert "extrapolated" in text
    assert "Cache statistics" in text and "99.3% of 600 lookups" in text
    assert all(line == line.rstrip() for line in text.splitlines())


@pytest.mark.parametrize("width", [40, 50, 60, 61, 80, 120])
@pytest.mark.parametrize("stream", [Terminal, AsciiFile])
def test_text_fits_the_screen(width, stream, monkeypatch):
    monkeypatch.setenv("COLUMNS", str(width))
    screen = terminal.Screen(stream())
    measured = experiment.measure(["def", "self", "retrun"] * 200, 3600)
    lines = [SGR.sub("", line) for line in demo.as_text(measured, screen, 10, 600, 1.0)]
    report = lines.index("  Cache statistics")
    assert max(len(line) for line in lines[:report]) <= width
    assert any("hit ratio" in line for line in lines)
    assert ("calls saved" in "".join(lines)) == (width > 60)
    if stream is AsciiFile:
        assert "".join(lines).isascii()


# --- terminals --------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize(
    ("stream", "variables", "coloured"),
    [
        (Terminal, {"TERM": "xterm"}, True),
        (Terminal, {"TERM": "xterm", "NO_COLOR": "1"}, False),
        (Terminal, {"TERM": "xterm", "NO_COLOR": ""}, True),
        (Terminal, {"TERM": "dumb"}, False),
        (io.StringIO, {"TERM": "xterm"}, False),
        (lambda: None, {"TERM": "xterm"}, False),
    ],
)
def test_colour_only_where_it_is_wanted(stream, variables, coloured, monkeypatch):
    monkeypatch.delenv("NO_COLOR", raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert (terminal.Screen(stream()).green("x") != "x") is coloured


@pytest.mark.parametrize("stream", [Terminal, AsciiFile])
@pytest.mark.parametrize("share", [-1, 0, 0.001, 0.5, 0.999, 1, 2])
def test_a_bar_is_as_wide_as_it_was_asked_to_be(stream, share):
    filled, rest = terminal.Screen(stream()).bar(share, 10)
    assert len(filled) + len(rest) == 10
    assert (len(rest) == 0) == (share >= 0.999)


def test_progress_on_a_terminal_is_one_line_that_disappears(monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    stream = Terminal()
    monkeypatch.setattr(terminal, "REDRAWS_APART", 0.0)
    with terminal.Progress(stream) as progress:
        for share in (0.0, 0.5, 1.0):
            progress.show(share, "words " * 20)
    drawn = stream.getvalue()
    assert "\n" not in drawn
    assert drawn.endswith("\r\x1b[K")
    frames = [SGR.sub("", frame).replace("\x1b[K", "") for frame in drawn.split("\r")[1:-1]]
    assert len(frames) == 3
    assert all(len(frame) < 40 for frame in frames)


def test_progress_in_a_file_is_a_line_for_each_quarter():
    stream = io.StringIO()
    with terminal.Progress(stream) as progress:
        for percent in range(101):
            progress.show(percent / 100, "done")
    assert stream.getvalue() == "".join(f"{percent:3}%  done\n" for percent in (0, 25, 50, 75, 100))


def test_progress_goes_on_when_nobody_reads_it():
    class Gone(io.StringIO):
        def write(self, text):
            raise BrokenPipeError

    with terminal.Progress(Gone()) as progress:
        progress.show(0.0, "nothing")
        progress.show(1.0, "nothing")


@on_posix
@pytest.mark.parametrize("variables", [{}, {"NO_COLOR": "1"}], ids=["colour", "NO_COLOR"])
def test_on_a_real_terminal(variables):
    import pty

    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "cachebox", "demo", "--seconds", "0.1"]
    environ = environment(TERM="xterm", COLUMNS="80", **variables)
    with subprocess.Popen(command, stdout=theirs, stderr=theirs, stdin=theirs, env=environ) as process:
        os.close(theirs)
        seen = b""
        try:
            while chunk := os.read(ours, 65536):
                seen += chunk
        except OSError:                         # how Linux says that the other end is closed
            pass
        finally:
            os.close(ours)
        assert process.wait(GUARD) == 0
    text = seen.decode()
    assert "\r\x1b[K" in text
    assert "Cache statistics" in text.rpartition("\x1b[K")[2]
    assert bool(SGR.search(text)) is not bool(variables)


# --- ends before the end ----------------------------------------------------------------------------------------------

@on_posix
def test_says_nothing_when_the_reader_goes_away():
    reading, writing = os.pipe()
    os.close(reading)
    try:
        ended = run("demo", "--seconds", "0.1", capture_output=False, stdout=writing, stderr=subprocess.PIPE)
    finally:
        os.close(writing)
    assert ended.returncode == 141
    assert all(re.match(r" *\d+%  ", line) for line in ended.stderr.splitlines()), ended.stderr


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="only Linux has a device that is always full")
def test_says_that_the_output_could_not_be_written():
    with open("/dev/full", "w") as full:
        ended = run("demo", "--seconds", "0.1", capture_output=False, stdout=full, stderr=subprocess.PIPE)
    assert ended.returncode == 1
    assert ended.stderr.splitlines()[-1].startswith("cachebox: error: cannot write the output: ")


@on_posix
@pytest.mark.parametrize("closed", ["stdout", "stderr"])
def test_works_without_a_stream(closed):
    descriptor = {"stdout": 1, "stderr": 2}[closed]
    ended = run("demo", "--seconds", "0.1", preexec_fn=lambda: os.close(descriptor))
    assert ended.returncode == 0
    assert ("Cache statistics" in ended.stdout) is (closed == "stderr")


@on_posix
def test_control_c():
    command = [sys.executable, "-m", "cachebox", "demo", "--seconds", "3600", "--json"]
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        encoding="utf-8",
        env=environment(),
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),   # the tests may run without it
    ) as process:
        process.stderr.readline()               # it has begun
        process.send_signal(signal.SIGINT)
        try:
            out, err = process.communicate(timeout=GUARD)
        finally:
            process.kill()
    assert process.returncode == 130
    assert out == ""
    assert err.splitlines()[-1] == "cachebox: interrupted"
    assert "Traceback" not in err


# --- what it takes ----------------------------------------------------------------------------------------------------

def test_needs_nothing_but_the_standard_library():
    code = """
import sys
before = set(sys.modules)
from cachebox.cli.main import main
main(["demo", "--seconds", "0.1", "--json"])
new = {name.partition(".")[0] for name in set(sys.modules) - before} - sys.stdlib_module_names - {"cachebox"}
print([name for name in new if "cython" not in name and not name.startswith("_sysconfigdata")], file=sys.stderr)
"""
    ended = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=GUARD, env=environment(), check=True
    )
    assert ended.stderr.splitlines()[-1] == "[]"


def test_help_does_not_wait_for_what_it_does_not_need():
    code = "import sys; from cachebox.cli.main import make_parser; make_parser(); print('asyncio' in sys.modules)"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=GUARD, check=True)
    assert ended.stdout == "False\n"
