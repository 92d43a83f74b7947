"""Whose features the scores are of, as the YAML says it. No torch, no weights: reading an experiment is instant.

Each kind of scorer is one feature extractor of ``pipeline.scoring.extractors``. The features of different scorers have
no common scale, nor have those of one scorer with different weights.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from stages.specs import Spec

DinoModel = Literal["dinov2-vit-s-14", "dinov2-vit-b-14", "dinov2-vit-l-14", "dinov2-vit-g-14"]
INCEPTION_DIMENSION = 2048
DINO_DIMENSIONS: dict[DinoModel, int] = {
    "dinov2-vit-s-14": 384,
    "dinov2-vit-b-14": 768,
    "dinov2-vit-l-14": 1024,
    "dinov2-vit-g-14": 1536,
}


def _digest(value: str) -> str:
    if not re.fullmatch("[0-9a-f]{64}", value):
        raise ValueError("a sha256 has 64 digits out of 0 to 9 and a to f, as sha256sum prints it")
    return value


def _for_all_workers(location: str) -> str:
    """A path made absolute when the experiment is read: workers stand in other folders than who started them."""
    return location if "://" in location else str(Path(location).expanduser().absolute())


Weights = Annotated[
    str,
    Field(min_length=1, description="Path of the weights file, or a URL to fetch it from."),
    AfterValidator(_for_all_workers),
]
Sha256 = Annotated[str, AfterValidator(_digest)]


class ClassifierScorer(Spec):
    """A classifier trained on the data set itself: needs no download, and its scale means nothing elsewhere."""

    kind: Literal["classifier"] = "classifier"

    @property
    def name(self) -> Literal["classifier"]:
        """What its files and scores are called."""
        return self.kind

    @property
    def dimension(self) -> int | None:
        """Not known before it is trained: the sum of its levels' widths."""
        return None


class InceptionScorer(Spec):
    """Inception-v3, what FID, KID, sFID and the Inception score are defined by; weights in torch-fidelity's format."""

    kind: Literal["inception"]
    weights: Weights
    sha256: Sha256 | None = Field(None, description="What the weights file must have; None: whatever it has.")

    @property
    def name(self) -> Literal["inception"]:
        """What its files and scores are called."""
        return self.kind

    @property
    def dimension(self) -> int:
        """Number of features."""
        return INCEPTION_DIMENSION


class DinoScorer(Spec):
    """DINOv2, whose Frechet distance agrees better with people than FID (Stein et al. 2023, arXiv:2306.04675)."""

    kind: Literal["dinov2"]
    model: DinoModel = "dinov2-vit-l-14"
    weights: Weights
    sha256: Sha256 | None = Field(None, description="What the weights file must have; None: whatever it has.")

    @property
    def name(self) -> Literal["dinov2"]:
        """What its files and scores are called."""
        return self.kind

    @property
    def dimension(self) -> int:
        """Number of features."""
        return DINO_DIMENSIONS[self.model]


Scorer = Annotated[ClassifierScorer | InceptionScorer | DinoScorer, Field(discriminator="kind")]
