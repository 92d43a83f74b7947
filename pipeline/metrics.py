"""Scores of generated images from features and predictions: FID, precision, recall, accuracy. No sampling.

FID (Heusel et al. 2017) compares two Gaussians fitted to features. The statistics of parts merge exactly
(Chan et al. 1979), so features can be extracted in blocks on many workers: merge the blocks in index order
and the score does not depend on who computed them. torch-fidelity computes precision and recall
(Kynkaanniemi et al. 2019) and holds the feature extractors: Inception-v3, and the data set's own classifier,
which is registered here.

Features of images below the data set's size are comparable only with real images that went the same way, and
scores with classifier features only within one classifier.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch_fidelity.feature_extractor_base import FeatureExtractorBase
from torch_fidelity.metric_prc import prc_features_to_metric
from torch_fidelity.registry import FEATURE_EXTRACTORS_REGISTRY, register_feature_extractor
from torch_fidelity.utils import create_feature_extractor

from pipeline.classifier import Device, load_classifier
from pipeline.errors import UserError

Doubles = npt.NDArray[np.float64]

CLASSIFIER_EXTRACTOR = "rayfall-classifier"
INCEPTION_EXTRACTOR = "inception-v3-compat"
INCEPTION_FILE = "weights-inception-2015-12-05-6726825d.pth"


@dataclass(frozen=True)
class FeatureStats:
    """Mean and scatter of features, mergeable; `scatter` is the sum of (f - mean)(f - mean)^T over all."""

    count: int
    mean: Doubles  # (D,)
    scatter: Doubles  # (D, D)

    @classmethod
    def from_features(cls, features: npt.ArrayLike) -> FeatureStats:
        """Statistics of features (N, D), computed in float64; N >= 1."""
        values = np.asarray(features, dtype=np.float64)
        assert values.ndim == 2, f"features are (N, D) with N >= 1, not {values.shape}"
        mean = values.mean(axis=0)
        centred = values - mean
        return cls(len(values), mean, centred.T @ centred)

    @property
    def covariance(self) -> Doubles:
        """Unbiased covariance (D, D); needs two features."""
        assert self.count >= 2, "a covariance needs at least two images"
        return self.scatter / (self.count - 1)

    def merged(self, other: FeatureStats) -> FeatureStats:
        """Statistics of both sets together, as if computed at once (to rounding)."""
        count = self.count + other.count
        apart = other.mean - self.mean
        mean = self.mean + apart * (other.count / count)
        scatter = self.scatter + other.scatter + np.outer(apart, apart) * (self.count * other.count / count)
        return FeatureStats(count, mean, scatter)

    def arrays(self) -> dict[str, Any]:
        """The statistics as named arrays, for `numpy.savez`; `from_arrays` reads them back."""
        return {"count": np.array(self.count, dtype=np.int64), "mean": self.mean, "scatter": self.scatter}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, npt.NDArray[Any]]) -> FeatureStats:
        return cls(int(arrays["count"]), np.asarray(arrays["mean"]), np.asarray(arrays["scatter"]))


def merge_stats(parts: Iterable[FeatureStats]) -> FeatureStats:
    """All parts together, merged from left to right: give them in index order and the bits repeat."""
    return reduce(FeatureStats.merged, parts)


def fid(a: FeatureStats, b: FeatureStats) -> float:
    """Frechet distance of the two Gaussians, |m_a - m_b|^2 + tr(A + B - 2 (A^1/2 B A^1/2)^1/2); >= 0.

    The product is the symmetric one, whose eigenvalues are real and non-negative; in exact arithmetic the
    trace of its root equals that of (A B)^1/2, which torch-fidelity takes.
    """
    root = _root(a.covariance)
    spectrum = np.linalg.eigvalsh(root @ b.covariance @ root)
    apart = a.mean - b.mean
    trace = np.trace(a.covariance) + np.trace(b.covariance) - 2 * np.sqrt(spectrum.clip(min=0)).sum()
    return max(float(apart @ apart + trace), 0.0)


def _root(covariance: Doubles) -> Doubles:
    values, vectors = np.linalg.eigh(covariance)
    root: Doubles = (vectors * np.sqrt(values.clip(min=0))) @ vectors.T
    return root


class PrecisionRecall(NamedTuple):
    """Share of the generated images among the real ones, and of the real among the generated, in [0, 1]."""

    precision: float
    recall: float


def precision_recall(fake: npt.ArrayLike, real: npt.ArrayLike, *, neighbours: int = 3) -> PrecisionRecall:
    """Improved precision and recall of features (N, D) and (M, D), by torch-fidelity, in float64.

    A feature is "among" a set when it is within the distance of some member to its `neighbours`-th nearest
    fellow. Both grow with the size of the set they are judged by, so compare only equal counts.
    """
    generated, reference = (torch.from_numpy(np.array(side, dtype=np.float64)) for side in (fake, real))
    if min(len(generated), len(reference)) <= neighbours:
        raise UserError(
            f"precision and recall with {neighbours} neighbours need {neighbours + 1} or more images of each "
            f"kind, not {len(generated)} generated and {len(reference)} real ones"
        )
    found = prc_features_to_metric(generated, reference, prc_neighborhood=neighbours, verbose=False)
    return PrecisionRecall(found["precision"], found["recall"])


class Accuracy(NamedTuple):
    """Top-1 accuracy, of all images and of each class (NaN where a class has no image), in [0, 1]."""

    overall: float
    per_class: tuple[float, ...]


def accuracy(predicted: npt.ArrayLike, labels: npt.ArrayLike, classes: int) -> Accuracy:
    """Share of `predicted` classes (N,) that equal `labels` (N,), integers in [0, classes)."""
    truth = np.asarray(labels, dtype=np.int64)
    right = np.asarray(predicted, dtype=np.int64) == truth
    assert truth.ndim == 1
    assert right.shape == truth.shape
    assert len(truth) > 0
    counts = np.bincount(truth, minlength=classes)
    hits = np.bincount(truth[right], minlength=classes)
    shares = tuple(float(h / n) if n else float("nan") for h, n in zip(hits, counts, strict=True))
    return Accuracy(float(right.mean()), shares)


class ClassifierExtractor(FeatureExtractorBase):
    """A folder of `pipeline.classifier.save_classifier` as a torch-fidelity extractor: uint8 -> "features".

    Features leave in float64: the library would otherwise take their mean in float32.
    """

    def __init__(
        self, name: str, features_list: list[str], feature_extractor_weights_path: str | None = None, **_: Any
    ) -> None:
        super().__init__(name, features_list)
        if feature_extractor_weights_path is None:
            raise UserError(f"the {name} feature extractor needs the folder of a trained classifier as weights path")
        self.classifier = load_classifier(Path(feature_extractor_weights_path))

    @staticmethod
    def get_provided_features_list() -> tuple[str, ...]:
        return ("features",)

    @staticmethod
    def get_default_feature_layer_for_metric(metric: str) -> str:
        return "features"

    @staticmethod
    def can_be_compiled() -> bool:
        return False

    @staticmethod
    def get_dummy_input_for_compile() -> Tensor:
        return torch.zeros(1, 3, 8, 8, dtype=torch.uint8)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        return (self.classifier.features(images.float() / 127.5 - 1.0).double(),)


Extractor = Callable[[npt.NDArray[np.uint8]], Doubles]


def register_extractors() -> None:
    """Makes `CLASSIFIER_EXTRACTOR` known to torch-fidelity in this process; again is harmless."""
    if CLASSIFIER_EXTRACTOR not in FEATURE_EXTRACTORS_REGISTRY:
        register_feature_extractor(CLASSIFIER_EXTRACTOR, ClassifierExtractor)


def classifier_extractor(folder: Path, device: Device = "cpu") -> Extractor:
    """uint8 images (N, h, w, 3) -> features (N, D) of the classifier in `folder`. UserError without one."""
    register_extractors()
    return _extractor(CLASSIFIER_EXTRACTOR, "features", folder, device)


def inception_extractor(weights: Path, device: Device = "cpu") -> Extractor:
    """uint8 images (N, h, w, 3) -> features (N, 2048) of Inception-v3 with the weights of a file.

    The file is torch-fidelity's, a state dict. It is first read without executing what a pickle may hold,
    since the library reads it trustingly. Raises UserError when it is absent or another kind of file; nothing
    is ever downloaded.
    """
    if not weights.is_file():
        raise UserError(
            f"there is no Inception-v3 weights file at {weights}; get {INCEPTION_FILE} from the releases of "
            "torch-fidelity and name it in the experiment, since nothing is downloaded here"
        )
    try:
        fitting = "Mixed_7c.branch1x1.conv.weight" in torch.load(weights, map_location="cpu", weights_only=True)
    except Exception:  # a foreign file fails in as many ways as there are formats
        fitting = False
    if not fitting:
        raise UserError(f"{weights} does not hold the Inception-v3 weights of torch-fidelity ({INCEPTION_FILE})")
    return _extractor(INCEPTION_EXTRACTOR, "2048", weights, device)


def _extractor(name: str, layer: str, weights: Path, device: Device) -> Extractor:
    net = create_feature_extractor(
        name, [layer], cuda=False, feature_extractor_weights_path=str(weights), verbose=False
    ).to(device)

    def extract(images: npt.NDArray[np.uint8]) -> Doubles:
        with torch.inference_mode():
            pixels = torch.from_numpy(np.array(images)).permute(0, 3, 1, 2).to(device)
            features: Doubles = net(pixels)[0].double().cpu().numpy()
        return features

    return extract
