"""FID within classes, and the worst classes."""

from __future__ import annotations

import math

import numpy as np

from pipeline.scoring.frechet import frechet_distance
from pipeline.scoring.per_class import per_class_fid, worst_classes
from pipeline.scoring.statistics import stats_of


def test_only_classes_with_enough_images_on_both_sides() -> None:
    generator = np.random.default_rng(0)
    fake, real = generator.normal(size=(120, 6)), generator.normal(size=(140, 6)) + 0.5
    fake_labels = np.repeat([0, 1, 2], [50, 6, 64])  # 6 images in 6 dimensions are one too few
    real_labels = np.repeat([2, 0, 1], [60, 40, 40])
    found = per_class_fid(fake, fake_labels, real, real_labels, classes=4)
    assert found[1] is None
    assert found[3] is None
    expected = frechet_distance(stats_of(fake[:50]), stats_of(real[60:100]))
    assert found[0] is not None
    assert math.isclose(found[0], expected, rel_tol=1e-12)


def test_sees_classes_exchanged_which_fid_of_all_does_not() -> None:
    generator = np.random.default_rng(0)
    labels = np.arange(2000) % 2
    centres = np.array([[0.0, 0], [9, 0]])
    real, fake = (centres[which] + generator.normal(size=(2000, 2)) for which in (labels, 1 - labels))
    assert frechet_distance(stats_of(fake), stats_of(real)) < 0.1
    within = per_class_fid(fake, labels, real, labels, classes=2)
    assert all(score is not None and 70 < score < 90 for score in within)


def test_worst_classes_come_worst_first() -> None:
    assert worst_classes([0.5, None, 0.1, 0.9, 0.1], 3, higher_is_better=True) == [(2, 0.1), (4, 0.1), (0, 0.5)]
    assert worst_classes([5.0, None, 1.0, 9.0], 2, higher_is_better=False) == [(3, 9.0), (0, 5.0)]
