"""Steps made in two ways are told apart where they are not the same."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from stages.checks import training
from stages.checks.training import STEPS, Steps, Way, apart, stage_of, worst

PLAIN = Way("cpu")
NETS = {kind: {**net, "channels": 8, "head_width": 8} for kind, net in training.NETS.items()}


@pytest.fixture(autouse=True)
def _narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "NETS", NETS)


def test_one_difference_that_is_no_number_is_the_worst() -> None:
    assert worst([0.1, 0.3, 0.2]) == 0.3
    assert math.isnan(worst([0.1, math.nan, 0.2]))


@pytest.mark.parametrize("kind", list(NETS))
def test_a_way_is_as_far_from_another_as_its_losses_and_norms(kind: str) -> None:
    stage = stage_of(kind)
    plain, half = (list(Steps.of(stage, replace(PLAIN, precision=one), 4).told()) for one in ("f32", "bf16"))
    assert len(plain) == 2 * STEPS
    assert plain[2] != plain[0], "it trains"
    found = apart(stage, replace(PLAIN, precision="bf16"), PLAIN, 4)
    largest = max(abs(mine / theirs - 1) for mine, theirs in zip(half, plain, strict=True))
    assert found == pytest.approx(largest)
    assert 0 < found < training.ROUNDING_BF16
    assert apart(stage, PLAIN, PLAIN, 4) == 0


def test_blocks_are_computed_again_and_batches_are_cut() -> None:
    stage, seen = stage_of(dropout=0.1, super_resolution=True), []
    again = Steps.of(stage, replace(PLAIN, recompute=16, micro_batch=3), 4)
    again.state.net.register_forward_pre_hook(lambda net, given: seen.append(len(given[0])))
    again.take()
    assert seen == [3, 1]
    assert any(getattr(part, "recompute_from", None) == 16 for part in again.state.net.modules())
    assert apart(stage, replace(PLAIN, recompute=16), PLAIN, 4) == 0
