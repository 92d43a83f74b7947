"""What an ablation would cost, before anything is started: how many trainings and draws are left once replicates share.

Needs no data set: what is one training or one draw follows from settings alone, as it does in the graph.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pipeline.ablation.cells import replicates_of
from pipeline.experiment_spec import Experiment
from pipeline.machines import Machine
from pipeline.nodes import Nodes
from pipeline.planning import DataFacts, StagePlan, data_facts, images_drawn, stage_cost, stage_plan

if TYPE_CHECKING:
    from stages.accounting import Cost


@dataclass
class _Plans:
    """Plans of stages. Their nets are counted once each: neither seeds nor how a stage is sampled change a net."""

    machine: Machine
    data: DataFacts
    _costs: dict[str, Cost] = field(default_factory=dict)

    def of(self, experiment: Experiment, name: str) -> StagePlan:
        key = _stage(experiment, name)
        if key not in self._costs:
            self._costs[key] = stage_cost(experiment, name, self.data)
        return stage_plan(experiment, name, self.machine, self.data, self._costs[key])


def reckon_ablation(experiment: Experiment, machine: Machine) -> dict[str, Any]:
    """GPU-hours of all replicates together, as plain values; what several of them share counts once.

    Searches of cells come on top, with the stages that they train: how much that is, is for their looks to say. Raises
    UserError where the data set is not described, or the experiment has no ablation.
    """
    plans = _Plans(machine, data_facts(experiment))
    trained: dict[str, float] = {}
    drawn: dict[str, float] = {}
    replicates, asked = replicates_of(experiment), 0
    for replicate in replicates:
        made = replicate.experiment
        declared = [name for name in made.names if name not in Nodes(made).searched_trainings]
        asked += len(declared)
        for name in declared:
            trained[_training(made, name)] = plans.of(made, name).gpu_hours
        for key, name, share in _draws(made, plans.data.train):
            drawn[key] = plans.of(made, name).sampling_gpu_hours * share
    return {
        "cells": len({replicate.cell for replicate in replicates}),
        "seeds": len({replicate.seed for replicate in replicates}),
        "searches": sum(replicate.experiment.search is not None for replicate in replicates),
        "trainings": len(trained),
        "trainings_asked": asked,
        "draws": len(drawn),
        "training_gpu_hours": sum(trained.values()),
        "sampling_gpu_hours": sum(drawn.values()),
    }


def _draws(experiment: Experiment, train: int) -> Iterator[tuple[str, str, float]]:
    """Sets of images that scores of ``experiment`` need: a key that equal sets share, the stage, and the share of the
    images drawn of that stage."""
    held_out = experiment.evaluation.held_out_images
    for name in experiment.names:
        total = images_drawn(experiment, name, train)
        oracle = 0 if experiment.below(name) is None else held_out
        chain = [name]
        while (below := experiment.below(chain[0])) is not None:
            chain.insert(0, below)
        noise = experiment.evaluation.seed
        settings = [[_drawn(experiment, one), experiment.kept_levels(one, searched=False)] for one in chain]
        yield f"chained {noise} {settings}", name, (total - oracle) / total
        if oracle:
            yield f"oracle {noise} {_drawn(experiment, name, oracle=True)}", name, oracle / total


def _drawn(experiment: Experiment, name: str, *, oracle: bool = False) -> str:
    """Weights of stage ``name``, and how it is sampled."""
    return f"{_training(experiment, name)} {experiment.drawn_with(name, oracle=oracle)}"


def _training(experiment: Experiment, name: str) -> str:
    """What makes a training of ``name`` the one it is."""
    return f"{name} {experiment.seed} {_stage(experiment, name)}"


def _stage(experiment: Experiment, name: str) -> str:
    stage = experiment.stage_spec(name, classes=1).model_dump(mode="json")
    return json.dumps([stage, experiment.stages[name].training.model_dump(mode="json")], sort_keys=True)
