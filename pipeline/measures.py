"""What is measured of every image, real or generated: in the same way, block by block. No sampling, no scores.

Images are rounded to 8 bits at their own size first, as a file would hold them. Each extractor gives features (and
class logits, and spatial features, where its net has them); the judge, a classifier trained on real images with
another seed than the one that may give features, gives its five likeliest classes, so that accuracy and FID are not
selected on each other. An extractor enlarges small images itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pipeline.classifier import WEIGHTS_FILE, Classifier, load_classifier, ranked
from pipeline.parts import device_of
from pipeline.scorer_specs import DinoScorer, InceptionScorer
from pipeline.scoring.examination import colour_means, power_bands
from pipeline.scoring.extractors import Extractor, Mark, build_extractor, extractor_mark
from pipeline.scoring.weights import digest_of, resolve_scorer_weights
from stages.images import to_float

Pixels = npt.NDArray[np.uint8]
Rows = dict[str, npt.NDArray[Any]]

TOP = 5  # classes of the judge that are kept


class Measures:
    """Measures blocks of images with ``extractors`` by name, and with ``judge`` where there is one."""

    def __init__(self, extractors: Mapping[str, Extractor], judge: Classifier | None) -> None:
        self.extractors, self.judge = extractors, judge

    def of(self, pixels: Pixels) -> Rows:
        """Arrays of B rows of uint8 (B, S, S, 3): features-, logits- and spatial-<name>, top, colour, power."""
        rows: Rows = {}
        for name, extract in self.extractors.items():
            seen = extract(pixels)
            found = {"features": seen.features, "logits": seen.logits, "spatial": seen.spatial}
            rows |= {f"{kind}-{name}": values for kind, values in found.items() if values is not None}
        if self.judge is not None:
            rows["top"] = ranked(self.judge, pixels, TOP)
        images = to_float(torch.from_numpy(np.array(pixels)))
        return rows | {"colour": _floats(colour_means(images)), "power": _floats(power_bands(images))}


def _floats(values: Tensor | npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    return np.asarray(values, dtype=np.float32)


def measures_of(config: Mapping[str, Any], inputs: Mapping[str, str | Path], context: Mapping[str, Any]) -> Measures:
    """The measures that a node asks for: its ``scorers``, and the judge where it has one; loaded once per process."""
    weights = {}
    for scorer in config["scorers"]:
        kind = scorer["kind"]
        of_net = inputs["feature_classifier"] if kind == "classifier" else _weights_here(**context["weights"][kind])
        weights[kind] = str(of_net)
    scorers = tuple((tuple(sorted(scorer.items())), weights[scorer["kind"]]) for scorer in config["scorers"])
    return _loaded(scorers, str(inputs["judge"]) if "judge" in inputs else None, device_of(context))


def _weights_here(path: str, scorer: Mapping[str, Any]) -> Path:
    """The file at ``path``, of the ``scorer`` of these settings; fetched here too where it came from a URL."""
    if not Path(path).is_file() and "://" in scorer["weights"]:
        spec = InceptionScorer if scorer["kind"] == "inception" else DinoScorer
        return resolve_scorer_weights(spec.model_validate(scorer), Path(path).parent).path
    return Path(path)


@lru_cache(maxsize=2)
def _loaded(scorers: Sequence[tuple[Any, str]], judge: str | None, device: str) -> Measures:
    """A result never changes under its path, so neither does what is loaded from it."""
    extractors = {
        dict(scorer)["kind"]: build_extractor(dict(scorer), weights=Path(path), device=device)
        for scorer, path in scorers
    }
    return Measures(extractors, None if judge is None else load_classifier(Path(judge), device))


def marks_of(config: Mapping[str, Any], inputs: Mapping[str, Path]) -> dict[str, Mark]:
    """What a passport says of each scorer's net, by its kind."""
    found = {}
    for scorer in config["scorers"]:
        kind = scorer["kind"]
        weights = inputs["feature_classifier"] / WEIGHTS_FILE if kind == "classifier" else None
        sha256 = scorer["sha256"] if weights is None else digest_of(weights)
        found[kind] = extractor_mark(scorer, sha256)
    return found


def kept_rows(scorers: Sequence[Mapping[str, Any]], kept: int) -> dict[str, int]:
    """How many rows of the arrays of ``scorers`` are worth keeping: those of ``kept`` images, of spatial features none,
    which are of use in their statistics alone.
    """
    found: dict[str, int] = {}
    for scorer in scorers:
        name = scorer["kind"]
        found |= {f"features-{name}": kept, f"logits-{name}": kept, f"spatial-{name}": 0}
    return found


def reduced_arrays(scorers: Sequence[Mapping[str, Any]]) -> frozenset[str]:
    """The arrays of ``scorers`` whose statistics are scores' stuff."""
    return frozenset(f"{kind}-{scorer['kind']}" for scorer in scorers for kind in ("features", "spatial"))
