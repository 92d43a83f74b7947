"""The drawing nodes of the graph: images of one stage, drawn in canonical blocks and measured where they are drawn.

*Chained* images are conditioned on the cascade's own low-res images, *oracle* ones on real held-out images, which are
disjoint from the reference. What stays of an image is what was measured of it. The images themselves are kept where
a stage above is drawn on them, so that everything tried up there shares them, and as a preview of the first few.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pipeline.dag import Task
from pipeline.data.datasets import open_examples
from pipeline.errors import UserError
from pipeline.gathering import gather
from pipeline.measures import Measures, measures_of
from pipeline.parts import PartJob, Rows, device_of, settle
from pipeline.previews import joined
from pipeline.restoration import consistency, restored
from stages.cascade import Rung, TrainedStage, sample_stage
from stages.checkpoints import load_trained
from stages.compilers import CannotCompile, check_compiler
from stages.images import downsample, to_float, to_uint8
from stages.specs import StageSamplingSpec

Floats = npt.NDArray[np.float32]


def draw(task: Task) -> dict[str, Any]:
    """Graph node: draw ``count`` images of one stage and measure them; one array of rows per measure.

    Also writes ``images.npy`` float32 (count, 3, S, S) in [-1, 1] and ``kept-<level>.npy`` (z_s at a truncation level)
    where a stage above is drawn on them, and the preview. The rows of a smaller draw of the same images, where
    ``context["earlier"]`` names one, are taken over and only the rest is drawn.
    """
    count = task.config["count"]
    gather(task, "pipeline.sampling:draw_part", kept=count, precision=task.config["precision"])
    return {"count": count}


def draw_part(job: PartJob) -> Rows:
    """The images of one part, drawn block by block and measured: arrays of one row per image."""
    settle(job.context)
    measures = measures_of(job.config, job.inputs, job.context)
    ema_length, compiled = job.config["sampling"].get("ema_length"), job.context.get("compiled_sampling", False)
    trained = _trained(job.inputs["stage"], ema_length, device_of(job.context), compiled)
    return joined(
        (indices, asked, *_draw_block(job, trained, torch.from_numpy(indices), measures))
        for indices, asked in job.blocks()
    )


def _draw_block(
    job: PartJob, trained: TrainedStage, indices: Tensor, measures: Measures
) -> tuple[npt.NDArray[np.uint8], Rows]:
    """One canonical block: its images, what was measured of them, and what a stage above will ask for."""
    config, device = job.config, device_of(job.context)
    sampling = StageSamplingSpec.model_validate(config["sampling"])
    truth: Tensor | None = None
    below: Rung | None = None
    if config["oracle"]:
        truth, labels = _real_images(job.inputs["data"], trained, indices)
        assert trained.stage.spec.low_res_size is not None, "only a super-resolution stage has an oracle"
        below = Rung(downsample(truth, trained.stage.spec.low_res_size), {})
    else:
        labels = labels_of(config["labels"], indices, trained.stage.spec.classes, job.inputs.get("data"))
        if "below" in job.inputs:
            below = _stored_rung(job.inputs["below"], indices, config)
    rung = sample_stage(
        trained,
        sampling,
        indices.to(device),
        labels.to(device),
        None if below is None else moved(below, device),
        seed=config["seed"],
        keep=config["keep"],
        precision=config["precision"],
    )
    images = rung.images.cpu()
    refuse_nonfinite(images, trained.stage.spec.name, indices)
    pixels = to_uint8(images).numpy()
    rows = {"labels": labels.numpy(), **measures.of(pixels)}
    if below is not None:
        rows["consistency"] = consistency(images, below.images).float().numpy()
        if truth is not None:
            rows |= restored(images, truth, below.images)
    if config["handed"]:
        rows["images"] = images.numpy()
        rows |= {kept_name(level): z.cpu().numpy() for level, z in rung.kept.items()}
    return pixels, rows


def refuse_nonfinite(images: Tensor, stage: str, indices: Tensor) -> None:
    """Raise FloatingPointError for images (B, C, H, W) that are not numbers: rounded to 8 bits they would be black."""
    wrong = ~torch.isfinite(images).flatten(1).all(1)
    if wrong.any():
        first = int(indices[wrong.nonzero()[0, 0].cpu()])
        raise FloatingPointError(
            f"{int(wrong.sum())} of {len(images)} images of stage {stage} are not finite, the first of them number "
            f"{first}: its weights or its sampling have gone wrong"
        )


def labels_of(kind: str, indices: Tensor, classes: int, data: Path | None) -> Tensor:
    """The classes (B,) of the samples at ``indices``: all classes in turn ("uniform"), or those of the real images.

    With "histogram" sample i has the class of training image i: their order is a random one, so any number of samples
    has the real class histogram but for chance, and as many samples as training images have it exactly.
    """
    if kind == "uniform":
        return indices % classes
    assert data is not None, "the real class histogram is that of a data set"
    real = _training_labels(data)
    return torch.from_numpy(real[indices.numpy() % len(real)])


@lru_cache(maxsize=2)
def _training_labels(data: Path) -> npt.NDArray[np.int64]:
    return np.array(open_examples(data, "train", keep_bytes=0).labels)


def moved(rung: Rung, device: str) -> Rung:
    """``rung`` on ``device``."""
    return Rung(rung.images.to(device), {level: z.to(device) for level, z in rung.kept.items()})


def kept_name(level: float) -> str:
    """The array of z_s at ``level``; all digits of it, so that no two levels share one."""
    return f"kept-{float(level)!r}"


@lru_cache(maxsize=4)  # a search over the EMA length reads one stage with many weights
def _trained(folder: Path, ema_length: float | None, device: str, compiled: bool) -> TrainedStage:
    """The stage in ``folder``, its average rebuilt at most once per process: a result never changes."""
    return to_draw_from(folder, ema_length=ema_length, device=device, compiled=compiled)


def to_draw_from(folder: Path, *, ema_length: float | None, device: str, compiled: bool) -> TrainedStage:
    """The trained stage in ``folder``. Raises UserError where its net is to be compiled and cannot be."""
    try:
        if compiled:
            check_compiler()
    except CannotCompile as error:
        raise UserError(f"resources.compiled_sampling: {error}") from error
    return load_trained(folder, ema_length=ema_length, device=device, compiled=compiled)


def _stored_rung(folder: Path, indices: Tensor, config: Mapping[str, Any]) -> Rung:
    """One block of the stage below from its node's files; past their end its first image is repeated."""
    level = config["sampling"]["level"]

    def read(name: str) -> Tensor:
        stored = np.load(folder / f"{name}.npy", mmap_mode="r")
        first = int(indices[0])
        return torch.from_numpy(stored[np.where(indices.numpy() < len(stored), indices.numpy(), first)])

    truncated = config["sampling"]["augmentation"] == "truncated" and level > 0
    return Rung(read("images"), {level: read(kept_name(level))} if truncated else {})


def _real_images(result: Path, trained: TrainedStage, indices: Tensor) -> tuple[Tensor, Tensor]:
    """Held-out real images at the size of the stage, (B, 3, S, S) in [-1, 1], and their labels."""
    examples = _held_out(result, trained.stage.spec.size)
    if int(indices[0]) >= len(examples):
        raise UserError(f"the oracle asks for more than the {len(examples)} held-out images; lower evaluation.held_out")
    pixels, labels = examples.read(np.minimum(indices.numpy(), len(examples) - 1))
    return to_float(torch.from_numpy(pixels)), torch.from_numpy(labels)


@lru_cache(maxsize=4)
def _held_out(result: Path, size: int) -> Any:
    return open_examples(result, "val", size=size, keep_bytes=0)
