"""One trial of a search: the nodes behind it, and the point that its scores make. How trials are chosen is elsewhere.

A trial is the experiment with some settings replaced, evaluated as a graph: so a trial whose nodes are stored already
is looked up, settings of sampling cost no training, and settings of training cost one.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from pipeline.addresses import without_secret
from pipeline.dag import Node, stored
from pipeline.events import Silence
from pipeline.execution import execute
from pipeline.experiment import with_settings
from pipeline.experiment_spec import Experiment
from pipeline.nodes import Nodes
from pipeline.search.spec import SearchSpec
from pipeline.sentences import first_message
from pipeline.storage import Storage, open_storage

Settings = dict[str, Any]
Point = dict[str, Any]


def targets_of(experiment: Experiment, stage: str, *, look: int | None = None) -> list[Node]:
    """What a trial computes: scores of the prefix that ends with ``stage``, chained and with the oracle.

    With ``look``, of its first so many samples, and chained alone: by the oracle nothing is decided.
    """
    targets = Nodes(experiment, trial=True, look=look).trial_targets(stage)
    return targets if look is None else targets[:1]


def run_trial(experiment: Experiment, stage: str, settings: Mapping[str, Any]) -> Point:
    """One trial from start to end, in this process: its point. Errors become a field of it."""
    started = time.time()
    try:
        changed = with_settings(experiment, settings)
        storage = open_storage(experiment.store)
        execute(targets_of(changed, stage), storage, Silence(), use_ray=False)
    except Exception as error:
        told = first_message(error) if isinstance(error, ValidationError) else f"{type(error).__name__}: {error}"
        return failed_point(settings, told) | {"seconds": time.time() - started}
    return point_of(changed, stage, settings, storage) | {"seconds": time.time() - started}


def failed_point(settings: Mapping[str, Any], error: str) -> Point:
    """The point of a trial without scores, and the sentence that says why."""
    return {**_point(settings), "status": "failed", "error": without_secret(error)}


def _point(settings: Mapping[str, Any]) -> Point:
    return {
        "settings": dict(settings),
        "status": "finished",
        "error": None,
        "objective": None,
        "samples": 0,
        "seconds": 0.0,
        "rungs": [],
        "start_seconds": None,
    }


def point_of(
    changed: Experiment, stage: str, settings: Mapping[str, Any], storage: Storage, *, look: int | None = None
) -> Point:
    """The point of a trial whose scores are stored; ``changed`` is the experiment with its ``settings``.

    "objective" is lower where the trial is better, None where it has none; "seconds" is what drawing and scoring its
    ``stage`` took, chained and oracle, by whomever and whenever, so that a trial that is looked up costs what it cost;
    "net_calls" are those that draw one image through the whole chain, at most. A score that is no number makes a failed
    point: NaN could be chosen as the best.
    """
    targets = targets_of(changed, stage, look=look)
    scores = {node.name: result.summary for node in targets if (result := stored(node, storage))}
    assert len(scores) == len(targets), "a point is of stored scores"
    search = changed.search
    assert search is not None, "a trial is of an experiment with a search section"
    chained, oracle = scores[f"scores/chained/{stage}"], scores.get(f"scores/oracle/{stage}")
    objective = objective_of(search, chained)
    if objective is None:
        figure = chained[figure_of(search)]
        told = f"the {search.metric} of this trial is {figure}, so its samples are of no use"
        return failed_point(settings, told) | {"samples": chained.get("samples", 0)}
    return {
        **_point(settings),
        "objective": objective,
        "samples": chained.get("samples", 0),
        "chained": dict(chained),
        "oracle": None if oracle is None else dict(oracle),
        "net_calls": sum(changed.stages[name].sampling.net_calls for name in changed.chain(stage)),
    }


def figure_of(search: SearchSpec) -> str:
    """The score that a search goes by."""
    return "fid" if search.metric == "chained_fid" else "accuracy"


def objective_of(search: SearchSpec, scores: Mapping[str, Any]) -> float | None:
    """What a search minimises; None where the score is none, or no finite number."""
    figure = scores[figure_of(search)]
    if figure is None or not math.isfinite(figure):
        return None
    return float(figure if search.metric == "chained_fid" else -figure)


def settled_experiment(experiment: Experiment, settings: Mapping[str, Any]) -> Experiment | str:
    """The experiment with ``settings``; where they cannot go with what was chosen below, the sentence that says so."""
    try:
        return with_settings(experiment, settings)
    except ValidationError as error:
        return first_message(error)
