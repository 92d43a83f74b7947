"""The whole family of scores of one sample set against one reference, from features. Nothing is extracted here.

One function for our own samples and for anybody else's, so that the figures of both mean the same. What cannot be
computed honestly is None, and a sentence in ``flags`` says why.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.scoring.error_bars import BLOCKS, SampleBlocks, fid_infinity, sample_size
from pipeline.scoring.frechet import Reference
from pipeline.scoring.inception_score import inception_score
from pipeline.scoring.kernel_distance import kernel_distance
from pipeline.scoring.manifold import precision_recall
from pipeline.scoring.statistics import FeatureStats

Features = npt.NDArray[np.floating[Any]]

SUBSET = 1000  # images in a subset of KID, where there are as many
SPLITS = 10  # of the Inception score


@dataclass(frozen=True)
class Measured:
    """What the extractor saw in N samples, in index order: features (N, D) and their statistics; logits (N, C) and
    statistics of spatial features where it gives any. Arrays may be memory-mapped."""

    features: Features
    stats: FeatureStats
    logits: Features | None = None
    spatial: FeatureStats | None = None


@dataclass(frozen=True)
class ReferenceMeasured:
    """What it saw in the reference: statistics of all ``images`` (None: nobody knows how many) and features (M, D) of
    the first M of them; None where there are statistics alone."""

    stats: FeatureStats
    images: int | None
    features: Features | None = None
    spatial: FeatureStats | None = None

    @cached_property
    def gaussian(self) -> Reference:
        """The root of the covariance, for as many sample sets as come."""
        return Reference(self.stats)

    def near(self, samples: int) -> int | None:
        """How many reference images precision and recall of ``samples`` are against."""
        return None if self.features is None else min(len(self.features), samples)


def scores_of(sample: Measured, reference: ReferenceMeasured, *, neighbours: int = 3) -> dict[str, Any]:
    """Every score that these features allow; plain JSON, None where there is none.

    ``fid``, ``fid_infinity`` (``_error``: their standard errors), ``fid_curve`` [[samples, FID], ...]; ``fid_without``,
    the FID without each block, from which `pipeline.comparing.paired_error` takes that of a difference; ``kid`` and
    ``inception_score`` (``_std``: the spread over subsets and splits, as torch-fidelity reports it, and no standard
    error); ``sfid``, ``precision`` and ``recall`` in [0, 1]; ``flags``, a sentence for each thing to know.
    Precision and recall are against as many reference images as there are samples, the first ones, or all where there
    are fewer: they grow with the set that they are judged by. KID, which does not, is against all of M.
    """
    count, dimension = sample.features.shape
    assert sample.stats.count == count, f"statistics of {sample.stats.count} samples, features of {count}"
    assert reference.stats.dimension == dimension, f"{dimension} features against {reference.stats.dimension}"
    flags = list(_flags(sample, reference))
    found = {"samples": count, **_frechet(sample, reference), "sfid": _spatial(sample, reference)}
    return {**found, **_near(sample, reference, neighbours), **_certainty(sample), "flags": flags}


def _flags(sample: Measured, reference: ReferenceMeasured) -> Iterator[str]:
    count, dimension = sample.features.shape
    sides = [(count, "samples"), (reference.images, "reference images")]
    for number, name in sides:
        if number is not None and (sentence := sample_size(number, dimension, images=name).sentence):
            yield sentence
    if sample.spatial is not None and reference.spatial is not None:
        size = sample_size(sample.spatial.count, sample.spatial.dimension)
        if size.verdict == "refused":
            yield f"no sFID of {sample.spatial.count:,} samples: it has {sample.spatial.dimension:,} dimensions"
    if reference.features is None:
        yield "no KID, precision and recall: the reference is statistics alone, without images"


def _frechet(sample: Measured, reference: ReferenceMeasured) -> dict[str, Any]:
    count, dimension = sample.features.shape
    found: dict[str, Any] = dict.fromkeys(("fid", "fid_error", "fid_infinity", "fid_infinity_error"))
    found |= {"fid_without": [], "fid_curve": []}
    if _refused(count, dimension, reference.images):
        return found
    found["fid"] = reference.gaussian.distance(sample.stats)
    if count < 2 * BLOCKS:
        return found
    blocks = SampleBlocks(sample.features, reference.gaussian)
    found |= {"fid_error": blocks.fid.estimate.error, "fid_without": blocks.fid.without.tolist()}
    curve = blocks.curve()
    if curve is not None:
        limit = fid_infinity(curve)
        found |= {"fid_infinity": limit.value, "fid_infinity_error": limit.error}
        points = zip(curve.sizes, curve.values.tolist(), strict=True)
        found["fid_curve"] = [[round(size), value] for size, value in points]
    return found


def _spatial(sample: Measured, reference: ReferenceMeasured) -> float | None:
    if sample.spatial is None or reference.spatial is None:
        return None
    if _refused(sample.spatial.count, sample.spatial.dimension, reference.images):
        return None
    return Reference(reference.spatial).distance(sample.spatial)


def _refused(count: int, dimension: int, images: int | None) -> bool:
    sides = [count] if images is None else [count, images]
    return any(sample_size(side, dimension).verdict == "refused" for side in sides)


def _near(sample: Measured, reference: ReferenceMeasured, neighbours: int) -> dict[str, float | None]:
    """What is measured between single images."""
    found: dict[str, float | None] = dict.fromkeys(("kid", "kid_std", "precision", "recall"))
    if reference.features is None:
        return found
    subset = min(SUBSET, len(sample.features), len(reference.features))
    if subset >= 2:
        found["kid"], found["kid_std"] = kernel_distance(sample.features, reference.features, subset_size=subset)
    real = reference.features[: reference.near(len(sample.features))]
    if min(len(sample.features), len(real)) > neighbours:
        found["precision"], found["recall"] = precision_recall(sample.features, real, neighbours=neighbours)
    return found


def _certainty(sample: Measured) -> dict[str, float | None]:
    if sample.logits is None or len(sample.logits) < SPLITS:
        return {"inception_score": None, "inception_score_std": None}
    score = inception_score(sample.logits, splits=SPLITS)
    return {"inception_score": score.mean, "inception_score_std": score.std}
