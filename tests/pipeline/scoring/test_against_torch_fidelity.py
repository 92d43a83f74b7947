"""All scores at once against `torch_fidelity.calculate_metrics`, from images, with a registered extractor.

The library extracts in its own batches; ours sees the images in blocks and merges statistics.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
import torch_fidelity
from torch import Tensor
from torch.utils.data import Dataset
from torch_fidelity.feature_extractor_base import FeatureExtractorBase
from torch_fidelity.registry import FEATURE_EXTRACTORS_REGISTRY, register_feature_extractor

from pipeline.scoring.frechet import frechet_distance
from pipeline.scoring.inception_score import inception_score
from pipeline.scoring.kernel_distance import kernel_distance
from pipeline.scoring.manifold import precision_recall
from pipeline.scoring.statistics import block_stats, merge_stats

NAME = "rayfall-test-projection"


def seen_in(images: Tensor) -> Tensor:
    """uint8 (N, 3, 8, 8) -> float64 features (N, 16), each from its own image alone: the same bits in any batch."""
    weights = torch.from_numpy(np.random.default_rng(0).normal(size=(16, 192)) / 100)
    return torch.relu((images.double().flatten(1)[:, None] * weights).sum(dim=2))


class Projection(FeatureExtractorBase):
    """Also gives its features as "logits", which the Inception score is made of."""

    def __init__(self, name: str, features_list: list[str], **_: Any) -> None:
        super().__init__(name, features_list)

    @staticmethod
    def get_provided_features_list() -> tuple[str, ...]:
        return ("features", "logits")

    @staticmethod
    def get_default_feature_layer_for_metric(metric: str) -> str:
        return "logits" if metric == "isc" else "features"

    @staticmethod
    def can_be_compiled() -> bool:
        return False

    @staticmethod
    def get_dummy_input_for_compile() -> Tensor:
        return torch.zeros(1, 3, 8, 8, dtype=torch.uint8)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        return tuple(seen_in(images) for _ in self.features_list)


@pytest.fixture
def projection() -> Iterator[str]:
    register_feature_extractor(NAME, Projection)
    yield NAME
    del FEATURE_EXTRACTORS_REGISTRY[NAME]


class Images(Dataset[Tensor]):
    """uint8 images (N, 3, h, w), one by one."""

    def __init__(self, images: Tensor) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Tensor:
        return self.images[index]


def test_the_family_equals_the_library(projection: str) -> None:
    generator = np.random.default_rng(1)
    fake, real = (
        torch.from_numpy(generator.integers(low, 256, size=(count, 3, 8, 8), dtype=np.uint8))
        for low, count in ((15, 300), (0, 400))
    )
    library = torch_fidelity.calculate_metrics(
        input1=Images(fake),
        input2=Images(real),
        fid=True,
        kid=True,
        isc=True,
        prc=True,
        kid_subsets=20,
        kid_subset_size=150,
        feature_extractor=projection,
        cuda=False,
        cache=False,
        save_cpu_ram=True,
        verbose=False,
        batch_size=64,
    )
    ours, theirs = (torch.cat([seen_in(part) for part in side.split(37)]).numpy() for side in (fake, real))
    stats = [merge_stats(block_stats(side, 64)) for side in (ours, theirs)]
    traces = sum(np.trace(side.covariance) for side in stats)
    fid = library["frechet_inception_distance"]
    assert fid > 0.1
    assert abs(frechet_distance(*stats) - fid) <= 1e-6 * fid + 1e-8 * traces
    kid = kernel_distance(ours, theirs, subsets=20, subset_size=150)
    assert math.isclose(kid.mean, library["kernel_inception_distance_mean"], rel_tol=1e-9)
    assert math.isclose(kid.std, library["kernel_inception_distance_std"], rel_tol=1e-9)
    score = inception_score(ours)
    assert math.isclose(score.mean, library["inception_score_mean"], rel_tol=1e-12)
    assert math.isclose(score.std, library["inception_score_std"], rel_tol=1e-9)
    shares = np.float32(precision_recall(ours, theirs))  # the library rounds to float32
    assert shares.tolist() == [library["precision"], library["recall"]]
    assert 0 < shares.min() < shares.max() < 1
