"""From the parts of a measuring node to its result: rows, statistics, preview, and what its passport will need."""

from __future__ import annotations

import json
import time

from pipeline.classifier import WEIGHTS_FILE
from pipeline.dag import Task
from pipeline.measures import kept_rows, marks_of, reduced_arrays
from pipeline.parts import Assembly, device_of, parts_of
from pipeline.previews import Preview
from pipeline.revision import git_revision
from pipeline.scoring.weights import digest_of


def gather(task: Task, part: str, *, kept: int, precision: str) -> None:
    """Have ``count`` images measured by the part function ``part`` ("module:function") and write all that stays.

    ``kept`` is how many of them keep their features; statistics are of all. ``precision`` is that of drawing.
    """
    started, config = time.time(), task.config
    scorers, count = config["scorers"], config["count"]
    assembly = Assembly(task.out, count, kept_rows(scorers, kept), reduced_arrays(scorers))
    preview = Preview()
    for rows in parts_of(task, part, count):
        assembly.add(preview.taken_from(rows))
    assembly.finish()
    preview.write(task.out)
    facts = {
        "revision": git_revision(),
        "device": device_of(task.context),
        "extractors": marks_of(config, task.inputs),
        "judge": digest_of(task.inputs["judge"] / WEIGHTS_FILE) if "judge" in task.inputs else None,
        "precision": precision,
        "seconds": time.time() - started,
    }
    (task.out / "drawn.json").write_text(json.dumps(facts))
