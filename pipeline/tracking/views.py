"""A saved view of MLflow's runs page: trials alone, best first, with the columns and charts that compare them.

MLflow keeps the views that a person saves under *Views* as tags of the experiment; this writes one in the same form
(read out of MLflow 3.17's own page: no documentation has it). A version that reads another form shows its plain table.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from pipeline.tracking.runs import PARENT_TAG, Tracker

VIEW_TAG = "mlflow.sharedViewState."
SECTION = "rayfall"
SEED = "seed"  # a column, and no axis: what a seed does is for the table to say
AXES = 6  # of parallel coordinates: more are no longer read
SCORES = ("chained_fid", "chained_fid_error", "oracle_fid", "gap", "accuracy", "recall", "seconds")
MARKS = ("rayfall.status", "rayfall.chosen", "rayfall.front")


class Best(NamedTuple):
    """The metric that says which trial is best, and whether that is the one with the lowest."""

    metric: str
    lowest: bool


LOWEST_FID = Best("chained_fid", lowest=True)
HIGHEST_ACCURACY = Best("accuracy", lowest=False)


def save_view(
    tracker: Tracker,
    opened: str,
    parent: str,
    *,
    key: str,
    name: str,
    trials: Sequence[Mapping[str, Any]],
    best: Best,
    also: str = "",
) -> None:
    """Have the page of the experiment ``opened`` offer the view ``name`` of the trials below the run ``parent``.

    ``trials`` are their params; ``best`` is the metric that they are sorted by; ``also`` narrows the filter. Opens at
    ``#/experiments/<id>/runs?viewStateShareKey=<key>``; of one key there is one view, the last.
    """
    begun = tracker.client.get_run(parent).info.start_time
    where = f"tags.`{PARENT_TAG}` = '{parent}' and tags.`rayfall.kind` = 'trial'{also}"
    state = json.dumps(view_state(name, where, trials, best))
    told = json.dumps({"name": name, "createdAt": begun, "updatedAt": begun, "state": state})
    tag = f"{VIEW_TAG}{key}"
    if tracker.client.get_experiment(opened).tags.get(tag) != told:
        tracker.client.set_experiment_tag(opened, tag, told)


def view_state(name: str, where: str, trials: Sequence[Mapping[str, Any]], best: Best) -> dict[str, Any]:
    """What the page remembers of a view: filter, order, columns and charts."""
    params = list(dict.fromkeys(param for trial in trials for param in trial))
    return {
        "searchFilter": where,
        "orderByKey": f"metrics.`{best.metric}`",
        "orderByAsc": best.lowest,
        "selectedColumns": [
            *(f"params.`{param}`" for param in params),
            *(f"metrics.`{score}`" for score in SCORES),
            *(f"tags.`{mark}`" for mark in MARKS),
        ],
        "runsHiddenMode": "SHOW_ALL",
        "compareRunCharts": _charts([param for param in params if _is_axis(param, trials)], best.metric),
        "compareRunSections": [
            {"uuid": SECTION, "name": name, "display": True, "isReordered": False, "deleted": False}
        ],
    }


def _is_axis(param: str, trials: Sequence[Mapping[str, Any]]) -> bool:
    """Whether all trials have the param, differ in it, and have numbers or words alone: MLflow drops the others."""
    values = [str(trial[param]) for trial in trials if param in trial]
    return (
        param != SEED
        and len(values) == len(trials)
        and len(set(values)) > 1
        and len({_is_number(value) for value in values}) == 1
    )


def _is_number(value: str) -> bool:
    try:
        float(value)
    except ValueError:
        return False
    return True


def _charts(axes: Sequence[str], bars: str) -> list[Mapping[str, Any]]:
    """Parallel coordinates that end in the scores, accuracy against FID, and a bar of the metric ``bars`` per trial."""
    common = {"runsCountToCompare": 100, "metricSectionId": SECTION, "deleted": False, "isGenerated": False}
    fid, accuracy = "chained_fid", "accuracy"
    chosen = {"selectedParams": list(axes)[: AXES - 2], "selectedMetrics": [accuracy, fid], "showAllRuns": False}
    ends = {"xaxis": {"key": fid, "type": "METRIC"}, "yaxis": {"key": accuracy, "type": "METRIC"}}
    return [
        {**common, "uuid": "rayfall-parallel", "type": "PARALLEL", **chosen},
        {**common, "uuid": "rayfall-scatter", "type": "SCATTER", **ends},
        {**common, "uuid": "rayfall-bars", "type": "BAR", "metricKey": bars},
    ]
