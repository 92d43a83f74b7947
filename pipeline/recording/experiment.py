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
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.addresses import without_secret, without_secrets
from pipeline.dag import stored
from pipeline.errors import UserError, first_line
from pipeline.experiment_spec import Experiment
from pipeline.nodes import Nodes
from pipeline.outcome import Outcome
from pipeline.recording.identity import declared_identity
from pipeline.recording.remembered import remember, remembered
from pipeline.recording.runs import NOTE_TAG, log_training, open_training, record_evaluation
from pipeline.recording.scores import comparison_of, headline, metrics_of, summaries_of
from pipeline.recording.searches import record_search
from pipeline.revision import git_revision
from pipeline.storage import open_storage
from pipeline.tracking.addresses import absolute_uri
from pipeline.tracking.forwarding import Forwarder
from pipeline.tracking.outages import Outage, ask_for, connect
from pipeline.tracking.runs import Status, Tracker, status_of
from pipeline.trained_nodes import Tracking

if TYPE_CHECKING:
    from pipeline.report.parts import Report, StageSection

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ExperimentRuns:
    """The runs of an experiment while a command is at work on it: the parent, and where trainings log.

    Once they are open, an MLflow that does not answer keeps nothing from being computed: ``outage`` knows why it was
    not told, and ``forwarder`` what of metrics is left.
    """

    experiment: Experiment
    parent: str
    tracking: Tracking
    forwarder: Forwarder
    outage: Outage

    @classmethod
    def open(cls, experiment: Experiment, uri: str, stages: Sequence[str]) -> ExperimentRuns:
        """Open the parent, found again by what is declared, and a child for each of ``stages``, to be trained so.

        Raises UserError where MLflow does not answer, unless an earlier command opened all of them.
        """
        storage, identity, outage = open_storage(experiment.store), declared_identity(experiment), Outage(uri)
        try:
            tracker = connect(uri)
        except UserError as error:
            if (known := remembered(storage, identity, uri, stages)) is None:
                raise
            log.warning("%s; metrics are kept in the store until it answers", error)
            parent, runs = known
            return cls._begin(experiment, parent, runs, outage)
        opened = tracker.open_experiment(experiment.name)
        parent = tracker.run(
            opened,
            name=experiment.name,
            kind="experiment",
            key=f"experiment {identity}",
            params=_parameters(experiment),
            tags={"rayfall.git": git_revision(), NOTE_TAG: experiment.description},
        )
        runs = {}
        made = cls._begin(experiment, parent, runs, outage)
        try:
            tracker.log_dict(parent, without_secrets(experiment.model_dump(mode="json")), "experiment.json")
            for name in stages:
                found, key = stored(Nodes(experiment).train(name), storage), f"train {name} {identity}"
                runs[name] = open_training(tracker, opened, experiment, name, key=key, parent=parent, found=found)
                made.forwarder.add(runs[name])
            remember(storage, identity, uri, parent, runs)
        except BaseException as error:
            made.close_after(error)
            raise
        return made

    @classmethod
    def _begin(cls, experiment: Experiment, parent: str, runs: dict[str, str], outage: Outage) -> ExperimentRuns:
        tracking = Tracking(absolute_uri(outage.uri), runs)
        forwarder = Forwarder(tracking.uri, open_storage(experiment.store), runs.values())
        return cls(experiment, parent, tracking, forwarder.start(), outage)

    def close(self, status: Status, *, computed: bool) -> None:
        """End the parent with ``status``, and the stages' runs: those whose training is stored as FINISHED, whole.

        Where nothing was ``computed`` the parent keeps its end. What cannot be ended keeps no other from its end; one
        of the errors is raised then, unless MLflow does not answer.
        """
        with self.outage.tolerated():
            self.forwarder.close()
            self._end_runs(ask_for(self.tracking.uri), status, computed=computed)

    def _end_runs(self, tracker: Tracker, status: Status, *, computed: bool) -> None:
        storage, nodes = open_storage(self.experiment.store), Nodes(self.experiment, tracking=self.tracking)

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

    def loss(self) -> str | None:
        """What a person must be told at the end: that MLflow did not answer, and what becomes of it; else None."""
        if self.outage.reason is None:
            return None
        return self.outage.sentence(self.forwarder.kept(), str(self.experiment.store))

    def close_after(self, error: BaseException) -> None:
        """``close`` for what ended the command, which a person is told: that a run cannot be ended is logged."""
        try:
            self.close(status_of(type(error)), computed=True)
        except Exception as failure:
            told = without_secret(first_line(failure))
            log.warning("runs in MLflow may stay open: %s", told)

    def record(self, outcome: Outcome) -> dict[str, str]:
        """Write the search and all scores that there are under the parent; the runs of the evaluations by stage."""
        tracker, experiment = ask_for(self.tracking.uri), outcome.experiment
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

    def record_report(self, report: Report, page: str, evaluations: Mapping[str, str]) -> None:
        """Write the page and its figures under the parent, and samples under the ``evaluations`` of ``record``."""
        from pipeline.report.writing import figure_files

        tracker = Tracker(self.tracking.uri)
        for section in report.stages:
            _log_grids(tracker, evaluations[section.name], section)
        tracker.log_text(self.parent, page, "report.html")
        for name, svg in figure_files(report).items():
            tracker.log_text(self.parent, svg, f"figures/{name}")


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
