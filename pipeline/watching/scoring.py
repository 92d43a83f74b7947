"""One point of a curve: images drawn from weights of a moment, and how they compare with real ones. No Ray here.

FID and KID are in the features of a classifier trained on the data set, whatever the scorer of the experiment is:
those of a large net would take longer than the steps between two points. Another one, the judge, gives the accuracy.
As many images as a moment's look takes, with the noise that the final scores are drawn with: the curve of a stage
shows it getting better, and its last point is no substitute for the final score.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from pipeline.classifier import Classifier, load_classifier, predict
from pipeline.data.datasets import open_examples
from pipeline.results import Place, folder_of
from pipeline.sampling import labels_of
from pipeline.scoring.frechet import Reference
from pipeline.scoring.kernel_distance import kernel_distance
from pipeline.scoring.statistics import stats_of
from pipeline.storage import Damaged
from stages.cascade import Cascade, TrainedStage, blocks_of
from stages.checkpoints import load_trained
from stages.images import to_float, to_uint8
from stages.specs import StageSamplingSpec

if TYPE_CHECKING:
    from pipeline.watching.task import PointJob

Pixels = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]

FEATURES = "classifier"
SUBSETS, SUBSET = 100, 1000  # of KID; smaller subsets where there are fewer images


class Real(NamedTuple):
    """Real images as the feature classifier sees them."""

    features: Floats  # (N, D)
    gaussian: Reference


def score_weights(job: PointJob) -> dict[str, Any] | None:
    """What a ``Point`` says: fid (None with no more samples than features), kid, accuracy, reference, seconds, and of
    what they are: features, labels.

    None where weights were deleted before they were loaded. Raises RuntimeError where the weights draw no images.
    """
    torch.set_num_threads(1)
    started = time.monotonic()
    device = "cuda" if job.gpu else "cpu"
    stages = loaded(job.weights, device)
    if stages is None:
        return None
    cascade = Cascade(stages, [StageSamplingSpec.model_validate(sampling) for sampling in job.sampling])
    features, data = folder_of(job.features), folder_of(job.data)
    net, judge = _classifier(features, device), _classifier(folder_of(job.judge), device)
    real = _real(data, stages[-1].stage.spec.size, job.reference, features, device)
    found, right = [], 0
    for pixels, labels in drawn(cascade, job):
        found.append(features_of(net, pixels))
        right += int((predict(judge, pixels) == labels).sum())
    fake = np.concatenate(found)
    size = min(SUBSET, len(fake), len(real.features))
    enough = min(len(fake), len(real.features)) > fake.shape[1]
    return {
        "fid": real.gaussian.distance(stats_of(fake)) if enough else None,
        "kid": kernel_distance(fake, real.features, subsets=SUBSETS, subset_size=size).mean,
        "accuracy": right / len(fake),
        "reference": len(real.features),
        "seconds": time.monotonic() - started,
        "features": FEATURES,
        "labels": job.labels,
    }


def loaded(places: tuple[Place, ...], device: str) -> list[TrainedStage] | None:
    """The stages at ``places``; None where one was deleted meanwhile, for training does not wait for us."""
    try:
        folders = [folder_of(place) for place in places]
    except Damaged:
        return None
    try:
        return [load_trained(folder, device=device) for folder in folders]
    except Exception:
        if all((folder / "ema.safetensors").is_file() for folder in folders):
            raise
        return None


def drawn(cascade: Cascade, job: PointJob) -> Iterator[tuple[Pixels, npt.NDArray[np.int64]]]:
    """Chained images of the last stage, with labels as the evaluation draws them: blocks of uint8 (B, S, S, 3) and the
    labels (B,). Raises RuntimeError where images are not finite."""
    device, classes = next(cascade.stages[-1].net.parameters()).device, cascade.stages[-1].stage.spec.classes
    for indices, asked in blocks_of(job.samples, job.block):
        labels = labels_of(job.labels, indices, classes, folder_of(job.data))
        rungs = cascade.sample_block(indices.to(device), labels.to(device), seed=job.seed, precision=job.precision)
        images = rungs[-1].images[:asked].cpu()
        if not images.isfinite().all():
            raise RuntimeError("images drawn from these weights are not finite")
        yield to_uint8(images).numpy(), labels[:asked].numpy()


@torch.inference_mode()
def features_of(net: Classifier, pixels: Pixels) -> Floats:
    """float32 (B, D) of uint8 (B, S, S, 3)."""
    images = to_float(torch.from_numpy(np.array(pixels))).to(net.head.weight.device)
    found: Floats = net.features(images).cpu().numpy()
    return found


@lru_cache(maxsize=2)
def _classifier(folder: Path, device: str) -> Classifier:
    return load_classifier(folder, device)


@lru_cache(maxsize=8)
def _real(data: Path, size: int, count: int, features: Path, device: str) -> Real:
    """The first ``count`` training images, or all; kept for the next point: a result does not change."""
    examples = open_examples(data, "train", size=size, keep_bytes=0)
    wanted, net = np.arange(min(count, len(examples))), _classifier(features, device)
    parts = [features_of(net, examples.read(wanted[start : start + 256])[0]) for start in range(0, len(wanted), 256)]
    found = np.concatenate(parts)
    return Real(found, Reference(stats_of(found)))
