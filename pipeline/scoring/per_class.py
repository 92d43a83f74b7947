"""Scores of single classes: FID within a class where it has enough images, and which classes are worst.

FID of all samples can be good while classes are confused with each other; FID within each class sees that. It needs
more images of the class than the features have dimensions, on both sides, or it is not computed at all.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from pipeline.scoring.frechet import frechet_distance
from pipeline.scoring.statistics import as_features, stats_of


class ClassScore(NamedTuple):
    """The score of one class."""

    label: int
    score: float


def per_class_fid(
    fake: npt.ArrayLike, fake_labels: npt.ArrayLike, real: npt.ArrayLike, real_labels: npt.ArrayLike, classes: int
) -> tuple[float | None, ...]:
    """FID within each of ``classes`` from features (N, D), (M, D) and their labels (N,), (M,).

    None where either side has no more images of the class than D. Biased upwards like any FID, and more, since a
    class has few images: compare classes only at equal counts.
    """
    sides = [(as_features(fake), np.asarray(fake_labels)), (as_features(real), np.asarray(real_labels))]
    for features, labels in sides:
        assert labels.shape == features.shape[:1], f"{labels.shape} labels for {len(features)} features"

    def within(label: int) -> float | None:
        ours, theirs = (features[labels == label] for features, labels in sides)
        if min(len(ours), len(theirs)) <= ours.shape[1]:
            return None
        return frechet_distance(stats_of(ours), stats_of(theirs))

    return tuple(within(label) for label in range(classes))


def worst_classes(scores: Sequence[float | None], count: int, *, higher_is_better: bool) -> list[ClassScore]:
    """The ``count`` classes with the worst scores, worst first, equals by class; classes without a score left out.

    ``scores`` has one entry per class: of an accuracy more is better, of an FID less.
    """
    known = [ClassScore(label, score) for label, score in enumerate(scores) if score is not None]
    return sorted(known, key=lambda entry: entry.score if higher_is_better else -entry.score)[:count]
