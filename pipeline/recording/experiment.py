"""What of an experiment goes to MLflow: one parent run, children per stage and per evaluation, and one for its search.

The trials stand under the search (``searches``). Everything is found again by its key, so repeating a command
adds nothing twice; and everything is recorded from the stored results, so a run that reuses all of them still shows all
of them.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.addresses import without_secret, without_secrets
from pipeline.dag import stored
from pipeline.experiment import digest_of
from pipeline.experiment_spec import Experiment
from pipeline.nodes import Nodes
from pipeline.outcome import Outcome
from pipeline.recording.runs import NOTE_TAG, log_training, open_training, record_evaluation
from pipeline.recording.scores import comparison_of, headline, metrics_of, summaries_of
from pipeline.recording.searches import record_search
from pipeline.revision import git_revision
from pipeline.storage import open_storage
from pipeline.tracking.addresses import absolute_uri
from pipeline.tracking.runs import Status, Tracker, status_of
from pipeline.trained_nodes import Tracking

if TYPE_CHECKING:
    from pipeline.report.parts import Report, StageSection

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ExperimentRuns:
    """The runs of an experiment while a command is at work on it: the parent, and where trainings log."""

    experiment: Experiment
    parent: str
    tracking: Tracking

    @classmethod
    def open(cls, experiment: Experiment, uri: str, stages: Sequence[str]) -> ExperimentRuns:
        """Open the parent, found again by what is declared, and a child for each of ``stages``, to be trained so."""
        tracker, storage, nodes = Tracker(uri), open_storage(experiment.store), Nodes(experiment)
        identity, runs = declared_identity(experiment), dict[str, str]()
        opened = tracker.open_experiment(experiment.name)
        parent = tracker.run(
            opened,
            name=experiment.name,
            kind="experiment",
            key=f"experiment {identity}",
            params=_parameters(experiment),
            tags={"rayfall.git": git_revision(), NOTE_TAG: experiment.description},
        )
        made = cls(experiment, parent, Tracking(absolute_uri(uri), runs))
        try:
            tracker.log_dict(parent, without_secrets(experiment.model_dump(mode="json")), "experiment.json")
            for name in stages:
                found, key = stored(nodes.train(name), storage), f"train {name} {identity}"
                runs[name] = open_training(tracker, opened, experiment, name, key=key, parent=parent, found=found)
        except BaseException as error:
            made.close_after(error)
            raise
        return made

    def close(self, status: Status, *, computed: bool) -> None:
        """End the parent with ``status``, and the stages' runs: those whose training is stored as FINISHED, whole.

        Where nothing was ``computed`` the parent keeps its end. What cannot be ended keeps no other from its end; one
        of the errors is raised then.
        """
        tracker, storage = Tracker(self.tracking.uri), open_storage(self.experiment.store)
        nodes = Nodes(self.experiment, tracking=self.tracking)

        def end(name: str, run: str) -> None:
            if (found := stored(nodes.train(name), storage)) is not None:
                log_training(tracker, run, found)
            else:
                tracker.end_open(run, status)

        with ExitStack() as ends:  # the last is called first
            ends.callback(tracker.finish, self.parent, status, keep_end=not computed)
            for name, run in self.tracking.runs.items():
                ends.callback(end, name, run)
            if self.experiment.evaluation.during is not None and status == "FINISHED":
                from pipeline.watching.run import track_curves

                track_curves(nodes, storage)

    def close_after(self, error: BaseException) -> None:
        """``close`` for what ended the command, which a person is told: that a run cannot be ended is logged."""
        try:
            self.close(status_of(type(error)), computed=True)
        except Exception as failure:
            told = without_secret((str(failure).strip().splitlines() or [type(failure).__name__])[0])
            log.warning("runs in MLflow may stay open: %s", told)

    def record(self, outcome: Outcome) -> dict[str, str]:
        """Write the search and all scores that there are under the parent; the runs of the evaluations by stage."""
        tracker, experiment = Tracker(self.tracking.uri), outcome.experiment
        opened, runs = tracker.open_experiment(experiment.name), {}
        for name in experiment.names:
            if outcome.scores("chained", name) is None:
                continue
            runs[name] = record_evaluation(tracker, opened, outcome, name, root=self.parent, parent=self.parent)
            figures = {f"{name}.{key}": value for key, value in metrics_of(outcome, name).items()}
            few = headline(summaries_of(outcome, name)) if name == experiment.last else {}
            tracker.log_figures(self.parent, {**figures, **few})
        if len(runs) == len(experiment.names):
            tracker.log_figures(self.parent, comparison_of(outcome))
        record_search(tracker, opened, self.parent, outcome)
        return runs

    def record_report(self, report: Report, html: Path, evaluations: Mapping[str, str]) -> None:
        """Write the page and its figures under the parent, and samples under the ``evaluations`` of ``record``."""
        from pipeline.report.writing import figure_files

        tracker = Tracker(self.tracking.uri)
        for section in report.stages:
            _log_grids(tracker, evaluations[section.name], section)
        tracker.log_file(self.parent, html)
        for name, svg in figure_files(report).items():
            tracker.log_text(self.parent, svg, f"figures/{name}")


def declared_identity(experiment: Experiment) -> str:
    """What the runs of ``experiment`` are found again by: a digest of what is declared, with any cells and seeds.

    Not of what the search will choose: the same command must find the same runs again. Of settings and not of nodes:
    those of the evaluation ask for weights files that training does without. Weights are known by their sha256 where it
    is declared, else by their address without what lets somebody in, which is signed anew again and again.
    """
    elsewhere = {"data", "store", "tracking", "resources", "description", "ablation"}
    settings = experiment.model_dump(mode="json", exclude=elsewhere)
    for scorer in (settings["evaluation"]["scorer"], *settings["evaluation"]["also"]):
        if "weights" in scorer:
            scorer["weights"] = None if scorer["sha256"] else without_secret(scorer["weights"])
    return digest_of([settings, Nodes(experiment).data.identity])


def _parameters(experiment: Experiment) -> dict[str, Any]:
    """Few and flat, so that MLflow's compare view is of use at once."""
    found: dict[str, Any] = {"seed": experiment.seed, "evaluation.samples": experiment.evaluation.samples}
    for name, stage in experiment.stages.items():
        found |= {f"{name}.size": stage.size, f"{name}.training.steps": stage.training.steps}
    return found


def _log_grids(tracker: Tracker, run: str, section: StageSection) -> None:
    import io

    from PIL import Image

    for kind in ("grid", "oracle", "real"):
        if (png := getattr(section, f"{kind}_png")) is not None:
            image = np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))
            tracker.log_image(run, image, f"grids/{'chained' if kind == 'grid' else kind}.png")
