"""What of an experiment goes to MLflow: one parent run, children per stage and per evaluation, and one for its search.

The trials stand under the search (``searches``). Everything is found again by its key, so repeating a command
adds nothing twice; and everything is recorded from the stored results, so a run that reuses all of them still shows all
of them.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.experiment_spec import Experiment
from pipeline.outcome import Outcome
from pipeline.recording.scores import (
    comparison_of,
    headline,
    metrics_of,
    passport_tags,
    passports_of,
    summaries_of,
)
from pipeline.recording.searches import record_search
from pipeline.revision import git_revision
from pipeline.tracking.addresses import absolute_uri
from pipeline.tracking.runs import Tracker
from pipeline.trained_nodes import Tracking

if TYPE_CHECKING:
    from pipeline.report.parts import Report, StageSection


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


def record(outcome: Outcome, report: Report, tracking: Tracking, parent: str, html: Path) -> None:
    """Write stages, evaluation, search, grids and the report under ``parent``, then end the runs."""
    from pipeline.history import open_buffer, read_history, replay
    from pipeline.report.writing import figure_files

    tracker = Tracker(tracking.uri)
    experiment = outcome.experiment
    opened = tracker.open_experiment(experiment.name)
    for section in report.stages:
        name = section.name
        buffer = open_buffer(tracking.uri, tracking.runs[name])
        replay(buffer, read_history(outcome.results[f"train/{name}"].folder))
        buffer.flush()
        metrics = metrics_of(outcome, name)
        run = _evaluation(tracker, opened, parent, outcome, name)
        few = headline(summaries_of(outcome, name))
        tracker.log_figures(run, {**metrics, **few})
        _log_grids(tracker, run, section)
        tracker.finish(run)
        figures = {f"{name}.{key}": value for key, value in metrics.items()}
        tracker.log_figures(parent, {**figures, **(few if name == experiment.last else {})})
    tracker.log_figures(parent, comparison_of(outcome))
    record_search(tracker, opened, parent, outcome)
    tracker.log_file(parent, html)
    for name, svg in figure_files(report).items():
        tracker.log_text(parent, svg, f"figures/{name}")
    close_runs(tracking, parent, "FINISHED")


def _evaluation(tracker: Tracker, opened: str, parent: str, outcome: Outcome, name: str) -> str:
    """The run of the scores of stage ``name``, found by their place in the store, with the passports of its rows."""
    experiment, passports = outcome.experiment, passports_of(outcome, name)
    run = tracker.run(
        opened,
        name=f"evaluate/{name}",
        kind="evaluation",
        key=f"{outcome.results[f'scores/chained/{name}'].folder.parent.name} {parent}",
        parent=parent,
        params={
            **experiment.stages[name].sampling.model_dump(mode="json"),
            "samples": experiment.evaluation.samples,
        },
        tags=passport_tags(passports["chained"]),
    )
    tracker.log_dict(run, passports, "passports.json")
    return run


def _log_grids(tracker: Tracker, run: str, section: StageSection) -> None:
    import io

    from PIL import Image

    for kind in ("grid", "oracle", "real"):
        if (png := getattr(section, f"{kind}_png")) is not None:
            image = np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))
            tracker.log_image(run, image, f"grids/{'chained' if kind == 'grid' else kind}.png")
