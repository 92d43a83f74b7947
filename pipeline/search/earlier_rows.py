"""What a smaller draw of the same images left: its rows are the first of a larger one, bit for bit.

Images are drawn in canonical blocks and keyed by index, so a first look at whole blocks is the beginning of the full
number. Where the smaller result lies is said in the context of the larger node: the larger one has the same digest and
the same bytes with it and without. Decides nothing about who looks first: see ``pipeline.search.spec``.
"""

from __future__ import annotations

import json
import time
from pathlib import Path

import numpy as np

from pipeline.commits import CommitLog
from pipeline.dag import Task, source_of
from pipeline.measures import reduced_arrays
from pipeline.parts import Rows, device_of


def earlier_rows(task: Task, function: str) -> tuple[Rows, int]:
    """The rows, previews among them, of the draw that ``context["earlier"]`` has the key of, and how many there are.

    ({}, 0) where it names none, or one that is not stored, kept fewer rows, or was made by other code, on another kind
    of device, with another number of threads or by nets that were compiled or not: all of a result is said to be of one
    making.
    """
    found = _earlier(task, function)
    if found is None:
        return {}, 0
    folder, count = found
    return {path.stem: np.load(path) for path in sorted(folder.glob("*.npy"))}, count


def first_row(task: Task, function: str) -> int:
    """The first image that is left to draw."""
    found = _earlier(task, function)
    return 0 if found is None else found[1]


def _earlier(task: Task, function: str) -> tuple[Path, int] | None:
    key = task.context.get("earlier")
    found = None if key is None else CommitLog(task.storage, key, owner="reader", clock=time.time).latest_whole()
    if found is None:
        return None
    entry, folder = found
    facts, count = json.loads((folder / "drawn.json").read_text()), int(entry.info["summary"]["count"])
    made = (entry.info.get("source"), facts["device"], facts.get("threads"), facts.get("compiled", False))
    context = task.context
    compiled = context.get("compiled_sampling", False)
    if made != (source_of(function), device_of(context), context["threads"], compiled):
        return None
    reduced = [name for name in reduced_arrays(task.config["scorers"]) if (folder / f"stats-{name}.npz").exists()]
    if not all((folder / f"{name}.npy").exists() for name in reduced):
        return None  # it was drawn for its own sake, and kept statistics alone of what is of use in them alone
    assert count % task.config["block"] == 0, f"{count} images are no whole blocks, so the last of them was cut short"
    assert count < task.config["count"], f"{count} images are not the beginning of {task.config['count']}"
    return folder, count
