"""Accuracy of samples under a classifier trained on real images. Not the classification accuracy score (CAS).

CAS trains a classifier on samples and tests it on real images; this asks a classifier of real images what it sees
in samples. It is cheap, and blind to variety: one good sample per class, repeated, scores 1.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt


class Accuracy(NamedTuple):
    """Shares in [0, 1]: of all samples, top-1 and top-5 (None where fewer than five classes were kept); of each class
    top-1 (None where it has no sample)."""

    top1: float
    top5: float | None
    per_class: tuple[float | None, ...]


def accuracy(top: npt.ArrayLike, labels: npt.ArrayLike, classes: int) -> Accuracy:
    """How often the asked-for class is what the classifier sees.

    ``top`` (N, k) integers: the classes by falling logit, k >= 1; ``labels`` (N,) in [0, classes), N >= 1.
    """
    seen, asked = np.asarray(top, dtype=np.int64), np.asarray(labels, dtype=np.int64)
    assert seen.ndim == 2, f"classes by falling logit are (N, k), not {seen.shape}"
    assert asked.shape == seen.shape[:1], f"{asked.shape} labels for {seen.shape[:1]} predictions"
    assert len(asked) > 0, "there is no sample"
    assert 0 <= asked.min() <= asked.max() < classes, f"labels are in [0, {classes})"
    right = seen == asked[:, None]
    top5 = float(right[:, :5].any(axis=1).mean()) if seen.shape[1] >= 5 else None
    counts = np.bincount(asked, minlength=classes)
    hits = np.bincount(asked[right[:, 0]], minlength=classes)
    per_class = tuple(float(hit / count) if count else None for hit, count in zip(hits, counts, strict=True))
    return Accuracy(float(right[:, 0].mean()), top5, per_class)
