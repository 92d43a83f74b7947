"""Actors are dealt out so that the slowest stage is as fast as can be."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from pipeline.cas.dealing import deal_out, drawing_flops
from pipeline.errors import UserError
from stages.specs import StageSamplingSpec


def test_actors_are_dealt_out_by_what_a_stage_computes() -> None:
    assert deal_out(2, [1.0, 100.0]) == (1, 1)
    assert deal_out(8, [1.0, 3.0]) == (2, 6)
    assert deal_out(6, [0.0, 2.1, 1.0]) == (1, 3, 2)


@pytest.mark.parametrize("work", [(1.0, 1.0, 1.0), (5.0, 2.0, 9.0), (1.0, 40.0, 3.0)])
def test_no_other_deal_is_faster(work: tuple[float, ...]) -> None:
    for workers in range(3, 12):
        dealt = deal_out(workers, work)
        assert sum(dealt) == workers
        others = (counts for counts in itertools.product(range(1, workers), repeat=3) if sum(counts) == workers)
        best = min(max(each / count for each, count in zip(work, counts, strict=True)) for counts in others)
        assert max(each / count for each, count in zip(work, dealt, strict=True)) == best


def test_fewer_workers_than_stages_are_refused() -> None:
    says = "resources.sampling_workers 2 is fewer than the 3 stages of the cascade.* raise it to 3 or more"
    with pytest.raises(UserError, match=says):
        deal_out(2, [1.0, 1.0, 1.0])


def test_what_a_stage_computes_grows_with_its_images_and_its_steps(cascade: dict[str, Path]) -> None:
    few, many = StageSamplingSpec(steps=2), StageSamplingSpec(steps=6)
    assert drawing_flops(cascade["base"], many) == 3 * drawing_flops(cascade["base"], few)
    assert drawing_flops(cascade["middle"], few) > 3 * drawing_flops(cascade["base"], few)
