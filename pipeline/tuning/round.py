"""One round of a search that trains, as both its driver and its trials see it: what a trial computes and is called."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from pydantic import ValidationError

from pipeline.dag import Node, ancestry, missing
from pipeline.experiment import digest_of, with_settings
from pipeline.experiment_spec import Experiment
from pipeline.nodes import Nodes
from pipeline.search.budget import prefix_of
from pipeline.search.spec import PruningSpec, SearchSpec, combinations
from pipeline.storage import Storage
from pipeline.trained_nodes import FEATURE_SEED
from pipeline.tuning.log import TrialLog

Settings = dict[str, Any]
TRAINING = "pipeline.training:train_stage"
LOOKED_AT = 200  # settings of a round of which it is found out what all of them share


@dataclass(frozen=True)
class TrainingRound:
    """The settings at ``paths`` are searched, those ``fixed`` stay, the stage ``stage`` is scored.

    ``search`` is the section as it was written: it says what is tried. That of ``experiment`` lists all levels that are
    known, and says what a trial computes: see ``with_drawn_lists``.
    """

    experiment: Experiment
    search: SearchSpec
    stage: str
    paths: tuple[str, ...]
    fixed: Mapping[str, Any]

    @property
    def pruning(self) -> PruningSpec | None:
        """How trainings are cut short; None where none is."""
        return self.search.pruning

    @cached_property
    def identity(self) -> str:
        """Of trials that are compared: the same stage is scored in the same way with the same settings fixed."""
        pruning = None if self.pruning is None else self.pruning.model_dump(mode="json")
        return digest_of([self.stage, pruning, self.fixed, self.prefix])[:16]

    @cached_property
    def prefix(self) -> str:
        """Where the search that the round belongs to has its journal and its ledger."""
        return prefix_of(self.experiment, self.search)

    def log(self, storage: Storage) -> TrialLog:
        """The journal of the search that the round belongs to."""
        return TrialLog(storage, self.prefix)

    def changed(self, settings: Mapping[str, Any]) -> Experiment:
        """The experiment of a trial. Raises ValidationError where the settings cannot go together."""
        return with_settings(self.experiment, {**self.fixed, **settings})

    def targets(self, settings: Mapping[str, Any]) -> list[Node]:
        """What a trial computes; nothing where its settings cannot go together: running it says why."""
        try:
            changed = self.changed(settings)
        except ValidationError:
            return []
        return Nodes(changed, trial=True).trial_targets(self.stage)

    def trainings(self, settings: Mapping[str, Any]) -> list[Node]:
        """The trainings behind a trial, lower stages first."""
        return trainings_of(self.targets(settings), self.experiment.chain(self.stage))

    def key(self, settings: Mapping[str, Any]) -> str:
        """The name of a trial: equal for settings that compute the same."""
        targets = [node.digest for node in self.targets(settings)] or json.dumps(settings, sort_keys=True)
        return digest_of([self.identity, targets])[:16]

    def rungs(self, steps: int) -> tuple[int, ...]:
        """Steps of a training of so many ``steps`` at which its trial is compared with others; none at its end."""
        if self.pruning is None:
            return ()
        found, rung = [], self.pruning.first
        while rung < steps:
            found.append(rung)
            rung *= self.pruning.factor
        return tuple(found)

    def shared(self, storage: Storage) -> list[Node]:
        """What is missing and all trials need, below the stage that is scored; computed once, before them."""
        space = {path: self.search.space[path] for path in self.paths}
        trials = [self.targets(settings) for settings in combinations(space, LOOKED_AT)]
        graphs = [{node.digest: node for node in ancestry(targets)} for targets in trials if targets]
        if not graphs:
            return []
        mine = {node.digest for node in graphs[0].values() if node.name == f"train/{self.stage}"}
        needed = [
            node
            for digest, node in graphs[0].items()
            if all(digest in graph for graph in graphs) and not mine & {below.digest for below in ancestry([node])}
        ]
        looks = judging(Nodes(self.experiment, trial=True)) if self.pruning else []
        return missing([*needed, *looks], storage)


def judging(nodes: Nodes) -> list[Node]:
    """The classifiers that a look of pruning scores with, whatever the scorer of the experiment is."""
    return [nodes.classifier("features", FEATURE_SEED), nodes.judge]


def trainings_of(targets: Sequence[Node], chain: Sequence[str]) -> list[Node]:
    """The training nodes that ``targets`` need, in the order of the stages of ``chain``: lower ones first."""
    found = {node.name: node for node in ancestry(targets) if node.function == TRAINING}
    return [found[name] for stage in chain if (name := f"train/{stage}") in found]
