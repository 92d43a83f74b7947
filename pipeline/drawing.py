"""``rayfall sample``: images of a trained cascade for a person to look at, as PNG files and a grid."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from pipeline.dag import stored
from pipeline.data.datasets import MANIFEST_PART, data_place
from pipeline.data.manifest import load_manifest
from pipeline.errors import UserError
from pipeline.events import Events
from pipeline.experiment import with_settings
from pipeline.experiment_spec import Experiment
from pipeline.nodes import Nodes
from pipeline.outputs import check_folder, users_choice
from pipeline.parts import device_of
from pipeline.report.grids import class_grid
from pipeline.sampling import labels_of, to_draw_from
from pipeline.storage import open_storage
from stages.cascade import Cascade, blocks_of
from stages.images import to_uint8


def load_cascade(experiment: Experiment, upto: str, device: str) -> tuple[Cascade, tuple[str, ...], Path]:
    """The trained stages up to ``upto``, the class names and the data's result.

    Raises UserError naming a stage that is not trained.
    """
    storage, nodes = open_storage(experiment.store), Nodes(experiment)
    names = experiment.chain(upto)
    stages = []
    for name in names:
        result = stored(nodes.train(name), storage)
        if result is None:
            raise UserError(
                f"stage {name} is not trained for these settings in {storage.address}; `rayfall train` it first"
            )
        ema_length = experiment.stages[name].sampling.ema_length
        compiled = experiment.resources.compiled_sampling
        stages.append(to_draw_from(result.folder, ema_length=ema_length, device=device, compiled=compiled))
    data = stored(nodes.data, storage)
    assert data is not None, "a trained stage has its data"
    classes = load_manifest(data_place(data.part(*MANIFEST_PART)).address).classes
    return Cascade(stages, [experiment.stages[name].sampling for name in names]), classes, data.folder


def draw_samples(
    experiment: Experiment,
    *,
    stage: str | None,
    count: int,
    label: str | None,
    seed: int | None,
    folder: Path,
    events: Events,
) -> dict[str, Any]:
    """Write ``count`` images of the cascade up to ``stage`` to ``folder``, and ``grid.png``; None: all of the main one.

    With the experiment's own evaluation seed (``seed`` None) and no ``label`` these are the first images that the
    evaluation scores, bit for bit. Settings that a search chose are used where its result is stored. Raises UserError
    for an unknown stage or class, a stage that is not trained, or a folder that cannot be written.
    """
    check_folder(folder)
    storage = open_storage(experiment.store)
    if experiment.search is not None and (found := stored(Nodes(experiment).search(), storage)):
        experiment = with_settings(experiment, found.summary["chosen"])
    last = experiment.last if stage is None else stage
    if last not in experiment.stages:
        raise UserError(f"there is no stage {last!r}; stages are {', '.join(experiment.names)}")
    device = device_of(experiment.resources.model_dump())
    cascade, classes, data = load_cascade(experiment, last, device)
    if label is not None and label not in classes:
        raise UserError(f"there is no class {label!r}; classes are {', '.join(classes)}")
    torch.set_num_threads(max(1, torch.get_num_threads()))
    evaluation = experiment.evaluation
    images, labels = [], []
    events.started("sample")
    for indices, asked in blocks_of(count, evaluation.block):
        wanted = (
            labels_of(evaluation.labels, indices, len(classes), data)
            if label is None
            else torch.full_like(indices, classes.index(label))
        )
        rungs = cascade.sample_block(
            indices.to(device),
            wanted.to(device),
            seed=evaluation.seed if seed is None else seed,
            precision=evaluation.precision,
        )
        images.append(to_uint8(rungs[-1].images[:asked].cpu()).numpy())
        labels.append(wanted[:asked].numpy())
        events.progress("sample", sum(map(len, images)), count)
    pixels, drawn = np.concatenate(images), np.concatenate(labels)
    with users_choice(folder):
        _write(folder, pixels, drawn, classes)
    return {"count": len(pixels), "stage": last, "folder": str(folder), "grid": str(folder / "grid.png")}


def _write(folder: Path, pixels: Any, labels: Any, classes: Sequence[str]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for index, (image, label) in enumerate(zip(pixels, labels, strict=True)):
        Image.fromarray(image).save(folder / f"{index:06d}-{classes[label]}.png")
    (folder / "grid.png").write_bytes(class_grid(pixels, labels, len(classes)))
