"""First looks: what is hopeless is judged by the error of the difference, and by nothing without one."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.benchmarks.sweep_inputs import swept_experiment
from pipeline.experiment import with_settings
from pipeline.sweep.screening import Look, is_hopeless, rivals_of, steps_of_look


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


def test_looks_in_fewer_steps_are_compared_among_each_other_alone(tmp_path: Path) -> None:
    search = {"screening": {"samples": 48, "sampling_steps": 4}}
    experiment = swept_experiment(tmp_path, 2, samples=90, base_steps=6, channels=8, block=16, search=search)
    looks = {}
    for base, upper in ((6, 8), (6, 12), (6, 3), (4, 2), (2, 3), (3, 8)):
        settings = {"stages.base.sampling.steps": base, "stages.sr16.sampling.steps": upper}
        steps = steps_of_look(with_settings(experiment, settings), "sr16")
        looks[base, upper] = Look(scored(1.0), steps=steps)
    assert {of: look.steps for of, look in looks.items()} == {
        (6, 8): (4, 4), (6, 12): (4, 4), (6, 3): (4, 3), (4, 2): None, (2, 3): None, (3, 8): (3, 4)
    }  # fmt: skip
    for group in ([(6, 8), (6, 12)], [(6, 3)], [(4, 2), (2, 3)], [(3, 8)]):
        for of in group:
            assert rivals_of(looks[of], looks.values()) == [looks[other] for other in group]
    whole = with_settings(experiment, {"search.screening.sampling_steps": None})
    assert steps_of_look(whole, "sr16") is None
