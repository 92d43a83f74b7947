"""Descriptions of training: what would fail later, or take for ever, is refused when it is read."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from stages.net_specs import UNetSpec, UViTSpec
from stages.specs import StageSpec
from stages.training_specs import TrainingSpec


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"betas": [0.9, 1.0]}, "less than 1"),
        ({"batch_size": 8, "micro_batch": 9}, r"of which there are 8 \(batch_size\); lower it to 8 or less"),
        ({"averages": {"every": 1}}, "stores more than 500 pairs in 10000 steps; raise it to 20 or more"),
        ({"averages": {"every": 100, "widths": [0.1, 0.05]}}, "the narrower first"),
    ],
)
def test_training_that_cannot_be_is_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        TrainingSpec.model_validate({"steps": 10000, **given})


def test_as_many_workers_share_a_step_as_there_are_pieces() -> None:
    assert TrainingSpec(steps=1, batch_size=10).most_workers == 10
    assert TrainingSpec(steps=1, batch_size=10, micro_batch=4).most_workers == 3
    assert TrainingSpec(steps=1, batch_size=10, micro_batch=10).most_workers == 1


def test_shares_of_one_are_refused_but_for_a_stage_that_knows_no_classes() -> None:
    net = UNetSpec(channels=8, multipliers=(1, 2), blocks=1, head_width=8)
    assert not StageSpec(name="base", size=8, classes=3, net=net, label_drop=1.0).knows_classes
    with pytest.raises(ValidationError, match="less than or equal to 1"):
        StageSpec(name="base", size=8, classes=3, net=net, label_drop=1.1)
    with pytest.raises(ValidationError, match="less than 1"):
        UNetSpec(dropout=1.0)


def test_a_u_vit_hands_every_resolution_on() -> None:
    with pytest.raises(ValidationError, match="no long skip"):
        UViTSpec(kind="uvit", channels=32, multipliers=(1, 2), blocks=(0,), head_width=32)
    UViTSpec(kind="uvit", channels=32, multipliers=(1, 2), blocks=(0,), head_width=32, skips="residual")
