"""The sampling node of the graph: the images of one stage, in canonical blocks, on any number of workers.

*Chained* samples are conditioned on the cascade's own low-res images, *oracle* samples on real held-out ones, which
are disjoint from the reference images.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from pipeline.dag import Task
from pipeline.data.datasets import open_examples
from pipeline.errors import UserError
from stages.cascade import Rung, TrainedStage, sample_stage
from stages.checkpoints import load_trained
from stages.images import downsample, to_float
from stages.specs import StageSamplingSpec

Floats = npt.NDArray[np.float32]


def sample_prefix(task: Task) -> dict[str, Any]:
    """Graph node: images of one stage for ``count`` indices, chained on a stage below or on real low-res images.

    Writes ``images.npy`` float32 (count, 3, S, S) in [-1, 1], ``labels.npy`` and ``kept-<level>.npy`` for each
    truncation level that the stage above may ask for.
    """
    config = task.config
    count, block = config["count"], config["block"]
    starts = list(range(0, count, block))
    inputs = {role: str(path) for role, path in task.inputs.items()}
    parts: list[dict[str, Floats]] = []
    for part in _in_parallel(config, inputs, starts, task.context):
        parts.append(part)
        task.progress(min(len(parts) * block, count), count)
    for name in parts[0]:
        np.save(task.out / f"{name}.npy", np.concatenate([part[name] for part in parts])[:count])
    return {"count": count}


def _in_parallel(
    config: Mapping[str, Any], inputs: Mapping[str, str], starts: Sequence[int], context: Mapping[str, Any]
) -> Iterator[dict[str, Floats]]:
    """``sample_block`` for each start, in order; as Ray tasks where Ray runs and several workers are asked for."""
    threads = context["threads"]
    if context["sampling_workers"] > 1 and len(starts) > 1:
        import ray

        if ray.is_initialized():
            remote: Any = ray.remote(sample_block)
            for reference in [remote.remote(dict(config), inputs, threads, start) for start in starts]:
                yield ray.get(reference)
            return
    for start in starts:
        yield sample_block(config, inputs, threads, start)


def sample_block(config: Mapping[str, Any], inputs: Mapping[str, str], threads: int, start: int) -> dict[str, Floats]:
    """One canonical block of a sample node: arrays (block, ...) named as the files of the node."""
    torch.set_num_threads(threads)
    sampling = StageSamplingSpec.model_validate(config["sampling"])
    trained = _trained(inputs["stage"], sampling.ema_length)
    indices = torch.arange(start, start + config["block"])
    below: Rung | None = None
    if "data" in inputs:
        below, labels = _real_rung(Path(inputs["data"]), trained, indices)
    else:
        labels = indices % trained.stage.spec.classes
        if "below" in inputs:
            below = _stored_rung(Path(inputs["below"]), start, config)
    rung = sample_stage(
        trained,
        sampling,
        indices,
        labels,
        below,
        seed=config["seed"],
        keep=config["keep"],
        precision=config["precision"],
    )
    kept = {kept_name(level): z.numpy() for level, z in rung.kept.items()}
    return {"images": rung.images.numpy(), "labels": labels.numpy(), **kept}


def kept_name(level: float) -> str:
    """The array of z_s at ``level``; all digits of it, so that no two levels share one."""
    return f"kept-{float(level)!r}"


@lru_cache(maxsize=4)  # a search over the EMA length reads one stage with many weights
def _trained(folder: str, ema_length: float | None) -> TrainedStage:
    """The stage in ``folder``, its average rebuilt at most once per process: a result never changes."""
    return load_trained(Path(folder), ema_length=ema_length)


def _stored_rung(folder: Path, start: int, config: Mapping[str, Any]) -> Rung:
    """One block of the stage below from its node's files; the last block is padded by repeating its first image."""
    block, level = config["block"], config["sampling"]["level"]

    def read(name: str) -> torch.Tensor:
        part = np.load(folder / f"{name}.npy", mmap_mode="r")[start : start + block]
        return torch.from_numpy(np.concatenate([part, np.repeat(part[:1], block - len(part), axis=0)]))

    truncated = config["sampling"]["augmentation"] == "truncated" and level > 0
    return Rung(read("images"), {level: read(kept_name(level))} if truncated else {})


def _real_rung(result: Path, trained: TrainedStage, indices: torch.Tensor) -> tuple[Rung, torch.Tensor]:
    """Held-out real images as the stage below would hand them over, and their labels."""
    examples = open_examples(result, "val", size=trained.stage.spec.size)
    low_size = trained.stage.spec.low_res_size
    assert low_size is not None, "only a super-resolution stage has an oracle"
    if int(indices[0]) >= len(examples):
        raise UserError(f"the oracle asks for more than the {len(examples)} held-out images; lower evaluation.samples")
    pixels, labels = examples.read(np.minimum(indices.numpy(), len(examples) - 1))
    low_res = downsample(to_float(torch.from_numpy(pixels)), low_size)
    return Rung(low_res, {}), torch.from_numpy(labels)
