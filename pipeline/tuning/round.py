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
from pipeline.search.spec import PruningSpec, SearchSpec, combinations
from pipeline.storage import LocalStorage
from pipeline.trained_nodes import FEATURE_SEED
from pipeline.tuning.log import TrialLog

Settings = dict[str, Any]
TRAINING = "pipeline.training:train_stage"
LOOKED_AT = 200  # settings of a round of which it is found out what all of them share


@dataclass(frozen=True)
class TrainingRound:
    """The settings at ``paths`` are searched, those ``fixed`` stay, the stage ``stage`` is scored."""

    experiment: Experiment
    stage: str
    paths: tuple[str, ...]
    fixed: Mapping[str, Any]

    @cached_property
    def search(self) -> SearchSpec:
        assert self.experiment.search is not None, "a round is a round of a search"
        return self.experiment.search

    @property
    def pruning(self) -> PruningSpec | None:
        return self.search.pruning

    @cached_property
    def identity(self) -> str:
        """Of trials that are compared: the same stage is scored in the same way with the same settings fixed."""
        pruning = None if self.pruning is None else self.pruning.model_dump(mode="json")
        return digest_of([self.stage, self.search.metric, pruning, self.fixed, self._declared])[:16]

    @cached_property
    def _declared(self) -> list[str]:
        """What the experiment as it stands would be scored by, in all rounds: with other data it is another search."""
        ends = [stage for stage, _ in self.search.rounds(self.experiment.names, self.experiment.last)]
        return [node.digest for end in ends for node in Nodes(self.experiment, trial=True).trial_targets(end)]

    def log(self, storage: LocalStorage) -> TrialLog:
        """The journal of the search that the round belongs to."""
        return TrialLog(storage, f"searches/{digest_of([self.search.metric, self._declared])[:16]}")

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

    def shared(self, storage: LocalStorage) -> list[Node]:
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
