"""The runs of an ablation in MLflow, opened before anything is trained, so that trainings log live. No figures.

The ablation has a run, each replicate one below it, and each training one below the replicate. A training that several
replicates share (a base stage that no cell changes) belongs to none of them: it stands once, under the ablation's run.
Runs are found again by their keys: another cell or seed adds its own.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.ablation.spec import Settings
from pipeline.dag import Node, stored
from pipeline.errors import UserError
from pipeline.experiment import digest_of
from pipeline.experiment_spec import Experiment
from pipeline.nodes import Nodes
from pipeline.recording.remembered import remember, remembered
from pipeline.recording.runs import NOTE_TAG, log_training, open_training
from pipeline.recording.settings import flat_params
from pipeline.results import Result
from pipeline.revision import git_revision
from pipeline.storage import Storage
from pipeline.tracking.forwarding import Forwarder
from pipeline.tracking.outages import Outage, ask_for, connect
from pipeline.tracking.runs import Status, Tracker
from pipeline.trained_nodes import Tracking

Key = tuple[str, int]  # cell and seed
BASELINE_TAG = "rayfall.baseline"
MOST_ERRORS = 3  # each may be minutes of asking a server again

log = logging.getLogger(__name__)


@dataclass
class OpenedAblation:
    """The runs of an ablation, as far as they are open: its own, and for each replicate where its trainings log; by run
    which training it is. There before the first of them, so that an opening that is cut short can be closed."""

    uri: str
    storage: Storage
    parent: str | None = None
    trials: dict[Key, str] = field(default_factory=dict)
    tracking: dict[Key, Tracking] = field(default_factory=dict)
    trainings: dict[str, Node] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.outage = Outage(self.uri)
        self.forwarder = Forwarder(self.uri, self.storage)

    def loss(self, store: str) -> str | None:
        """What a person must be told at the end: that MLflow did not answer, and what ``store`` keeps; else None."""
        return self.outage.sentence(self.forwarder.kept(), store) if self.outage.reason else None


def open_ablation(
    opened: OpenedAblation, experiment: Experiment, replicates: Mapping[Key, Experiment], *, identity: str
) -> None:
    """Open the run of the ablation of ``experiment`` (found by ``identity``) and those of its ``replicates``, each
    added to ``opened`` at once.

    ``identity`` must not depend on cells and seeds: with more of them it is the same ablation. Raises UserError where
    MLflow does not answer, unless an earlier command opened all of them.
    """
    assert experiment.ablation is not None, "an experiment without an ablation has none to open"
    cells = experiment.ablation.all_cells()
    trainings = {key: trainings_of(one) for key, one in replicates.items()}
    try:
        tracker = connect(opened.uri)
    except UserError as error:
        if not _recall(opened, cells, trainings, identity):
            raise
        log.warning("%s; metrics are kept in the store until it answers", error)
        return
    runs = AblationRuns.of(experiment, tracker, identity, experiment.ablation.baseline)
    opened.parent = runs.parent
    params = runs.params_of(cells)
    uses = Counter(node.digest for nodes in trainings.values() for node in nodes.values())
    for (cell, seed), one in replicates.items():
        trial, stages = runs.trial(cell, seed, cells[cell], params[cell]), {}
        opened.trials[cell, seed] = trial
        for name, node in trainings[cell, seed].items():
            found = stored(node, opened.storage)
            stages[name] = runs.training(trial, one, name, node, shared=uses[node.digest] > 1, found=found)
            opened.trainings[stages[name]] = node
            opened.forwarder.add(stages[name])
        opened.tracking[cell, seed] = Tracking(opened.uri, stages)
    told = {_replicate(*key, cells[key[0]]): run for key, run in opened.trials.items()}
    told |= {_training(node): run for run, node in opened.trainings.items()}
    remember(opened.storage, _memory(identity), opened.uri, runs.parent, told)


def _recall(
    opened: OpenedAblation, cells: Mapping[str, Settings], trainings: Mapping[Key, Mapping[str, Node]], identity: str
) -> bool:
    """Add to ``opened`` the runs that an earlier command opened; False where it did not open all of them."""
    names = {key: _replicate(*key, cells[key[0]]) for key in trainings}
    nodes = {_training(node): node for stages in trainings.values() for node in stages.values()}
    known = remembered(opened.storage, _memory(identity), opened.uri, [*names.values(), *nodes])
    if known is None:
        return False
    opened.parent, runs = known
    opened.trials |= {key: runs[name] for key, name in names.items()}
    for name, node in nodes.items():
        opened.trainings[runs[name]] = node
        opened.forwarder.add(runs[name])
    for key, stages in trainings.items():
        opened.tracking[key] = Tracking(opened.uri, {stage: runs[_training(node)] for stage, node in stages.items()})
    return True


def _replicate(cell: str, seed: int, settings: Settings) -> str:
    """What the run of a replicate is found by, below its ablation."""
    return f"replicate {cell} {seed} {digest_of(settings)[:16]}"


def _training(node: Node) -> str:
    """What the run of a training is found by, below its ablation: its name in the store."""
    return Path(node.key).name


def _memory(identity: str) -> str:
    """What the store remembers the runs of an ablation by: the experiment itself may have runs of its own."""
    return digest_of(["ablation", identity])


def trainings_of(experiment: Experiment) -> dict[str, Node]:
    """The training of each stage that is trained as declared, not by a search."""
    nodes = Nodes(experiment)
    return {name: nodes.train(name) for name in experiment.names if name not in nodes.searched_trainings}


def close_ablation(opened: OpenedAblation, status: Status) -> None:
    """End what is still open: trainings that are stored as FINISHED, with their curves; all else with ``status``.

    After an ablation that came to its end, that is what replicates trained that failed. A run that cannot be ended
    keeps no other open; what it raised is raised at the end, or once so many did that nobody seems to answer. An MLflow
    that does not answer is remembered by ``opened`` and raises nothing.
    """
    with opened.outage.tolerated():
        opened.forwarder.close()
        _end_all(ask_for(opened.uri), opened, status)


def _end_all(tracker: Tracker, opened: OpenedAblation, status: Status) -> None:
    parents = [] if opened.parent is None else [opened.parent]
    errors: list[Exception] = []
    for run in (*opened.trainings, *opened.trials.values(), *parents):
        try:
            _end(tracker, run, opened, status)
        except Exception as error:
            errors.append(error)
        if len(errors) == MOST_ERRORS:
            break
    if errors:
        raise errors[0]


def _end(tracker: Tracker, run: str, opened: OpenedAblation, status: Status) -> None:
    if tracker.client.get_run(run).info.status != "RUNNING":
        return
    node = opened.trainings.get(run)
    if node is not None and (found := stored(node, opened.storage)) is not None:
        log_training(tracker, run, found)
    else:
        tracker.finish(run, status)


@dataclass(frozen=True)
class AblationRuns:
    """The runs of one ablation, opened or found again."""

    experiment: Experiment
    tracker: Tracker
    opened: str
    parent: str
    baseline: str

    @classmethod
    def of(cls, experiment: Experiment, tracker: Tracker, identity: str, baseline: str) -> AblationRuns:
        """Make the run of the ablation of ``experiment``, or find it by ``identity`` and open it again.

        One that is found keeps its description: what was found by then.
        """
        opened, key = tracker.open_experiment(experiment.name), f"ablation {identity}"
        is_new = tracker.known(opened, key) is None
        parent = tracker.run(
            opened,
            name=f"ablation {experiment.name}",
            kind="ablation",
            key=key,
            params={"baseline": baseline, "stage": experiment.last, "samples": experiment.evaluation.samples},
            tags={"rayfall.git": git_revision(), **({NOTE_TAG: experiment.description} if is_new else {})},
        )
        return cls(experiment, tracker, opened, parent, baseline)

    def params_of(self, cells: Mapping[str, Settings]) -> dict[str, dict[str, str]]:
        """Of each cell its option of each factor of the grid, and the values of what differs between cells."""
        declared = self.experiment.model_dump(mode="json")
        values = dict(zip(cells, flat_params(list(cells.values()), declared, all_paths=False), strict=True))
        spec = self.experiment.ablation
        options = {cell: spec.options_of(cell) if spec is not None else {} for cell in cells}
        factors = list(dict.fromkeys(factor for one in options.values() for factor in one))
        return {
            cell: {factor: options[cell].get(factor, "none") for factor in factors} | values[cell] for cell in cells
        }

    def trial(
        self,
        cell: str,
        seed: int,
        settings: Settings,
        params: Mapping[str, str],
        tags: Mapping[str, str | None] | None = None,
    ) -> str:
        """The run of a replicate. A cell whose settings changed under its name is another."""
        return self.tracker.run(
            self.opened,
            name=f"{cell} seed {seed}",
            kind="trial",
            key=f"{_replicate(cell, seed, settings)} {self.parent}",
            parent=self.parent,
            params={"cell": cell, "seed": seed, **params},
            tags={**({BASELINE_TAG: "true"} if cell == self.baseline else {}), **(tags or {})},
            reopen=False,
        )

    def training(
        self, trial: str, one: Experiment, stage: str, node: Node, *, shared: bool, found: Result | None
    ) -> str:
        """The run of a training, of which the store has ``found``: under ``trial``, or the ablation where shared."""
        return open_training(
            self.tracker,
            self.opened,
            one,
            stage,
            key=self.training_key(node),
            parent=self.parent if shared else trial,
            found=found,
            name=f"train/{stage} seed {one.seed}" if shared else f"train/{stage}",
        )

    def training_key(self, node: Node) -> str:
        """What the run of a training is found by."""
        return f"{_training(node)} {self.parent}"
