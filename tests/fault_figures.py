"""The figures of the fault matrix: tests record them, the end of the run shows them and writes them to a file.

A figure is what a row of the matrix (``tests/faults/README.md``) comes to: how many faults were met, and how many of
them were answered as they should be; or, of a twin with the protection switched off, how many were not.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

_KIND = "figure of the fault matrix"
RecordFigure = Callable[..., None]


@pytest.fixture
def record_figure(request: pytest.FixtureRequest) -> RecordFigure:
    """``record_figure(row, fault, figure)``; with ``protected=False`` what happens with the protection off."""

    def record(row: int, fault: str, figure: str, *, protected: bool = True) -> None:
        told = {"row": row, "fault": fault, "figure": figure, "protected": protected, "test": request.node.nodeid}
        request.node.user_properties.append((_KIND, told))

    return record


class Figures:
    """Collects what passing tests recorded; tests may run in other processes."""

    def __init__(self, file: Path | None) -> None:
        self.file = file
        self.found: list[dict[str, Any]] = []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "call":
            found = [value for kind, value in report.user_properties if kind == _KIND]
            self.found += [{**one, "passed": report.passed} for one in found]

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        if not self.found:
            return
        rows = sorted(self.found, key=lambda one: (one["row"], not one["protected"]))
        terminalreporter.section("fault matrix")
        for one in rows:
            mark = "" if one["protected"] else " [protection off]"
            failed = "" if one["passed"] else " FAILED"
            terminalreporter.line(f"{one['row']:>2}  {one['fault']}{mark}: {one['figure']}{failed}")
        if self.file is not None:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            self.file.write_text(json.dumps(rows, indent=1) + "\n")


def pytest_configure(config: pytest.Config) -> None:
    if not hasattr(config, "workerinput"):  # the processes of pytest-xdist report to the one that was started
        file = config.getoption("--fault-figures")
        config.pluginmanager.register(Figures(Path(file) if file else None), "rayfall_figures")
