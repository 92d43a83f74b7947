"""Optimizers without torch's compiler: the same bits, and nothing of it is imported."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
import torch

from stages.optimizers import SGD, AdamW

TRAINED = """
import sys, torch
from stages.specs import StageSpec, TrainingSpec
from stages.stage import Stage
from stages.training import Batch, TrainState, train_step
net = {"kind": "unet", "channels": 8, "multipliers": [1, 2], "blocks": 1, "head_width": 8, "attention": [4]}
stage = Stage.build(StageSpec.model_validate({"name": "base", "size": 8, "classes": 3, "net": net}))
training = TrainingSpec.model_validate({"steps": 2, "batch_size": 4, "precision": "bf16"})
state = TrainState.start(stage, training, 0)
batch = Batch(torch.rand(4, 3, 8, 8), torch.zeros(4, dtype=torch.long), torch.arange(4))
for _ in range(2):
    train_step(stage, state, batch, training=training, seed=0)
state.optimizer.load_state_dict(state.optimizer.state_dict())
print(state.step, "torch._dynamo" in sys.modules)
"""


def weights_after(optimizer: Any, **settings: Any) -> list[torch.Tensor]:
    """Of five steps, the third of which a scaler would skip; gradients are kept, and a group joins on the way."""
    generator = torch.Generator().manual_seed(0)
    weights = [torch.randn(3, 4, generator=generator).requires_grad_() for _ in range(3)]
    made = optimizer(weights[:2], lr=0.1, weight_decay=0.01, **settings)
    made.add_param_group({"params": [weights[2]], "lr": 0.2})
    for step in range(5):
        made.zero_grad(set_to_none=step % 2 == 0)
        sum((weight**3).sum() for weight in weights).backward()  # type: ignore[union-attr]
        if settings.get("fused"):
            made.found_inf = torch.tensor(float(step == 2))
        made.step()
        made.load_state_dict(made.state_dict())
    return weights


@pytest.mark.parametrize(
    ("ours", "theirs", "settings"),
    [
        (AdamW, torch.optim.AdamW, {"fused": True}),
        (AdamW, torch.optim.AdamW, {"betas": (0.9, 0.99)}),
        (SGD, torch.optim.SGD, {"momentum": 0.9}),
    ],
)
def test_steps_have_the_bits_of_torchs_own(ours: Any, theirs: Any, settings: dict[str, Any]) -> None:
    found, expected = weights_after(ours, **settings), weights_after(theirs, **settings)
    assert all(torch.equal(*pair) for pair in zip(found, expected, strict=True))
    assert all(weight.grad is not None and not weight.grad.requires_grad for weight in found)


def test_a_process_that_trains_does_not_import_the_compiler() -> None:
    found = subprocess.run([sys.executable, "-c", TRAINED], check=True, capture_output=True, text=True)
    assert found.stdout.split() == ["2", "False"]
