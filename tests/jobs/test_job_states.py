"""The lines that a job logs are read as they are written."""

from __future__ import annotations

from io import StringIO

from jobs.job_states import NodeState, states_of
from jobs.progress import Lines


def test_every_line_of_progress_is_understood() -> None:
    now, out = [0.0], StringIO()
    lines = Lines(out, every=1, clock=lambda: now[0])
    lines.message("2026-11-22 INFO job_manager.py:581 -- Runtime env is setting up.")
    lines.message("stored already: data, real/8")
    lines.message("to compute: train/a, train/b, train/c, scores/a, scores/b")
    for node in ("train/a", "train/b", "train/c"):
        lines.started(node)
    lines.progress("train/a", 10, 100)
    now[0] = 20
    lines.progress("train/a", 20, 100)
    lines.progress("train/c", 7, None)
    lines.finished("train/b", 125, reused=False)
    lines.finished("train/b", 125, reused=True)  # another part of the command asks for it
    lines.finished("data", 3, reused=True)
    lines.message("scores/b: failed: ValueError: odd")
    assert states_of(out.getvalue()) == {
        "data": NodeState("stored", took="3.0 s"),
        "real/8": NodeState("stored"),
        "train/a": NodeState("running", 20, 100, left="2 min 40 s"),
        "train/b": NodeState("done", took="2 min 05 s"),
        "train/c": NodeState("running", 7),
        "scores/a": NodeState("waiting"),
        "scores/b": NodeState("failed"),
    }
    assert states_of("to compute: nothing\n") == {}
