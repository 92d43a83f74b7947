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
from pipeline.search.earlier_rows import earlier_rows


def gather(task: Task, part: str, *, kept: int, precision: str) -> None:
    """Have ``count`` images measured by the part function ``part`` ("module:function") and write all that stays.

    ``kept`` is how many of them keep their features; statistics are of all. ``precision`` is that of drawing. What a
    smaller draw of the same images left is taken over; a draw that a larger one is to take over keeps every row.
    """
    started, config, context = time.time(), task.config, task.context
    scorers, count = config["scorers"], config["count"]
    rows_kept = {} if context.get("continued") else kept_rows(scorers, kept)
    assembly, preview, spent = Assembly(task.out, count, rows_kept, reduced_arrays(scorers)), Preview(), 0.0
    rows, first = earlier_rows(task, part)
    if first:
        assembly.add(preview.taken_from(rows))
    parts, waited = parts_of(task, part, count, first=first), 0.0
    while True:
        asked = time.time()
        found = next(parts, None)
        waited += time.time() - asked
        if found is None:
            break
        assembly.add(preview.taken_from(found.rows))
        spent += found.seconds
    assembly.finish()
    preview.write(task.out)
    seconds = time.time() - started
    facts = {
        "revision": git_revision(),
        "device": device_of(context),
        "threads": context["threads"],
        "compiled": context.get("compiled_sampling", False),
        "extractors": marks_of(config, task.inputs),
        "judge": digest_of(task.inputs["judge"] / WEIGHTS_FILE) if "judge" in task.inputs else None,
        "precision": precision,
        "seconds": seconds,
        "computing_seconds": spent,  # of all workers together, also of those before a kill; not of rows taken over
        "gathering_seconds": seconds - waited,  # of putting together, which is no part's
        "taken": first,
    }
    (task.out / "drawn.json").write_text(json.dumps(facts))
