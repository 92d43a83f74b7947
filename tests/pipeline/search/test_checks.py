"""A first look of which the score has no error is refused before anything is drawn."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.benchmarks.sweep_inputs import swept_experiment
from pipeline.experiment_spec import Experiment
from pipeline.search.checks import check_screening


def test_a_first_look_that_says_nothing_is_refused(tmp_path: Path) -> None:
    def screened(samples: int, block: int = 16) -> Experiment:
        search = {"screening": {"samples": samples}}
        return swept_experiment(tmp_path, 2, samples=48, channels=8, block=block, search=search)

    check_screening(screened(40, block=8))
    with pytest.raises(ValueError, match=r"whole blocks of evaluation\.block 16, 48 samples, and search\.samples 48"):
        check_screening(screened(40))
    with pytest.raises(ValueError, match="has an error from 40 samples on, and the first look has 32; raise it"):
        check_screening(screened(32))
