"""What a person sees while a graph runs."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from jobs.progress import Bars, Lines, Pace, display, duration


class Clock:
    """A clock that the test moves."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.04, "0.0 s"), (8.21, "8.2 s"), (9.96, "10 s"), (59.96, "1 min 00 s"), (80, "1 min 20 s"), (7500, "2 h 05 min")],
)
def test_durations_are_words(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_the_pace_of_a_resumed_node_ignores_what_was_done_before() -> None:
    pace = Pace(0.0)
    assert pace.left(10.0, 900, 1000) == ""
    assert pace.left(20.0, 910, 1000) == "1 min 30 s left"
    assert pace.left(20.0, 910, None) == ""
    assert pace.left(30.0, 100, 1000) == ""  # the node began again, on another worker
    assert pace.left(40.0, 200, 1000) == "1 min 20 s left"


def test_lines_are_throttled_per_node() -> None:
    clock, stream = Clock(), io.StringIO()
    lines = Lines(stream, every=15, clock=clock)
    lines.started("train/base8")
    for second in range(1, 31):
        clock.now += 1
        lines.progress("train/base8", 10 * second, 600)
        lines.progress("ingest", second, None)
    lines.finished("train/base8", 60.0, False)
    lines.finished("data", 3.0, True)
    assert stream.getvalue().splitlines() == [
        "train/base8: started",
        "train/base8: 150 of 600, 45 s left",
        "ingest: 16 so far",
        "train/base8: 300 of 600, 30 s left",
        "train/base8: done in 1 min 00 s",
        "data: reused, took 3.0 s when it was computed",
    ]


def test_a_node_that_stands_still_is_spoken_of_less_often() -> None:
    clock, stream = Clock(), io.StringIO()
    lines = Lines(stream, every=15, clock=clock)
    lines.started("search")
    for _ in range(300):
        clock.now += 1
        lines.progress("search", 0, 8)
    lines.progress("search", 2, 8)
    clock.now += 15
    lines.progress("search", 2, 8)
    clock.now += 1
    lines.progress("search", 3, 8)
    assert stream.getvalue().splitlines()[1:] == [
        *["search: 0 of 8"] * 3,
        "search: 2 of 8, 14 min 57 s left",
        "search: 3 of 8, 8 min 45 s left",
    ]


def test_a_terminal_gets_bars_and_a_line_per_finished_node() -> None:
    stream = io.StringIO()
    with display(Console(file=stream, force_terminal=True, width=100)) as events:
        assert isinstance(events, Bars)
        events.started("train/sr16")
        events.progress("train/sr16", 30, 800)
        events.progress("never/announced", 1, 2)
        events.message("[not markup]")
        events.finished("train/sr16", 75.0, False)
        events.finished("data", 3.0, True)
        assert list(events.tasks) == ["never/announced"]
    text = stream.getvalue()
    assert "train/sr16" in text
    assert "30/800" in text
    assert "[not markup]" in text
    assert "done in 1 min 15 s" in text


def test_a_pipe_gets_lines() -> None:
    stream = io.StringIO()
    with display(Console(file=stream)) as events:
        assert isinstance(events, Lines)
        events.message("a [b]line[/b] as it is, however long it is " + "x" * 100)
    assert stream.getvalue() == "a [b]line[/b] as it is, however long it is " + "x" * 100 + "\n"
