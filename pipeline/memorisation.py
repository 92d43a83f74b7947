"""The node that looks for memorised training images: the nearest of them to a few samples. No score, and no verdict.

Distances are Euclidean, in the features of the main scorer, so they say what the net behind it takes for alike. What
is near is told by real images that were never trained on: a sample that lies nearer to a training image than all but
one per cent of them do is suspicious, and a person has to look.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from pipeline.dag import Task
from pipeline.data.datasets import open_examples
from pipeline.data.loading import Examples
from pipeline.scoring.manifold import nearest

NEIGHBOURS = 3  # training images shown beside a sample
COMPARED = 5_000  # samples and held-out images that make the distances, at most
NEAR = 1.0  # per cent of held-out images that lie this near to a training image or nearer
Floats = npt.NDArray[np.float32]
Pixels = npt.NDArray[np.uint8]


def nearest_training(task: Task) -> dict[str, Any]:
    """Graph node: the training images nearest to samples of the preview, those of the smallest distances first.

    ``drawn`` are the samples of a stage of ``size`` px, ``reference`` the real training images and ``real_val`` the
    held-out ones, all with the features of ``scorer``. Of the samples of the preview the ``count`` nearest to a
    training image are told and shown, each with its ``NEIGHBOURS`` nearest. ``compared`` samples and as many held-out
    images (the first ones) make ``distances`` and ``real_distances``; ``nearer`` is the share of those samples below
    the first percentile of ``real_distances``, about 0.01 where nothing is memorised. ``reference`` training images
    were searched, the first ones ``of`` all. There are no neighbours where the preview is empty, as of a few samples
    none of which has one of its classes.

    Writes ``pairs.npy`` uint8 (count, 1 + NEIGHBOURS, S, S, 3): a sample, then its nearest training images.
    """
    torch.set_num_threads(task.context["threads"])
    config, drawn = task.config, task.inputs["drawn"]
    samples, reference, real = (_features(task, role) for role in ("drawn", "reference", "real_val"))
    count = min(COMPARED, len(samples), len(real))
    own, ordinary = (nearest(side[:count], reference, count=1)[1][:, 0] for side in (samples, real))
    task.progress(1, 3)
    previewed: npt.NDArray[np.int64] = np.load(drawn / "preview_indices.npy")
    found, apart = _neighbours(samples[previewed], reference)
    shown = np.argsort(apart[:, 0], kind="stable")[: config["count"]]
    task.progress(2, 3)
    examples = open_examples(task.inputs["data"], "train", size=config["size"], keep_bytes=0)
    np.save(task.out / "pairs.npy", _pairs(np.load(drawn / "preview.npy")[shown], examples, found[shown]))
    labels = np.load(drawn / "preview_labels.npy")
    told = _percentiles(ordinary)
    return {
        "neighbours": [
            {
                "index": int(previewed[row]),
                "label": int(labels[row]),
                "nearest": found[row].tolist(),
                "distances": [float(distance) for distance in apart[row]],
            }
            for row in shown
        ],
        "reference": len(reference),
        "of": len(examples),
        "compared": count,
        "distances": _percentiles(own),
        "real_distances": told,
        "nearer": float(np.mean(own < told["p01"])),
        "scorer": config["scorer"],
    }


def _features(task: Task, role: str) -> Floats:
    """The features (N, D) that an input left."""
    values: Floats = np.load(task.inputs[role] / f"features-{task.config['scorer']}.npy", mmap_mode="r")
    return values


def _percentiles(distances: npt.NDArray[np.floating[Any]]) -> dict[str, float]:
    median, near = np.percentile(distances.astype(np.float64), [50.0, NEAR])
    return {"median": float(median), "p01": float(near)}


def _neighbours(samples: Floats, reference: Floats) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.floating[Any]]]:
    """Indices and distances (N, ``NEIGHBOURS``) of the nearest to each of N samples, which may be none."""
    count = min(NEIGHBOURS, len(reference))
    if not len(samples):
        return np.empty((0, count), np.int64), np.empty((0, count), np.float32)
    return nearest(samples, reference, count=count)


def _pairs(samples: Pixels, examples: Examples, found: npt.NDArray[np.int64]) -> Pixels:
    """uint8 (rows, 1 + neighbours, S, S, 3) of samples (rows, S, S, 3) and the training images at ``found``."""
    if not len(samples):
        return np.empty((0, 1 + found.shape[1], *samples.shape[1:]), np.uint8)
    wanted, places = np.unique(found, return_inverse=True)
    pixels, _ = examples.read(wanted)
    return np.concatenate([samples[:, None], pixels[places.reshape(found.shape)]], axis=1)
