"""What a command says of itself in a report."""

from __future__ import annotations

from pathlib import Path

from jobs.work import command_of


def test_a_command_can_be_typed_again() -> None:
    assert command_of("run", Path("my file.yaml"), ["seed=1", "a={b: 2}"]) == (
        "rayfall run 'my file.yaml' --set seed=1 --set 'a={b: 2}'"
    )
    assert command_of("report", Path("x.yaml"), None) == "rayfall report x.yaml"
    assert command_of("run", Path("x.yaml"), ["tracking.uri=http://me:pw@host:5000"]) == (
        "rayfall run x.yaml --set tracking.uri=http://host:5000"
    )
