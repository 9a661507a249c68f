"""Talk goes to stderr: lines in a log, bars on a terminal, nothing when quiet."""

import io
import sys

import pytest

from adaptmtl.cli import reporter
from adaptmtl.cli.reporter import BarReporter, LineReporter, make_reporter
from adaptmtl.workspace import Silent


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_the_stream_decides():
    assert isinstance(make_reporter(False, Terminal()), BarReporter)
    assert isinstance(make_reporter(False, io.StringIO()), LineReporter)
    assert isinstance(make_reporter(True, Terminal()), Silent)


@pytest.mark.parametrize("make", [lambda: LineReporter(sys.stderr), BarReporter])
def test_the_same_line_is_said_once(capsys, make):
    talk = make()
    for line in ("a", "b", "a"):
        talk.say(line)
    assert capsys.readouterr().err == "a\nb\n"


def test_short_loops_are_not_mentioned():
    stream = io.StringIO()
    assert list(LineReporter(stream).track(range(3), "training")) == [0, 1, 2]
    assert stream.getvalue() == ""


def test_long_loops_are_mentioned_with_total_and_seconds(monkeypatch):
    clock = iter(range(0, 1000, 6))
    monkeypatch.setattr(reporter.time, "monotonic", lambda: next(clock))
    stream = io.StringIO()
    assert list(LineReporter(stream).track(iter("abcd"), "training", 4)) == list("abcd")
    assert stream.getvalue().splitlines() == ["training: 1 of 4, 12 s", "training: 3 of 4, 24 s"]


def test_bars_nest_vanish_and_leave_lines(capsys):
    bars = BarReporter()
    seen = []
    for outer in bars.track([1, 2], "outer"):
        for inner in bars.track(iter("ab"), "inner"):
            seen.append((outer, inner))
        bars.say(f"done [red] {outer}")
    bars.say("end")
    assert seen == [(1, "a"), (1, "b"), (2, "a"), (2, "b")]
    out, err = capsys.readouterr()
    assert out == ""
    assert all(line in err for line in ("done [red] 1", "done [red] 2", "end"))
    assert bars._progress is None


def test_a_loop_that_fails_takes_its_bar_along():
    bars = BarReporter()
    with pytest.raises(ZeroDivisionError):
        for one in bars.track([0], "outer"):
            1 / one
    assert bars._progress is None
    assert list(bars.track([1], "again")) == [1]
    assert bars._progress is None
