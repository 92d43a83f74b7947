"""Samples of a whole cascade as a data set, in one form per stage. Trains nothing.

For the accuracy score sample i has the label of training example i, so a set of as many samples as there are training
images has their class histogram exactly; samples that are kept for others have the labels that the evaluation asks
for. A chain is drawn once and every stage's image of it is stored, each in the form of its own size: so the score can
be had at each stage's resolution. It is a data set like any other (`pipeline.data.manifest`), with an empty held-out
split, and says of itself that it is samples, whose small images are no means of the large ones.

A shard is a fixed range of sample indices and a plain function of the settings: any worker draws the same bytes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from pipeline.cas.dealing import deal_out, drawing_flops
from pipeline.cas.pipelined import PATIENCE, Block, Line, Pixels, stage_line
from pipeline.dag import Task
from pipeline.data.datasets import open_examples, take_shards
from pipeline.data.manifest import Form, Manifest
from pipeline.data.publishing import Request, Written, publish
from pipeline.data.writing import ShardJob, Square, Undecodable, write_shards
from pipeline.experiment import digest_of
from pipeline.fan_out import FanOut
from pipeline.parts import device_of, fan_out_of, settle
from pipeline.results import Place, folder_of, place_of
from pipeline.sampling import refuse_nonfinite, to_draw_from
from pipeline.storage import sha256_of
from stages.cascade import Cascade
from stages.checkpoints import read_description
from stages.images import to_uint8
from stages.specs import StageSamplingSpec, StageSpec

RESIZE = "none, every form holds what a stage of the cascade drew at this size"


@dataclass(frozen=True)
class Drawing:
    """How a cascade is drawn from; plain data that travels to whoever draws."""

    names: tuple[str, ...]
    stages: tuple[Place, ...]  # results of the trained stages, base first
    sampling: tuple[StageSamplingSpec, ...]
    seed: int
    block: int
    precision: str
    device: str
    threads: int
    compiled: bool = False  # whether nets are called compiled


@dataclass(frozen=True)
class SampleContent:
    """Samples ``start`` to ``stop`` of a drawing. ``labels`` are those of whole canonical blocks: they may reach
    past ``stop``, so that the net sees the same last block wherever the set ends. They are drawn where this is, or by
    the actors of ``line``."""

    drawing: Drawing
    start: int
    stop: int
    labels: tuple[int, ...]
    line: Line | None = None

    def __len__(self) -> int:
        return self.stop - self.start

    def squares(self, size: int) -> Iterator[Square | Undecodable]:
        """Every sample at ``size`` px (the last stage's), and beside it what the stages below it drew.

        Raises FloatingPointError where a stage drew what is not finite, naming the lowest that did.
        """
        drawn = self._drawn() if self.line is None else self.line.drawn(self._blocks())
        for block, pixels in zip(self._blocks(), drawn, strict=True):
            for place in range(block.stored):
                images = {rung.shape[1]: Image.fromarray(rung[place]) for rung in pixels}
                yield Square(f"{block.first + place:08d}", images[size], block.labels[place], False, images)

    def _blocks(self) -> Iterator[Block]:
        size = self.drawing.block
        for first in range(self.start, self.stop, size):
            labels = self.labels[first - self.start :][:size]
            yield Block(first, labels, min(size, self.stop - first))

    def _drawn(self) -> Iterator[list[Pixels]]:
        """The images of each block, of every stage, base first; drawn in this process."""
        drawing = self.drawing
        settle({"threads": drawing.threads})
        folders = tuple(map(folder_of, drawing.stages))
        cascade = _cascade(folders, drawing.sampling, drawing.device, drawing.compiled)
        for block in self._blocks():
            rungs = cascade.sample_block(
                block.indices.to(drawing.device),
                torch.tensor(block.labels).to(drawing.device),
                seed=drawing.seed,
                precision=drawing.precision,
            )
            for name, rung in zip(drawing.names, rungs, strict=True):
                refuse_nonfinite(rung.images[: block.stored], name, block.indices[: block.stored])
            yield [to_uint8(rung.images).cpu().numpy() for rung in rungs]


@lru_cache(maxsize=1)
def _cascade(stages: tuple[Path, ...], sampling: tuple[StageSamplingSpec, ...], device: str, compiled: bool) -> Cascade:
    """The trained cascade on ``device``, loaded once per process: a result never changes."""
    trained = [
        to_draw_from(stage, ema_length=settings.ema_length, device=device, compiled=compiled)
        for stage, settings in zip(stages, sampling, strict=True)
    ]
    return Cascade(trained, sampling)


def draw_sample_set(task: Task) -> dict[str, Any]:
    """Graph node: samples of a cascade as a data set in ``shards``.

    Inputs: ``data``, and ``train <stage>`` for every stage. Settings: ``stages`` [{"name", "sampling"}, ...] base
    first, ``images`` (None: one per training image), ``labels`` ("histogram": those of the training images; "uniform":
    all classes in turn), ``seed``, ``block``, ``precision`` and ``shard_blocks``. Shards grow
    in the task's scratch folder: what a killed driver had published is there when the node is started again.
    """
    config = task.config
    folders = {stage["name"]: task.inputs[f"train {stage['name']}"] for stage in config["stages"]}
    training = open_examples(task.inputs["data"], "train", keep_bytes=0)
    drawing = Drawing(
        names=tuple(stage["name"] for stage in config["stages"]),
        stages=tuple(place_of(task.inputs, f"train {stage['name']}") for stage in config["stages"]),
        sampling=tuple(StageSamplingSpec.model_validate(stage["sampling"]) for stage in config["stages"]),
        seed=config["seed"],
        block=config["block"],
        precision=config["precision"],
        device=device_of(task.context),
        threads=task.context["threads"],
        compiled=task.context.get("compiled_sampling", False),
    )
    count = config["images"] or len(training)
    request = _request(config, folders, count, training.manifest)
    objects = task.storage.objects(f"{task.scratch}/shards{'-compiled' if drawing.compiled else ''}")
    uniform = np.arange(len(training.classes))
    labels = training.labels if config["labels"] == "histogram" else uniform

    def write() -> Written:
        with _drawn_by(task, drawing) as (line, fan_out):
            jobs = list(
                sample_jobs(objects.address, request.forms, drawing, labels, count, config["shard_blocks"], line)
            )
            return Written(training.classes, write_shards(objects, jobs, 0, fan_out, task.progress))

    manifest = publish(objects, request, write)
    take_shards(objects, manifest, task.out / "shards")
    return {
        "images": manifest.splits["train"].examples,
        "sizes": sorted(form.size for form in manifest.forms),
        "digest": manifest.digest,
    }


@contextmanager
def _drawn_by(task: Task, drawing: Drawing) -> Iterator[tuple[Line | None, FanOut]]:
    """The line that draws what is written (None: whoever writes draws), and how shards are handed out to be written.

    A line where ``context["pipelined"]`` asks for one, Ray runs, and there is more than one stage.
    """
    context = task.context
    asked, gpus = context.get("pipelined", False), context.get("gpus_per_sampling_worker", 0.0)
    if asked is False or len(drawing.names) == 1 or not _ray_runs():
        yield None, fan_out_of(context)
        return
    if isinstance(asked, Mapping):
        counts = tuple(asked.get(name, 1) for name in drawing.names)
    else:
        stages = zip(map(folder_of, drawing.stages), drawing.sampling, strict=True)
        counts = deal_out(context["sampling_workers"], [drawing_flops(*stage) for stage in stages])
    patience = PATIENCE if context.get("grows", True) else 0.0
    with stage_line(drawing, counts, gpus=gpus, name=task.scratch, patience=patience) as line:
        yield line, line.writers(task.config["shard_blocks"])


def _ray_runs() -> bool:
    import ray

    return bool(ray.is_initialized())


def _request(config: Mapping[str, Any], stages: Mapping[str, Path], count: int, training: Manifest) -> Request:
    """What the set is asked to be; its fingerprint covers the weights and the labels, and how they are drawn from."""
    weights = {name: _hashes_of_weights(folder) for name, folder in stages.items()}
    fingerprint = digest_of({"settings": dict(config), "weights": weights, "labels": training.digest})
    sizes = sorted({_size_of(folder) for folder in stages.values()}, reverse=True)
    forms = tuple(Form(size=size, encoding="png", quality=None) for size in sizes)
    settings = ("labels", "seed", "block", "precision", "shard_blocks")
    numbers = {key: config[key] for key in settings} | {"images": count}
    return Request("samples", f"samples of {' > '.join(stages)}", fingerprint, forms, RESIZE, numbers)


def _hashes_of_weights(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): sha256_of(path) for path in sorted(folder.rglob("*.safetensors"))}


def _size_of(folder: Path) -> int:
    return StageSpec.model_validate(read_description(folder)["stage"]).size


def sample_jobs(
    address: str,
    forms: tuple[Form, ...],
    drawing: Drawing,
    all_labels: npt.NDArray[np.int64],
    count: int,
    shard_blocks: int,
    line: Line | None = None,
) -> Iterator[ShardJob]:
    """One job per shard of whole blocks, which ``line`` draws where there is one.

    ``all_labels`` are given over and over if need be.
    """
    step = shard_blocks * drawing.block
    for number, start in enumerate(range(0, count, step)):
        labels = all_labels[np.arange(start, start + step) % len(all_labels)]
        content = SampleContent(drawing, start, min(start + step, count), tuple(labels.tolist()), line)
        yield ShardJob(address, forms, "train", number, content, 0)
