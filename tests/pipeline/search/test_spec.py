"""What a search section leaves to the machine that it runs on."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from pipeline.search.spec import SearchSpec

TRAINED, SAMPLED = "stages.sr.training.learning_rate", "stages.sr.sampling.level"


def section(**settings: Any) -> SearchSpec:
    space = {TRAINED: {"values": [0.1]}, SAMPLED: {"values": [0.1]}}
    return SearchSpec.model_validate({"space": space, **settings})


def test_as_many_trials_run_at_once_as_the_machine_offers() -> None:
    assert section().trials_at_once([SAMPLED], 64) == 64
    assert section().trials_at_once([SAMPLED, TRAINED], 64) == 2
    for paths in ([SAMPLED], [TRAINED]):
        assert section(concurrency=5).trials_at_once(paths, 64) == 5


def test_a_first_look_takes_one_step_at_least() -> None:
    assert section(screening={"samples": 200, "sampling_steps": 1}).screening is not None
    with pytest.raises(ValidationError, match="greater than 0"):
        section(screening={"samples": 200, "sampling_steps": 0})
