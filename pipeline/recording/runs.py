"""Runs that the recordings of experiments, searches and ablations all write: evaluations, trainings; tags of trials."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.experiment_spec import Experiment
from pipeline.history import history_points, read_history
from pipeline.outcome import Outcome
from pipeline.recording.scores import all_figures, metrics_of, passport_tags, passports_in, passports_of
from pipeline.recording.settings import evaluation_params, training_params
from pipeline.results import Result
from pipeline.tracking.runs import Status, Tracker
from pipeline.tracking.sending import Sender

STATUS_TAG, CHOSEN_TAG, FRONT_TAG, ERROR_TAG = "rayfall.status", "rayfall.chosen", "rayfall.front", "rayfall.error"
NOTE_TAG = "mlflow.note.content"  # what MLflow shows as the description of a run
ENDS: Mapping[str, Status] = {"finished": "FINISHED", "dropped": "FINISHED", "pruned": "KILLED", "failed": "FAILED"}
LONGEST_ERROR = 1000  # characters


def ending_tags(status: str, error: str | None) -> dict[str, str | None]:
    """How a trial ended, and why it failed; no error where it did not, or does no longer."""
    told = error if error is None or len(error) <= LONGEST_ERROR else f"{error[:LONGEST_ERROR]}..."
    return {STATUS_TAG: status, ERROR_TAG: told or None}


def evaluation_key(scores: str, parent: str) -> str:
    """The key of an evaluation by what its chained ``scores`` are called in the store: another version of the code that
    reads them finds it again."""
    return f"{scores} {parent}"


def log_scores(
    tracker: Tracker,
    opened: str,
    scores: Mapping[str, Mapping[str, Any]],
    *,
    experiment: Experiment,
    stage: str,
    key: str,
    parent: str,
) -> None:
    """The run of an evaluation that is nothing but ``scores``, by kind of images: what is there already is whole."""
    if tracker.known(opened, key, finished=True) is None:
        samples = [one["samples"] for one in scores.values() if one.get("samples") is not None]
        params = evaluation_params(experiment, stage, samples[0] if samples else None)
        figures, passports = all_figures(scores), passports_in(scores)
        run = log_evaluation(tracker, opened, figures, passports, stage=stage, params=params, key=key, parent=parent)
        tracker.finish(run)


def record_evaluation(tracker: Tracker, opened: str, outcome: Outcome, stage: str, *, root: str, parent: str) -> str:
    """The run of everything that was measured of ``stage``, whole: below ``parent``, found again by its chained scores
    and the run of the whole experiment or ablation, ``root``."""
    experiment, chained = outcome.experiment, outcome.results[f"scores/chained/{stage}"]
    run = log_evaluation(
        tracker,
        opened,
        metrics_of(outcome, stage),
        passports_of(outcome, stage),
        stage=stage,
        params=evaluation_params(experiment, stage, experiment.evaluation.samples),
        key=evaluation_key(chained.key, root),
        parent=parent,
    )
    tracker.finish(run)
    return run


def log_evaluation(
    tracker: Tracker,
    opened: str,
    figures: Mapping[str, float],
    passports: Mapping[str, Mapping[str, Any]],
    *,
    stage: str,
    params: Mapping[str, str],
    key: str,
    parent: str,
) -> str:
    """The run of an evaluation of ``stage`` with its figures and passports; left open where it was, or is new."""
    tags = passport_tags(passports["chained"]) if "chained" in passports else {}
    run = tracker.run(
        opened,
        name=f"evaluate/{stage}",
        kind="evaluation",
        key=key,
        parent=parent,
        params=params,
        tags=tags,
        reopen=False,
    )
    tracker.log_figures(run, figures)
    if passports:
        tracker.log_dict(run, passports, "passports.json")
    return run


def open_training(
    tracker: Tracker,
    opened: str,
    experiment: Experiment,
    stage: str,
    *,
    key: str,
    parent: str,
    found: Result | None,
    name: str | None = None,
) -> str:
    """The run of a training of ``stage``, of which the store has ``found``; open unless it was recorded as finished."""
    return tracker.run(
        opened,
        name=name or f"train/{stage}",
        kind="stage",
        key=key,
        parent=parent,
        params=training_params(experiment, stage),
        seconds=0.0 if found is None else _seconds(found),
        reopen=False,
    )


def log_training(tracker: Tracker, run: str, found: Result, status: Status = "FINISHED") -> None:
    """Give the run of a training that is stored what it lacks of its history, and end it."""
    Sender(tracker).send(run, history_points(read_history(found.part("history.json"))))
    tracker.finish(run, status, seconds=_seconds(found))


def _seconds(found: Result) -> float:
    """How long a training took, with what came before it was resumed."""
    return float(found.summary.get("seconds", found.seconds))


def as_csv(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows as CSV, with every column that any of them has."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(dict.fromkeys(name for row in rows for name in row)), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
