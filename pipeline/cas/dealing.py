"""How many actors each stage of a cascade has, where sets of samples are drawn by a line of them (``pipelined``)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pipeline.errors import UserError
from stages.accounting import cost_of
from stages.checkpoints import read_description
from stages.specs import StageSamplingSpec, StageSpec, TrainingSpec
from stages.stage import Stage


def deal_out(workers: int, work: Sequence[float]) -> tuple[int, ...]:
    """How many of ``workers`` each stage has, so that the slowest takes the least time; ``work`` is FLOPs per image.

    Every stage has one at least. Raises UserError where there are fewer workers than stages.
    """
    if workers < len(work):
        raise UserError(
            f"resources.sampling_workers {workers} is fewer than the {len(work)} stages of the cascade, each of which "
            f"has an actor of its own where sampling is pipelined; raise it to {len(work)} or more, or set "
            "resources.pipelined_sampling to false"
        )
    counts = [1] * len(work)
    for _ in range(workers - len(work)):
        slowest = max(range(len(work)), key=lambda number: work[number] / counts[number])
        counts[slowest] += 1
    return tuple(counts)


def drawing_flops(folder: Path, sampling: StageSamplingSpec) -> float:
    """FLOPs of the trained stage in ``folder`` to draw one image; reckoned in seconds (``stages.accounting``)."""
    told = read_description(folder)
    stage = Stage.build(StageSpec.model_validate(told["stage"]))
    return float(cost_of(stage, TrainingSpec.model_validate(told["training"])).forward_flops * sampling.net_calls)
