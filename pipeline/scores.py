"""The scoring node of the graph: every score of one set of images against the real ones of its size, and its passport.

It reads what was measured where the images were drawn (``pipeline.sampling``) or read (``pipeline.judging``).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from pipeline.dag import Task
from pipeline.data.datasets import data_place
from pipeline.data.manifest import Manifest, load_manifest
from pipeline.parts import load_stats
from pipeline.revision import git_revision
from pipeline.scoring.accuracy import accuracy
from pipeline.scoring.error_bars import sample_size
from pipeline.scoring.family import Measured, ReferenceMeasured, scores_of
from pipeline.scoring.passport import ExtractorMark, Passport, ReferenceMark, SourceMark, StageMark, resize_of
from pipeline.scoring.per_class import per_class_fid

BALANCED = 1.25  # largest class over smallest: a few thousand images tell the share of a class no better


def score(task: Task) -> dict[str, Any]:
    """Graph node: the scores of ``judged`` against ``reference`` with each scorer, the first one's at the top.

    Those of the others stand in ``also``. ``fid_val`` is the FID against ``validation``, held-out real images.
    "accuracy" is that of the images under a classifier trained on real ones.
    """
    torch.set_num_threads(task.context["threads"])
    inputs = task.inputs
    names = [scorer["kind"] for scorer in task.config["scorers"]]
    manifest = load_manifest(data_place(inputs["data"]).address)
    found = [_scores_with(task, name) | {"passport": _passport(task, name)} for name in names]
    found[0]["flags"] += _imbalance(task, len(manifest.classes))
    labels = _array(inputs["judged"], "labels")
    seen = accuracy(_array(inputs["judged"], "top"), labels, len(manifest.classes))
    reference = _array(inputs["reference"], f"features-{names[0]}")
    real_labels = _array(inputs["reference"], "labels")[: len(reference)]
    fids = per_class_fid(
        _array(inputs["judged"], f"features-{names[0]}"),
        labels[: found[0]["samples"]],
        reference,
        real_labels,
        len(manifest.classes),
    )
    return {
        **found[0],
        "accuracy": seen.top1,
        "accuracy_top5": seen.top5 if len(manifest.classes) > 5 else None,
        "per_class": list(seen.per_class),
        "per_class_fid": list(fids),
        "also": dict(zip(names[1:], found[1:], strict=True)),
    }


def _scores_with(task: Task, scorer: str) -> dict[str, Any]:
    """The family of scores with one scorer, and FID against held-out images."""
    inputs = task.inputs
    sample = measured(inputs["judged"], scorer)
    scores = scores_of(sample, reference_of(inputs["reference"], scorer), neighbours=task.config["neighbours"])
    against, flags = None, list(scores["flags"])
    if "validation" in inputs and scores["fid"] is not None:
        held_out = reference_of(inputs["validation"], scorer)
        size = sample_size(held_out.stats.count, held_out.stats.dimension, images="held-out images")
        against = None if size.verdict == "refused" else held_out.gaussian.distance(sample.stats)
        flags += [size.sentence] if size.sentence else []
    return {**scores, "fid_val": against, "flags": flags}


def _imbalance(task: Task, classes: int) -> list[str]:
    """A sentence where samples go through all classes in turn and the reference does not."""
    if task.context["labels"] != "uniform" or task.config["kind"] != "chained":
        return []
    counts = np.bincount(_array(task.inputs["reference"], "labels"), minlength=classes)
    if counts.max() <= BALANCED * counts.min():
        return []
    return [
        f"the samples go through all classes in turn, of which the reference has {counts.min():,} to {counts.max():,} "
        "images each: what that costs is in every score and gap; set evaluation.labels: histogram"
    ]


def measured(folder: Path, scorer: str) -> Measured:
    """What ``scorer`` saw in the images of a drawing or real node's ``folder``; features are memory-mapped.

    Where fewer features than images were kept these few are the samples.
    """
    features = _array(folder, f"features-{scorer}")
    stats = load_stats(folder, f"features-{scorer}")
    assert stats.count == len(features), "samples keep all their features"
    return Measured(features, stats, _optional(folder, f"logits-{scorer}"), _spatial(folder, scorer))


def reference_of(folder: Path, scorer: str) -> ReferenceMeasured:
    """What ``scorer`` saw in real images: statistics of all of them, features of the first."""
    stats = load_stats(folder, f"features-{scorer}")
    return ReferenceMeasured(stats, stats.count, _array(folder, f"features-{scorer}"), _spatial(folder, scorer))


def _spatial(folder: Path, scorer: str) -> Any:
    name = f"spatial-{scorer}"
    return load_stats(folder, name) if (folder / f"stats-{name}.npz").exists() else None


def _array(folder: Path, name: str) -> npt.NDArray[Any]:
    array: npt.NDArray[Any] = np.load(folder / f"{name}.npy", mmap_mode="r")
    return array


def _optional(folder: Path, name: str) -> npt.NDArray[Any] | None:
    return _array(folder, name) if (folder / f"{name}.npy").exists() else None


def _validation(task: Task, manifest: Manifest) -> ReferenceMark | None:
    if "validation" not in task.inputs:
        return None
    images = len(_array(task.inputs["validation"], "labels"))
    source = manifest.source
    return ReferenceMark(name=source.name, split="val", images=images, digest=manifest.digest, lossy=source.lossy)


def _passport(task: Task, scorer: str) -> dict[str, Any]:
    """What the scores with ``scorer`` are of: the node's settings, and what the drawing says of itself."""
    config, context, inputs = task.config, task.context, task.inputs
    place = data_place(inputs["data"])
    manifest = load_manifest(place.address)
    drawn: Mapping[str, Any] = json.loads((inputs["judged"] / "drawn.json").read_text())
    samples = len(_array(inputs["judged"], "labels"))
    images = len(_array(inputs["reference"], "labels"))
    kept = len(_array(inputs["reference"], f"features-{scorer}"))
    real = config["kind"] == "real"
    resize = resize_of(manifest, config["size"], place.reduction)
    passport = Passport(
        samples=samples,
        indices=(0, samples),
        source=SourceMark(
            kind=config["kind"],
            address=place.address if real else "",
            digest=manifest.digest if real else None,
            lossy=manifest.source.lossy if real else False,
        ),
        reference=ReferenceMark(
            name=manifest.source.name,
            split="train",
            images=images,
            digest=manifest.digest,
            near=min(kept, samples),
            kept=kept,
            lossy=manifest.source.lossy,
        ),
        validation=_validation(task, manifest),
        extractor=ExtractorMark(**drawn["extractors"][scorer]),
        judge=drawn["judge"],
        size=config["size"],
        resize=resize,
        stages=tuple(StageMark(**stage) for stage in context["stages"]),
        labels=context["labels"],
        neighbours=config["neighbours"],
        seed=context["seed"],
        precision="f32" if real else context["precision"],
        block=context["block"],
        device=drawn["device"] + (", compiled nets" if drawn.get("compiled") and not real else ""),
        revision=drawn["revision"],
        scored_by=git_revision(),
    )
    return passport.model_dump(mode="json")
