"""Inception score: known answers and equality with torch-fidelity."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch_fidelity.metric_isc import isc_features_to_metric

from pipeline.errors import UserError
from pipeline.scoring.inception_score import inception_score


@pytest.mark.parametrize("classes", [2, 10, 1008])
@pytest.mark.parametrize("sure", [800.0, 1e30])
def test_of_sure_predictions_it_is_the_number_of_classes(classes: int, sure: float) -> None:
    """One split, so that each class comes equally often; probabilities below the least double included."""
    assert math.isclose(inception_score(np.eye(classes) * sure, splits=1).mean, classes, rel_tol=1e-12)


def test_a_class_that_no_sample_can_have_does_not_count() -> None:
    assert math.isclose(inception_score(np.eye(5)[[0, 3]] * 1e30, splits=1).mean, 2, rel_tol=1e-12)


def test_of_predictions_that_are_all_alike_it_is_one() -> None:
    logits = np.tile(np.random.default_rng(0).normal(size=7), (50, 1))
    found = inception_score(logits, splits=5)
    assert math.isclose(found.mean, 1, rel_tol=1e-12)
    assert found.std < 1e-12


@pytest.mark.parametrize(("count", "classes", "splits"), [(500, 10, 10), (503, 17, 10), (40, 3, 1), (64, 100, 7)])
@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_equals_torch_fidelity(count: int, classes: int, splits: int, kind: type) -> None:
    logits = (np.random.default_rng(0).normal(size=(count, classes)) * 3 + 1).astype(kind)
    found = inception_score(logits, splits=splits)
    expected = isc_features_to_metric(torch.from_numpy(logits), splits=splits)
    assert math.isclose(found.mean, expected["inception_score_mean"], rel_tol=1e-12)
    assert math.isclose(found.std, expected["inception_score_std"], rel_tol=1e-9, abs_tol=1e-13)


def test_fewer_samples_than_splits_are_refused() -> None:
    with pytest.raises(UserError, match="10 samples or more, not 9"):
        inception_score(np.zeros((9, 4)))
