"""Figures of benchmarks as runs of MLflow: one run each time, all in one experiment, so speed has a history."""

from __future__ import annotations

import os
import platform
import re
import time
import uuid
from collections.abc import Iterator, Mapping
from typing import Any

from pipeline.revision import git_revision
from pipeline.tracking.addresses import absolute_uri

HISTORY = "benchmarks"  # name of the experiment
_LEFT_OUT = ("json", "mlflow", "part")
_REFUSED = re.compile(r"[^\w\-. /:]")  # by MLflow, in names


def log_benchmark(uri: str, part: str, options: Mapping[str, Any], figures: Mapping[str, Any]) -> str:
    """A run of MLflow at ``uri`` with the ``options`` as params and all numbers as metrics; gives its id.

    Raises UserError when the store cannot be reached.
    """
    from pipeline.tracking.runs import Tracker

    tracker = Tracker(absolute_uri(uri))
    machine = f"{platform.machine()}, {os.cpu_count()} cores"
    run = tracker.run(
        tracker.open_experiment(HISTORY),
        name=part,
        kind="benchmark",
        key=f"{part}-{uuid.uuid4().hex[:16]}",
        params={name: value for name, value in options.items() if name not in _LEFT_OUT},
        tags={"rayfall.revision": git_revision(), "rayfall.machine": str(figures.get("machine", machine))},
    )
    now = int(1000 * time.time())
    tracker.log_points(run, [(name, value, 0, now) for name, value in numbers_in(figures)])
    tracker.log_dict(run, figures, "figures.json")
    tracker.finish(run)
    return run


def numbers_in(figures: Any, name: str = "") -> Iterator[tuple[str, float]]:
    """All numbers by their path, places in lists counted from 0: names that MLflow takes."""
    if isinstance(figures, Mapping):
        items = [(str(key), value) for key, value in figures.items()]
    elif isinstance(figures, list | tuple):
        items = [(str(place), value) for place, value in enumerate(figures)]
    else:
        if isinstance(figures, int | float) and not isinstance(figures, bool):
            yield name, float(figures)
        return
    for key, value in items:
        own = _REFUSED.sub("_", key).replace("/", "over")
        yield from numbers_in(value, f"{name}/{own}" if name else own)
