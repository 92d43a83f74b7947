"""The variational bound of a stage on held-out images: the closed form for a net that knows nothing, and the node."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipeline.bounding import bound_block, bound_stage
from pipeline.dag import Progress, Task
from pipeline.data.ingest import ingest_drawn, make_forms
from pipeline.errors import UserError
from pipeline.storage import open_storage
from stages.cascade import TrainedStage
from stages.checkpoints import save_checkpoint
from stages.images import to_float
from stages.schedules import sampling_grid
from stages.specs import StageSpec, TrainingSpec
from stages.stage import Stage
from stages.training import TrainState

BASE = {
    "name": "base",
    "classes": 10,
    "size": 8,
    "net": {"kind": "unet", "channels": 8, "multipliers": [1, 2], "blocks": 1, "head_width": 8},
    "schedule": {"kind": "linear_beta", "steps": 20, "beta_start": 0.005, "beta_end": 0.6},
    "times": "steps",
    "prediction": "x",
    "loss": {"space": "x"},
}
SR = {
    **BASE,
    "name": "sr",
    "size": 16,
    "low_res_size": 8,
    "low_res_schedule": {},
    "augmentation": {"noise": {"levels": [0.0, 0.4]}},
}
CONFIG = {"images": 20, "steps": 20, "variance": "posterior", "level": 0.0, "ema_length": None, "block": 8, "seed": 0}
CONFIG["precision"] = "f32"


class Blind(torch.nn.Module):
    """Takes every image for grey."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels

    def forward(self, images: torch.Tensor, *others: Any) -> torch.Tensor:
        return images.new_zeros(len(images), self.channels, *images.shape[2:])


def levels(count: int, size: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return to_float(torch.randint(0, 256, (count, size, size, 3), dtype=torch.uint8, generator=generator))


def bound_of(spec: dict[str, Any], **changes: Any) -> Any:
    stage = Stage.build(StageSpec.model_validate(spec))
    trained = TrainedStage(stage, Blind(6 if stage.spec.learns_variance else 3))
    x, indices = levels(8, stage.spec.size), torch.arange(8)
    return x, stage, bound_block(trained, x, indices, indices, {**CONFIG, **changes}, lambda step: None)


@pytest.mark.parametrize("steps", [20, 10])
def test_a_net_that_knows_nothing_pays_the_signal_to_noise_ratio(steps: int) -> None:
    """With x_hat = 0 and the posterior's variance a term is (SNR_next - SNR) x^2 / 2: the sum telescopes."""
    x, stage, bound = bound_of(BASE, steps=steps)
    snr = sampling_grid(stage.schedule, steps)[:-1].exp()
    expected = 0.5 * (snr[-1] - snr[0]) * x.double().square().flatten(1).mean(1) / math.log(2)
    assert torch.allclose(bound.steps[:-1].double().sum(0), expected, rtol=1e-4)


def test_a_learned_variance_is_asked_of_the_net() -> None:
    learned = {**BASE, "loss": {"kind": "hybrid"}}
    _, _, middle = bound_of(learned, variance="learned")  # zeros: half way between the two logarithms
    _, _, fixed = bound_of(BASE)
    assert torch.isfinite(middle.total).all()
    assert not torch.allclose(middle.total, fixed.total)
    with pytest.raises(ValueError, match="needs the fraction"):
        bound_of(BASE, variance="learned")


def task_of(folder: Path, spec: dict[str, Any], **changes: Any) -> Task:
    if not (folder / "data").exists():
        ingest_drawn(
            folder / "data" / "shards", seed=0, forms=make_forms([(16, "png")]), train=4, val=40, shard_size=40
        )
    stage = StageSpec.model_validate(spec)
    training = TrainingSpec(steps=1)
    trained, out = folder / stage.name, folder / f"out-{stage.name}"
    if not trained.exists():
        state = TrainState.start(Stage.build(stage), training, seed=0)
        generator = torch.Generator().manual_seed(0)
        for parameter in state.ema.parameters():  # away from the zeros that a net begins with
            parameter += 0.05 * torch.randn(parameter.shape, generator=generator)
        save_checkpoint(trained, stage, training, 0, state)
    out.mkdir(exist_ok=True)
    inputs = {"data": folder / "data", "stage": trained}
    config = {**CONFIG, **changes}
    return Task(f"bound/{stage.name}", config, inputs, out, {"threads": 1}, open_storage(folder), Progress())


@pytest.mark.parametrize(("spec", "level"), [(BASE, 0.0), (SR, 0.0), (SR, 0.3)])
def test_the_node_tells_the_bound_and_its_parts(tmp_path: Path, spec: dict[str, Any], level: float) -> None:
    task = task_of(tmp_path, spec, level=level)
    found = bound_stage(task)
    steps = np.load(task.out / "steps.npy")
    assert (found["images"], found["steps"], len(steps)) == (20, 20, 20)
    assert found["bits_per_dim"] == pytest.approx(found["prior"] + steps.sum(), rel=1e-6)
    assert found["decoder"] == pytest.approx(steps[-1])
    assert 0 < found["error"] < found["bits_per_dim"]
    assert 0 <= found["prior"] < 0.05
    assert bound_stage(task) == found


def test_the_low_res_image_and_its_level_count(tmp_path: Path) -> None:
    first, second = (bound_stage(task_of(tmp_path, SR, level=level)) for level in (0.0, 0.4))
    assert first["bits_per_dim"] != second["bits_per_dim"]


def test_more_images_than_are_held_out_is_the_user_s_mistake(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="asks for 50 held-out images, of which there are 40"):
        bound_stage(task_of(tmp_path, BASE, images=50))
