"""The judging nodes of the graph: classifiers, features of real and generated images, scores.

Every image is judged the same way, real or generated: rounded to 8 bits at its own size, upsampled to the data set's
size, then passed to the feature extractor (FID, precision, recall) and to a second, separately seeded classifier
(accuracy), so that neither figure is selected on the other.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from pipeline.classifier import load_classifier, predict, save_classifier, train_classifier
from pipeline.classifier_spec import ClassifierSpec
from pipeline.dag import Task
from pipeline.data.cache import ShardCache
from pipeline.data.datasets import data_place, open_examples
from pipeline.data.manifest import load_manifest
from pipeline.errors import UserError
from pipeline.metrics import (
    FeatureStats,
    accuracy,
    classifier_extractor,
    fid,
    inception_extractor,
    merge_stats,
    precision_recall,
)
from stages.images import to_float, to_uint8, upsample


def make_classifier(task: Task) -> dict[str, Any]:
    """Graph node: a classifier trained on real images, and its accuracy on held-out ones at each size."""
    torch.set_num_threads(task.context["threads"])
    data = task.inputs["data"]
    cache = ShardCache(Path(task.context["cache"]), int(task.context["cache_gb"] * 1e9))
    spec = ClassifierSpec.model_validate(task.config["classifier"])
    sizes = task.config["sizes"]
    net = train_classifier(
        spec,
        open_examples(data, "train", cache=cache),
        sizes,
        task.config["seed"],
        log=lambda step, _: task.progress(step, spec.steps),
    )
    save_classifier(net, task.out)
    found = {}
    for size in sizes:
        held_out = open_examples(data, "val", size=size, keep_bytes=0)
        count = min(len(held_out), task.config["held_out"])
        full = held_out.manifest.image_size
        read = [held_out.read(indices) for indices in _blocks(np.arange(count), 250)]
        predicted = np.concatenate([predict(net, _enlarged(pixels, full)) for pixels, _ in read])
        truth = np.concatenate([labels for _, labels in read])
        found[str(size)] = accuracy(predicted, truth, len(held_out.classes)).overall
    return {"accuracy": found, "held_out": count}


def real_features(task: Task) -> dict[str, Any]:
    """Graph node: features and predictions of real images of one split at one size (int ``size``, ``count``)."""
    torch.set_num_threads(task.context["threads"])
    split, count, size = task.config["split"], task.config["count"], task.config["size"]
    examples = open_examples(task.inputs["data"], split, size=size, keep_bytes=0)
    if count > len(examples):
        raise UserError(
            f"the evaluation asks for {count} real images of the split {split}, which holds {len(examples)}; "
            f"lower evaluation.{'reference' if split == 'train' else 'samples'} (and search.samples) to at most that"
        )
    if split == "val":
        np.save(task.out / "images.npy", examples.read(np.arange(min(count, 100)))[0])
    full, truth = examples.manifest.image_size, []

    def blocks() -> Iterator[npt.NDArray[np.uint8]]:
        for indices in _blocks(np.arange(count), task.config["block"]):
            pixels, labels = examples.read(indices)
            truth.append(labels)
            yield _enlarged(pixels, full)

    judged = _judge(task, blocks(), count)
    np.save(task.out / "labels.npy", np.concatenate(truth))
    return judged


def sample_features(task: Task) -> dict[str, Any]:
    """Graph node: features and predictions of the images of a sample node."""
    torch.set_num_threads(task.context["threads"])
    full = load_manifest(data_place(task.inputs["data"]).address).image_size
    samples = np.load(task.inputs["samples"] / "images.npy", mmap_mode="r")
    images = (to_uint8(torch.from_numpy(np.array(block))).numpy() for block in _blocks(samples, task.config["block"]))
    return _judge(task, (_enlarged(block, full) for block in images), len(samples))


def _judge(task: Task, blocks: Iterator[npt.NDArray[np.uint8]], count: int) -> dict[str, Any]:
    """Extract features and predict classes block by block; both are stored in index order."""
    scorer = task.config["scorer"]
    if scorer["kind"] == "classifier":
        extract = classifier_extractor(task.inputs["feature_classifier"])
    else:
        extract = inception_extractor(Path(task.context["weights"]))
    judge = load_classifier(task.inputs["judge"])
    features, predicted, done = [], [], 0
    for block in blocks:
        features.append(extract(block))
        predicted.append(predict(judge, block))
        done += len(block)
        task.progress(done, count)
    np.save(task.out / "features.npy", np.concatenate(features))
    np.save(task.out / "predicted.npy", np.concatenate(predicted))
    np.save(task.out / "classes.npy", judge.head.out_features)
    return {"count": done}


def score(task: Task) -> dict[str, Any]:
    """Graph node: FID, precision, recall and accuracy of ``judged`` against the real ``reference``."""
    torch.set_num_threads(task.context["threads"])
    judged = np.load(task.inputs["judged"] / "features.npy")
    reference = np.load(task.inputs["reference"] / "features.npy")
    labels = np.load(task.inputs.get("samples", task.inputs["judged"]) / "labels.npy")
    block, neighbours = task.config["block"], task.config["neighbours"]
    both = [merge_stats(FeatureStats.from_features(part) for part in _blocks(f, block)) for f in (judged, reference)]
    classes = int(np.load(task.inputs["judged"] / "classes.npy"))
    found = accuracy(np.load(task.inputs["judged"] / "predicted.npy"), labels, classes)
    # Precision and recall grow with the reference, so it is cut to as many images as are judged.
    near = precision_recall(judged, reference[: len(judged)], neighbours=neighbours)
    return {
        "samples": len(judged),
        "fid": fid(*both),
        "accuracy": found.overall,
        "per_class": [None if np.isnan(share) else share for share in found.per_class],
        "precision": near.precision,
        "recall": near.recall,
    }


def _blocks(values: npt.NDArray[Any], block: int) -> Iterator[npt.NDArray[Any]]:
    return (values[start : start + block] for start in range(0, len(values), block))


def _enlarged(pixels: npt.NDArray[np.uint8], size: int) -> npt.NDArray[np.uint8]:
    """uint8 (N, h, w, 3) -> uint8 (N, size, size, 3): images of every stage are judged at the size of the data."""
    return to_uint8(upsample(to_float(torch.from_numpy(pixels)), size)).numpy()
