"""Checks of a search section that need the evaluation section beside it. No numpy: an experiment is read with them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from pipeline.scorer_specs import ClassifierScorer
from pipeline.search.spec import PruningSpec, trains, values_at

if TYPE_CHECKING:
    from pipeline.experiment_spec import Experiment

FEWEST = 40  # samples of which an FID has a paired error: two for each of the blocks that are left out
BLOCKS = 20


def check_screening(experiment: Experiment) -> None:
    """Raise ValueError unless the first look is a part of the samples, of which the score has an error."""
    search, evaluation = experiment.search, experiment.evaluation
    look = None if search is None else search.first_look(evaluation.block)
    if search is None or search.screening is None or look is None:
        return
    told = f"search.screening.samples {search.screening.samples}"
    if look >= search.samples:
        raise ValueError(
            f"{told} fill whole blocks of evaluation.block {evaluation.block}, {look} samples, and search.samples "
            f"{search.samples} are no more; raise search.samples, or remove screening"
        )
    if search.metric != "chained_fid":
        return
    scorer = evaluation.scorer
    dimension = sum(evaluation.classifier.channels) if isinstance(scorer, ClassifierScorer) else scorer.dimension
    # An FID without one of the blocks is of so many fewer samples, which must be more than the dimensions too.
    fewest = max(FEWEST, math.floor(dimension * BLOCKS / (BLOCKS - 1)) + 2)
    if look < fewest:
        raise ValueError(
            f"{told}: an FID with features of {dimension} dimensions has an error from {fewest} samples on, and the "
            f"first look has {look}; raise it, or search by chained_accuracy"
        )


def check_pruning(experiment: Experiment) -> None:
    """Raise ValueError where ``search.pruning`` or ``search.screening`` has no effect, or a look could have no FID."""
    search = experiment.search
    if search is None:
        return
    rounds = search.rounds(experiment.names, experiment.last)
    if not rounds:
        return  # no path is one of a stage, which is told where paths are checked
    kinds = {any(map(trains, paths)) for _, paths in rounds}
    if search.screening is not None and False not in kinds:
        raise ValueError(
            "search.screening is a first look at trials that sample alone, and every round of search.space trains; "
            "remove it, or search by pruning"
        )
    if search.pruning is None:
        return
    if True not in kinds:
        raise ValueError(
            "search.pruning ends trainings early, and no setting of search.space trains a stage; remove it, or search "
            "by screening"
        )
    _check_looked_at(experiment, search.pruning, rounds)
    features = sum(experiment.evaluation.classifier.channels)
    for name in ("samples", "reference"):
        if (count := getattr(search.pruning, name)) <= features:
            raise ValueError(
                f"search.pruning.{name} {count}: FID in the classifier's {features} features needs more images; give "
                f"at least {features + 1}"
            )


def _check_looked_at(experiment: Experiment, pruning: PruningSpec, rounds: Sequence[tuple[str, list[str]]]) -> None:
    """Looks are at the stage whose score counts, while it trains; there must be a training long enough for one."""
    assert experiment.search is not None, "there is a search section"
    looked_at = {end for end, paths in rounds if any(retrains(experiment, path, end) for path in paths)}
    if not looked_at:
        raise ValueError(
            f"search.pruning looks at the training of {rounds[-1][0]}, which no setting of search.space changes; "
            "remove it, or set search.mode to stagewise"
        )
    steps = {name: _most_steps(experiment, name) for name in looked_at}
    if pruning.first >= max(steps.values()):
        told = ", ".join(f"{count} of stages.{name}" for name, count in steps.items())
        raise ValueError(
            f"search.pruning.first {pruning.first}: trainings have no more steps ({told}), so that none is looked at; "
            "lower it, or remove pruning"
        )


def retrains(experiment: Experiment, path: str, stage: str) -> bool:
    """Whether ``stage`` is trained anew for another value at ``path``: for its own, and for the schedule below it."""
    below, parts = experiment.below(stage), path.split(".")
    return trains(path) and (parts[1:2] == [stage] or (parts[1:2] == [below] and parts[2:3] in ([], ["schedule"])))


def _most_steps(experiment: Experiment, name: str) -> int:
    assert experiment.search is not None, "there is a search section"
    searched = values_at(experiment.search.space, f"stages.{name}.training.steps")
    return max([experiment.stages[name].training.steps, *(int(steps) for steps in searched)])
