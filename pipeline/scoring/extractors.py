"""Feature extractors by name: 8-bit images in, what scores are computed from out. No score here, and no download.

All kinds take images at their own size and resize them as their net wants it, so that nobody else may have to: the
classifier enlarges (bilinear) to the size it was trained at, Inception-v3 and DINOv2 resize as torch-fidelity does.
Whether the latter is what the paper that proposed such distances did (Stein et al. 2023) was not checked: take them as
comparable with torch-fidelity's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypedDict

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pipeline.classifier import WEIGHTS_FILE, Device, load_classifier
from pipeline.errors import UserError
from pipeline.scorer_specs import DINO_DIMENSIONS, INCEPTION_DIMENSION
from pipeline.scoring.weights import INCEPTION_FILE, checked_file, read_state
from stages.images import to_float

Floats = npt.NDArray[np.float32]
LAYERS = {"classifier": "features", "inception": "2048", "dinov2": "dinov2"}  # of the scorers, by kind
_ON_CPU = 16  # images that a large net sees at once: more are no faster there, and 64 take a gigabyte


class Seen(NamedTuple):
    """What an extractor sees in N images, float32: features (N, D); logits (N, C) of those that classify; the
    features of sFID (N, 2023) where the net is Inception-v3."""

    features: Floats
    logits: Floats | None
    spatial: Floats | None


class Mark(TypedDict):
    """What a passport says of a net: the fields of `pipeline.scoring.passport.ExtractorMark`."""

    name: str
    layer: str
    sha256: str


def extractor_mark(config: Mapping[str, Any], sha256: str) -> Mark:
    """The mark of the extractor that ``config`` asks for, with weights of ``sha256``; a member of a family has its own
    name (dinov2-vit-l-14)."""
    return {"name": config.get("model", config["kind"]), "layer": LAYERS[config["kind"]], "sha256": sha256}


class Extractor(Protocol):
    """A net that gives features: those of ``layer``, ``dimension`` of them. ``sha256`` is that of its weights file."""

    @property
    def name(self) -> str: ...
    @property
    def layer(self) -> str: ...
    @property
    def sha256(self) -> str: ...
    @property
    def dimension(self) -> int: ...

    def __call__(self, images: npt.NDArray[np.uint8], /) -> Seen:
        """uint8 (N, h, w, 3) -> what is seen; the last bits depend on N, so give canonical blocks."""
        ...


Net = Callable[[Tensor], tuple[Tensor, Tensor | None, Tensor | None]]


@dataclass(frozen=True)
class _Extractor:
    name: str
    layer: str
    sha256: str
    dimension: int
    net: Net  # uint8 (N, h, w, 3) on the device -> the parts of Seen
    device: torch.device
    at_once: int | None  # images the net sees at once; None: all

    @torch.inference_mode()
    def __call__(self, images: npt.NDArray[np.uint8], /) -> Seen:
        assert images.dtype == np.uint8
        assert images.ndim == 4
        assert images.shape[-1] == 3
        pixels = torch.from_numpy(np.array(images)).to(self.device)
        parts = [self.net(some) for some in pixels.split(self.at_once or len(pixels))]
        features, logits, spatial = zip(*parts, strict=True)
        return Seen(_joined(features), *(None if part[0] is None else _joined(part) for part in (logits, spatial)))


def _joined(parts: Sequence[Tensor]) -> Floats:
    joined: Floats = torch.cat(tuple(parts)).float().cpu().numpy()
    return joined


def build_extractor(config: Mapping[str, Any], *, weights: Path, device: Device = "cpu") -> Extractor:
    """The extractor of ``config``: {"kind": "classifier" | "inception" | "dinov2", and for the last "model"}.

    ``weights`` is the folder of a classifier or the weights file of the others. Where ``config`` holds a "sha256" the
    weights must have it. Raises UserError when the weights are absent, of another net, or not the expected ones.
    """
    build = {"classifier": _classifier, "inception": _inception, "dinov2": _dino}[config["kind"]]
    return build(config, weights, torch.device(device))


def _classifier(config: Mapping[str, Any], folder: Path, device: torch.device) -> Extractor:
    classifier = load_classifier(folder, device)
    digest = checked_file(folder / WEIGHTS_FILE, config.get("sha256")).sha256

    def net(pixels: Tensor) -> tuple[Tensor, Tensor, None]:
        if max(pixels.shape[1:3]) > classifier.size:
            raise UserError(
                f"images of {pixels.shape[2]} x {pixels.shape[1]} px cannot be judged by a classifier of "
                f"{classifier.size} px images; shrink them, or score them with kind: inception"
            )
        features = classifier.features(to_float(pixels))
        return features, classifier.logits(features), None

    mark, dimension = extractor_mark(config, digest), classifier.head.in_features
    return _Extractor(**mark, dimension=dimension, net=net, device=device, at_once=None)


def _inception(config: Mapping[str, Any], weights: Path, device: torch.device) -> Extractor:
    from pipeline.scoring.inception import InceptionV3
    from pipeline.scoring.inception_blocks import state_shapes

    file = checked_file(weights, config.get("sha256"))
    inception = InceptionV3(read_state(file.path, state_shapes(), INCEPTION_FILE)).to(device)

    def net(pixels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return tuple(inception(pixels.permute(0, 3, 1, 2)))

    at_once = _ON_CPU if device.type == "cpu" else None
    mark = extractor_mark(config, file.sha256)
    return _Extractor(**mark, dimension=INCEPTION_DIMENSION, net=net, device=device, at_once=at_once)


def _dino(config: Mapping[str, Any], weights: Path, device: torch.device) -> Extractor:
    from pipeline.scoring.registered import DinoExtractor

    file = checked_file(weights, config.get("sha256"))
    dino = DinoExtractor(config["model"], file.path).to(device)

    def net(pixels: Tensor) -> tuple[Tensor, None, None]:
        return dino(pixels.permute(0, 3, 1, 2))[0], None, None

    at_once = _ON_CPU if device.type == "cpu" else None
    mark = extractor_mark(config, file.sha256)
    return _Extractor(**mark, dimension=DINO_DIMENSIONS[config["model"]], net=net, device=device, at_once=at_once)
