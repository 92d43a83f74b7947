"""Checks of a search section that need the evaluation section beside it. No numpy: an experiment is read with them."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from pipeline.scorer_specs import ClassifierScorer

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
