"""First looks: what is hopeless is judged by the error of the difference, and by nothing without one."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from pipeline.sweep.screening import Look, is_hopeless


def scored(fid: float, accuracy: float = 0.9, without: float = 0.0, samples: int = 100) -> dict[str, Any]:
    """Scores whose FIDs without one block are ``fid`` and ``without`` times a ramp of variance 35."""
    ramp = [fid + without * (number - 9.5) for number in range(20)]
    return {"samples": samples, "fid": fid, "fid_error": 0.1, "fid_without": ramp, "accuracy": accuracy}


def test_a_trial_is_hopeless_by_the_error_of_the_difference_alone() -> None:
    right = np.ones(100, dtype=bool)
    best, other = Look(scored(2.0, without=1.0), right), Look(scored(2.5, without=1.1), right)
    # The blocks' differences are a ramp of slope 0.1: the paired error is sqrt(19 / 20 * 0.01 * 665) = 2.51...
    error = math.sqrt(19 / 20 * 0.01 * sum((number - 9.5) ** 2 for number in range(20)))
    assert is_hopeless(other, best, metric="chained_fid", errors=0.49 / error)
    assert not is_hopeless(other, best, metric="chained_fid", errors=0.51 / error)
    few = Look({**scored(9.0), "fid_without": []}, right)
    assert not is_hopeless(few, best, metric="chained_fid", errors=3.0), "no error, no judgement"


def test_accuracy_is_compared_image_by_image() -> None:
    right, other = np.ones(400, dtype=bool), np.ones(400, dtype=bool)
    other[:9] = False  # 9 images worse: 0.0225 +- sqrt(0.0225 * 0.9775 / 400) = 0.0074
    best, look = Look(scored(1.0), right), Look(scored(1.0), other)
    assert is_hopeless(look, best, metric="chained_accuracy", errors=3.0)
    assert not is_hopeless(look, best, metric="chained_accuracy", errors=3.1)
    assert not is_hopeless(best, look, metric="chained_accuracy", errors=0.1)
    assert not is_hopeless(best, best, metric="chained_accuracy", errors=0.1)
