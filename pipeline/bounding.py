"""The graph node of the variational bound: bits per dimension of held-out real images under one stage.

The images are those of the stage's size, rounded to 8 bits (the bound is of 256 values). The chain is the ancestral
one on the grid of the schedule's T steps, or fewer; no guidance, and estimates of the clean image are clipped to
[-1, 1], since values outside are known to be wrong. A super-resolution stage is given real low-res images at the
augmentation level that it is sampled at: its bound is of the image given the small one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pipeline.dag import Task
from pipeline.data.datasets import open_examples
from pipeline.errors import UserError
from pipeline.parts import device_of, settle
from stages.bound import Bound, variational_bound
from stages.cascade import Rung, TrainedStage, blocks_of, conditioned, low_res_input
from stages.checkpoints import load_trained
from stages.guidance import thresholded
from stages.images import downsample, to_float
from stages.randomness import KeyedDraws
from stages.schedules import sampling_grid


def bound_stage(task: Task) -> dict[str, Any]:
    """Graph node: bits per dimension of ``images`` held-out images, its standard error, and its first and last parts.

    Writes ``steps.npy``: the mean term of each step, float64 (K,), the noisiest first.
    """
    settle(task.context)
    config = task.config
    count, steps = config["images"], config["steps"]
    device = device_of(task.context)
    trained = load_trained(task.inputs["stage"], ema_length=config["ema_length"], device=device)
    examples = open_examples(task.inputs["data"], "val", size=trained.stage.spec.size, keep_bytes=0)
    if count > len(examples):
        raise UserError(
            f"evaluation.bound asks for {count} held-out images, of which there are {len(examples)}; lower "
            "evaluation.bound.images"
        )
    totals, priors, parts = [], [], []
    blocks = list(blocks_of(count, config["block"]))
    for number, (indices, asked) in enumerate(blocks):
        pixels, labels = examples.read(np.minimum(indices.numpy(), len(examples) - 1))

        def counted(step: int, done: int = number * steps) -> None:
            task.progress(done + step + 1, len(blocks) * steps)

        images, classes = to_float(torch.from_numpy(pixels)).to(device), torch.from_numpy(labels).to(device)
        bound = bound_block(trained, images, classes, indices.to(device), config, counted)
        totals.append(bound.total[:asked].double().cpu())
        priors.append(bound.prior[:asked].double().cpu())
        parts.append(bound.steps[:, :asked].double().cpu())
    total, prior, part = torch.cat(totals), torch.cat(priors), torch.cat(parts, dim=1)
    np.save(task.out / "steps.npy", part.mean(1).numpy())
    return {
        "images": count,
        "steps": steps,
        "variance": config["variance"],
        "bits_per_dim": float(total.mean()),
        "error": float(total.std() / count**0.5) if count > 1 else None,
        "prior": float(prior.mean()),
        "decoder": float(part[-1].mean()),
    }


def bound_block(
    trained: TrainedStage,
    images: Tensor,
    labels: Tensor,
    indices: Tensor,
    config: Any,
    progress: Callable[[int], None],
) -> Bound:
    """The bound of one canonical block: real ``images`` (B, 3, S, S) of the stage's size, ``labels`` (B,)."""
    stage = trained.stage
    draws = KeyedDraws(config["seed"], f"bound {stage.spec.name}")
    low_res = None
    if stage.spec.low_res_size is not None:
        below = Rung(downsample(images, stage.spec.low_res_size), {})
        low_res = low_res_input(stage, below, indices, draws, kind="non_truncated", level=config["level"])

    def noise(purpose: str, step: int) -> Tensor:
        progress(step)
        return draws.normal(purpose, step, indices, images.shape[1:])

    denoiser = thresholded(stage.denoiser(trained.net), "static", percentile=1.0)
    return variational_bound(
        conditioned(denoiser, labels, low_res, precision=config["precision"]),
        images,
        sampling_grid(stage.schedule, config["steps"]),
        variance=config["variance"],
        noise=noise,
    )
