"""Runs that the recordings of searches and of ablations both write: evaluations, trainings; and the tags of trials."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline.history import open_buffer, read_history, replay
from pipeline.recording.scores import all_figures, headline, passport_tags, passports_in
from pipeline.tracking.runs import Status, Tracker

STATUS_TAG, CHOSEN_TAG, FRONT_TAG, ERROR_TAG = "rayfall.status", "rayfall.chosen", "rayfall.front", "rayfall.error"
NOTE_TAG = "mlflow.note.content"  # what MLflow shows as the description of a run
ENDS: Mapping[str, Status] = {"finished": "FINISHED", "dropped": "FINISHED", "pruned": "KILLED", "failed": "FAILED"}
LONGEST_ERROR = 1000  # characters


def ending_tags(status: str, error: str | None) -> dict[str, str | None]:
    """How a trial ended, and why it failed; no error where it did not, or does no longer."""
    told = error if error is None or len(error) <= LONGEST_ERROR else f"{error[:LONGEST_ERROR]}..."
    return {STATUS_TAG: status, ERROR_TAG: told or None}


def log_evaluation(
    tracker: Tracker, opened: str, scores: Mapping[str, Mapping[str, Any]], *, stage: str, key: str, parent: str
) -> None:
    """The run of an evaluation of ``stage``, by kind of images: every figure, and the passports.

    ``key`` stands for these very scores: what is there already is whole.
    """
    if tracker.known(opened, key, finished=True):
        return
    passports = passports_in(scores)
    samples = [one["samples"] for one in scores.values() if one.get("samples") is not None]
    run = tracker.run(
        opened,
        name=f"evaluate/{stage}",
        kind="evaluation",
        key=key,
        parent=parent,
        params={"stage": stage, "samples": samples[0] if samples else None},
        tags=passport_tags(passports["chained"]) if "chained" in passports else {},
    )
    tracker.log_figures(run, {**all_figures(scores), **headline(scores)})
    if passports:
        tracker.log_dict(run, passports, "passports.json")
    tracker.finish(run)


def log_history(tracker: Tracker, run: str, folder: Path) -> None:
    """Give the run of a training what it lacks of the history in ``folder``, and end it."""
    buffer = open_buffer(tracker.uri, run)
    replay(buffer, read_history(folder))
    buffer.flush()
    tracker.finish(run)


def as_csv(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows as CSV, with every column that any of them has."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(dict.fromkeys(name for row in rows for name in row)), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
