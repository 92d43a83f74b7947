"""What of an experiment goes to MLflow: one parent run, children per stage, per search trial and per evaluation.

Everything is found again by its key, so repeating a command adds nothing twice; and everything is recorded from the
stored results, so a run that reuses all of them still shows all of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.experiment import digest_of
from pipeline.experiment_spec import Experiment
from pipeline.outcome import Outcome, cascades_of, git_revision
from pipeline.tracking import Tracker, absolute_uri
from pipeline.trained_nodes import Tracking

if TYPE_CHECKING:
    from pipeline.report import Report


def open_runs(experiment: Experiment, uri: str, identity: str) -> tuple[str, Tracking]:
    """The parent run of this experiment (found by ``identity``) and a child per stage."""
    tracker = Tracker(uri)
    opened = tracker.open_experiment(experiment.name)
    parent = tracker.run(
        opened,
        name=experiment.name,
        kind="experiment",
        key=f"experiment {identity}",
        params=_parameters(experiment),
        tags={"rayfall.git": git_revision(), "mlflow.note.content": experiment.description},
    )
    tracker.log_dict(parent, experiment.model_dump(mode="json"), "experiment.json")
    runs = {}
    for name, stage in experiment.stages.items():
        training = {f"training.{key}": value for key, value in stage.training.model_dump(mode="json").items()}
        runs[name] = tracker.run(
            opened,
            name=f"train/{name}",
            kind="stage",
            key=f"train {name} {identity}",
            parent=parent,
            params={"size": stage.size, "seed": experiment.seed, **training},
        )
    return parent, Tracking(absolute_uri(uri), runs)


def _parameters(experiment: Experiment) -> dict[str, Any]:
    """Few and flat, so that MLflow's compare view is of use at once."""
    found: dict[str, Any] = {"seed": experiment.seed, "evaluation.samples": experiment.evaluation.samples}
    for name, stage in experiment.stages.items():
        found |= {f"{name}.size": stage.size, f"{name}.steps": stage.training.steps}
    return found


def close_runs(tracking: Tracking, parent: str, status: str) -> None:
    """End the parent and the stages' runs as "FAILED" or "FINISHED"."""
    tracker = Tracker(tracking.uri)
    for run in [*tracking.runs.values(), parent]:
        tracker.finish(run, "FAILED" if status == "FAILED" else "FINISHED")


def scores_of(outcome: Outcome, name: str) -> dict[str, float]:
    """The flat metrics of stage ``name``: chained_fid, real_recall, gap_fid, restoration_psnr, bound_bits_per_dim..."""
    metrics: dict[str, float] = {}
    for kind in ("chained", "oracle", "real"):
        if (result := outcome.scores(kind, name)) is not None:
            figures = ("fid", "accuracy", "precision", "recall")
            metrics |= {f"{kind}_{figure}": float(result.summary[figure]) for figure in figures}
    if "oracle_fid" in metrics:
        metrics["gap_fid"] = metrics["chained_fid"] - metrics["oracle_fid"]
    for kind in ("restoration", "bound"):
        if (result := outcome.results.get(f"{kind}/{name}")) is not None:
            metrics |= {f"{kind}_{figure}": value for figure, value in _numbers(result.summary).items()}
    return metrics


def comparison_of(outcome: Outcome) -> dict[str, float]:
    """The flat metrics of the cascades that are compared: cascade.main.fid, cascade.single.net_calls, ..."""
    rows = cascades_of(outcome)
    return {f"cascade.{name}.{key}": value for name, row in rows.items() for key, value in _numbers(row).items()}


def _numbers(figures: Mapping[str, Any]) -> dict[str, float]:
    return {key: float(value) for key, value in figures.items() if isinstance(value, int | float)}


def record(outcome: Outcome, report: Report, tracking: Tracking, parent: str, html: Path) -> None:
    """Write stages, evaluation, trials, grids and the report under ``parent``, then end the runs."""
    from pipeline.history import open_buffer, read_history, replay
    from pipeline.report import figure_files

    tracker = Tracker(tracking.uri)
    experiment = outcome.experiment
    opened = tracker.open_experiment(experiment.name)
    for section in report.stages:
        name = section.name
        buffer = open_buffer(tracking.uri, tracking.runs[name])
        replay(buffer, read_history(outcome.results[f"train/{name}"].folder))
        buffer.flush()
        metrics = scores_of(outcome, name)
        scores = outcome.results[f"scores/chained/{name}"]
        run = _child(
            tracker,
            opened,
            parent,
            f"evaluate/{name}",
            "evaluation",
            scores.folder.parent.name,
            {
                **experiment.stages[name].sampling.model_dump(mode="json"),
                "samples": experiment.evaluation.samples,
            },
        )
        tracker.log_metrics(run, metrics, 0)
        _log_grids(tracker, run, section)
        tracker.finish(run)
        tracker.log_metrics(parent, {f"{name}.{key}": value for key, value in metrics.items()}, 0)
    tracker.log_metrics(parent, comparison_of(outcome), 0)
    _record_search(tracker, opened, parent, outcome)
    tracker.log_file(parent, html)
    for name, svg in figure_files(report).items():
        tracker.log_text(parent, svg, f"figures/{name}")
    close_runs(tracking, parent, "FINISHED")


def _child(
    tracker: Tracker, experiment: str, parent: str, name: str, kind: str, key: str, params: Mapping[str, Any]
) -> str:
    return tracker.run(experiment, name=name, kind=kind, key=f"{key} {parent}", parent=parent, params=params)


def _log_grids(tracker: Tracker, run: str, section: Any) -> None:
    import io

    from PIL import Image

    for kind in ("grid", "oracle", "real"):
        if (png := getattr(section, f"{kind}_png")) is not None:
            image = np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))
            tracker.log_image(run, image, f"grids/{'chained' if kind == 'grid' else kind}.png")


def _record_search(tracker: Tracker, opened: str, parent: str, outcome: Outcome) -> None:
    if outcome.search is None:
        return
    for number, found in enumerate(outcome.search.summary["rounds"]):
        for point in found["points"]:
            name = f"trial/{found['stage']} " + " ".join(str(value) for value in point["settings"].values())
            params = {"stage": found["stage"], **point["settings"], "chosen": point["settings"] == found["chosen"]}
            key = f"trial {number} {digest_of(point['settings'])[:16]}"
            run = _child(tracker, opened, parent, name, "trial", key, params)
            if point["error"] is not None:
                tracker.finish(run, "FAILED")
                continue
            figures = ("fid", "accuracy", "precision", "recall")
            metrics = {f"chained_{figure}": float(point["chained"][figure]) for figure in figures}
            if point["oracle"] is not None:
                metrics |= {f"oracle_{figure}": float(point["oracle"][figure]) for figure in figures}
            tracker.log_metrics(run, metrics | {"seconds": point["seconds"]}, 0)
            tracker.finish(run)
