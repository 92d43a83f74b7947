"""Inception score: how sure a classifier is of each sample, and how varied its classes are. No reference set.

Salimans et al. 2016: exp of the mean over samples of KL(p(class | sample) || p(class)), where p(class) is the mean
over the samples of a split. Between 1 and the number of classes.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import numpy.typing as npt

from pipeline.errors import UserError
from pipeline.scoring.statistics import Doubles, Spread, as_features


def inception_score(logits: npt.ArrayLike, *, splits: int = 10, seed: int = 2020) -> Spread:
    """Score of logits (N, C) in index order, in float64: mean and spread over ``splits`` shuffled parts.

    The shuffle is torch-fidelity's, so the score equals its. Raises UserError with fewer samples than splits.
    """
    values = as_features(logits)
    count = len(values)
    if count < splits:
        raise UserError(f"the Inception score over {splits} splits needs {splits} samples or more, not {count}")
    order = np.random.RandomState(seed).permutation(count)  # torch-fidelity's generator: the same shuffle
    bounds = [split * count // splits for split in range(splits + 1)]
    scores = [_score(values[order[a:b]].astype(np.float64)) for a, b in pairwise(bounds)]
    return Spread(float(np.mean(scores)), float(np.std(scores)))


def _score(logits: Doubles) -> float:
    shifted = logits - logits.max(axis=1, keepdims=True)
    log_p = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    p = np.exp(log_p)
    marginal = p.mean(axis=0)
    # A class that no sample can have leaves p = marginal = 0, where p log(p / marginal) has the limit 0.
    log_marginal = np.log(marginal, where=marginal > 0, out=np.zeros_like(marginal))
    return float(np.exp((p * (log_p - log_marginal)).sum(axis=1).mean()))
