"""Our extractors as torch-fidelity's: registered by name, so that ``torch_fidelity.calculate_metrics`` can run on them.

That is how its scores and ours can be compared on the same features. Features leave in float64: of float32 ones the
library takes the mean in float32.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch_fidelity.feature_extractor_base import FeatureExtractorBase
from torch_fidelity.feature_extractor_dinov2 import FeatureExtractorDinoV2
from torch_fidelity.registry import FEATURE_EXTRACTORS_REGISTRY, register_feature_extractor

from pipeline.classifier import load_classifier
from pipeline.errors import UserError
from pipeline.scoring.dinov2 import MODELS, DinoV2, load_dino
from pipeline.scoring.dinov2 import state_shapes as dino_shapes
from pipeline.scoring.inception import InceptionV3
from pipeline.scoring.inception_blocks import state_shapes as inception_shapes
from pipeline.scoring.weights import DINO_FILES, INCEPTION_FILE, read_state
from stages.images import to_float

CLASSIFIER_EXTRACTOR = "rayfall-classifier"
INCEPTION_EXTRACTOR = "rayfall-inception"


class _Registered(FeatureExtractorBase):
    """What the library asks of an extractor; ``layer_of``: the layer that each of its metrics reads."""

    layers: ClassVar[tuple[str, ...]]
    layer_of: ClassVar[dict[str, str]]

    def __init__(
        self, name: str, features_list: list[str], feature_extractor_weights_path: str | None = None, **_: Any
    ) -> None:
        super().__init__(name, features_list)
        if feature_extractor_weights_path is None:
            raise UserError(f"the {name} feature extractor needs its weights: give feature_extractor_weights_path")
        self.load(Path(feature_extractor_weights_path))

    def load(self, weights: Path) -> None:
        """Read the net from its weights; each of the classes below says how."""
        raise NotImplementedError

    @classmethod
    def get_provided_features_list(cls) -> tuple[str, ...]:
        return cls.layers

    @classmethod
    def get_default_feature_layer_for_metric(cls, metric: str) -> str:
        return cls.layer_of[metric]

    @staticmethod
    def can_be_compiled() -> bool:
        return False

    @staticmethod
    def get_dummy_input_for_compile() -> Tensor:
        return torch.zeros(1, 3, 8, 8, dtype=torch.uint8)


class ClassifierExtractor(_Registered):
    """A folder of ``pipeline.classifier.save_classifier``: uint8 (N, 3, h, w) -> "features", "logits"."""

    layers = ("features", "logits")
    layer_of: ClassVar = {"fid": "features", "kid": "features", "prc": "features", "isc": "logits"}

    def load(self, weights: Path) -> None:
        self.classifier = load_classifier(weights)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        features = self.classifier.features(to_float(images.permute(0, 2, 3, 1)))
        found = {"features": features, "logits": self.classifier.logits(features)}
        return tuple(found[layer].double() for layer in self.features_list)


class InceptionExtractor(_Registered):
    """The net of ``pipeline.scoring.inception``: uint8 (N, 3, h, w) -> "2048", "logits_unbiased", "spatial"."""

    layers = ("2048", "logits_unbiased", "spatial")
    layer_of: ClassVar = {"fid": "2048", "kid": "2048", "prc": "2048", "isc": "logits_unbiased"}

    def load(self, weights: Path) -> None:
        self.net = InceptionV3(read_state(weights, inception_shapes(), INCEPTION_FILE))

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        found = dict(zip(self.layers, self.net(images), strict=True))
        return tuple(found[layer].double() for layer in self.features_list)


class DinoExtractor(FeatureExtractorDinoV2):
    """torch-fidelity's own extractor, resize and normalisation its, around our net: ``name`` is one of ``MODELS``.

    Not registered: the library has the names, and would download the net by them.
    """

    def __init__(self, name: str, weights: Path) -> None:
        FeatureExtractorBase.__init__(self, name, ["dinov2"])
        assert name in MODELS
        self.feature_extractor_internal_dtype = torch.float32
        self.model: DinoV2 = load_dino(name, read_state(weights, dino_shapes(name), DINO_FILES[name]))


def register_extractors() -> None:
    """Makes both names known to torch-fidelity in this process; again is harmless."""
    for name, extractor in ((CLASSIFIER_EXTRACTOR, ClassifierExtractor), (INCEPTION_EXTRACTOR, InceptionExtractor)):
        if name not in FEATURE_EXTRACTORS_REGISTRY:
            register_feature_extractor(name, extractor)
