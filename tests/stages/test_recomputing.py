"""Blocks that are computed again: the same bits of loss and gradients, less memory, more FLOPs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor

from stages.accounting import cost_of
from stages.recomputing import Recomputable, recompute_from
from stages.specs import StageSpec, TrainingSpec
from stages.stage import Stage
from stages.training import Batch, TrainState, train_step

NETS: Mapping[str, dict[str, Any]] = {
    "unet": {"kind": "unet", "multipliers": [1, 2], "attention": [8]},
    "adm": {"kind": "adm", "multipliers": [1, 2], "attention": [8, 16]},
    "uvit": {"kind": "uvit", "multipliers": [1, 2], "depth": 2, "mlp_ratio": 2},
}
COMMON = {"channels": 8, "head_width": 8, "blocks": 1, "dropout": 0.2}


def stage_of(kind: str) -> Stage:
    net = {**COMMON, **NETS[kind]}
    return Stage.build(StageSpec.model_validate({"name": "base", "size": 16, "classes": 3, "net": net}))


def run(kind: str, precision: str, side: int | None) -> list[Tensor]:
    """Losses and gradients of two steps, in micro-batches, and the weights after them."""
    stage = stage_of(kind)
    fields = {"steps": 2, "batch_size": 4, "micro_batch": 3, "precision": precision}
    training = TrainingSpec.model_validate(fields)
    state = TrainState.start(stage, training, seed=0)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():  # off their start, where zeros keep masks from mattering
        for parameter in state.net.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    recompute_from(state.net, side)
    images = torch.randn(4, 3, 16, 16, generator=generator).clamp(-1, 1)
    batch = Batch(images, torch.tensor([0, 1, 2, 0]), torch.arange(4))
    found = []
    for _ in range(2):
        found += [train_step(stage, state, batch, training=training, seed=0).loss]
        found += [parameter.grad.clone() for parameter in state.net.parameters() if parameter.grad is not None]
    return [*found, *state.net.parameters()]


@pytest.mark.parametrize("precision", ["f32", "bf16"])
@pytest.mark.parametrize("kind", NETS)
def test_no_bit_of_loss_or_gradient_changes(kind: str, precision: str) -> None:
    kept = run(kind, precision, None)
    for side in (16, 8):
        again = run(kind, precision, side)
        assert len(again) == len(kept)
        assert all(torch.equal(one, other) for one, other in zip(again, kept, strict=True))


@pytest.mark.parametrize("precision", ["f32", "bf16"])
@pytest.mark.parametrize("kind", NETS)
def test_less_is_kept_and_more_is_computed(kind: str, precision: str) -> None:
    training = TrainingSpec.model_validate({"steps": 1, "batch_size": 4, "precision": precision})
    costs = [cost_of(stage_of(kind), training, recompute=side) for side in (None, 16, 8)]
    kept, flops = [cost.activation_bytes for cost in costs], [cost.training_flops for cost in costs]
    assert kept[2] < kept[1] < 0.7 * kept[0]
    assert flops[0] < flops[1] < flops[2] < flops[0] + costs[0].forward_flops
    assert len({cost.forward_flops for cost in costs}) == 1
    assert cost_of(stage_of(kind), training, recompute=32) == costs[0]


def test_only_blocks_on_large_maps_are_computed_again() -> None:
    """A block that doubles works on the larger map; without gradients nothing is computed again."""
    stage, seen = stage_of("adm"), []
    net = stage.build_net(0)
    recompute_from(net, 16)
    for part in net.modules():
        if isinstance(part, Recomputable):
            part.compute = lambda h, *told, part=part: seen.append(part.side(h)) or type(part).compute(part, h, *told)  # type: ignore[method-assign]
    told = torch.randn(2, 3, 16, 16), torch.zeros(2), torch.zeros(2, dtype=torch.int64)
    output = net(*told)
    once = list(seen)
    assert set(once) == {8, 16}
    seen.clear()
    output.sum().backward()
    assert sorted(seen) == sorted(side for side in once if side == 16)
    seen.clear()
    with torch.no_grad():
        net(*told)
    assert seen == once
