"""``python -m pipeline.benchmark resizing``: how far FID moves by the filter that made the images small. No model.

Held-out images of a data set are scored against its training images, both at the stored size and at half of it. There
the reference is made as data sets are read (box means), and the held-out images by one filter after the other: what a
score owes to the filter alone. Features are those of a classifier that is trained here on the data set, at both sizes;
or those of Inception-v3, if its weights are named. One seed; errors are the jackknife's.
"""

from __future__ import annotations

import argparse
import io
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from PIL import Image
from rich.console import Console
from rich.table import Table

from pipeline.classifier import WEIGHTS_FILE, predict, save_classifier, train_classifier
from pipeline.classifier_spec import ClassifierSpec
from pipeline.data.encoding import box_means
from pipeline.data.loading import Examples
from pipeline.scoring.extractors import Extractor, build_extractor
from pipeline.scoring.family import Measured, ReferenceMeasured, scores_of
from pipeline.scoring.statistics import stats_of
from stages.images import to_float, to_uint8

Pixels = npt.NDArray[np.uint8]
BLOCK = 250
PILLOW = {
    "bicubic": Image.Resampling.BICUBIC,
    "bilinear": Image.Resampling.BILINEAR,
    "Lanczos": Image.Resampling.LANCZOS,
    "nearest": Image.Resampling.NEAREST,
}


def add_resize_options(parser: argparse.ArgumentParser) -> None:
    """What the command line may say about this part."""
    parser.add_argument("--data", required=True, help="a data set that rayfall ingest made, with a held-out split")
    parser.add_argument("--steps", type=int, default=2000, help="of the classifier whose features are used")
    parser.add_argument("--inception", type=Path, help="weights file of Inception-v3, instead of the classifier")
    parser.add_argument("--images", type=int, default=10_000, help="held-out images, at most")
    parser.add_argument("--reference", type=int, default=50_000, help="training images, at most")


def measure_resizing(chosen: argparse.Namespace) -> dict[str, Any]:
    """All figures, printed as they come: {"accuracy": ..., "rows": {size: {filter: scores}}}."""
    console = Console(width=140)
    train, held_out = (Examples(chosen.data, split) for split in ("train", "val"))
    size = train.image_size
    sizes = [size // 2, size]
    lossy = ", stored with loss at the source" if train.manifest.source.lossy else ""
    console.print(f"{train.manifest.source.name}, {size} px{lossy}; {_classes(train)}")
    with tempfile.TemporaryDirectory() as folder:
        extract, accuracy = _extractor(chosen, train, held_out, sizes, Path(folder))
    rows = {
        str(size): _scores(extract, chosen, size, {"as stored": lambda pixels: pixels, **recoded()}),
        str(size // 2): _scores(extract, chosen, size // 2, filters(size // 2)),
    }
    _print(console, rows, extract)
    return {"accuracy": accuracy, "rows": rows}


def _classes(train: Examples) -> str:
    return f"{len(train):,} training images of {len(train.classes)} classes, reduced by {train.manifest.resize}"


def _extractor(
    chosen: argparse.Namespace, train: Examples, held_out: Examples, sizes: list[int], folder: Path
) -> tuple[Extractor, float | None]:
    """The net whose features are compared, and its accuracy on held-out images if it is the classifier."""
    if chosen.inception is not None:
        return build_extractor({"kind": "inception"}, weights=chosen.inception), None
    spec = ClassifierSpec(channels=(64, 128, 128), blocks=2, steps=chosen.steps, flip=True, shift=2)
    net = train_classifier(spec, train, sizes, seed=0)
    save_classifier(net, folder)
    assert (folder / WEIGHTS_FILE).exists()
    pixels, labels = held_out.read(np.arange(min(len(held_out), chosen.images)))
    seen = np.concatenate([predict(net, part) for part in _blocks(pixels)])
    return build_extractor({"kind": "classifier"}, weights=folder), float((seen == labels).mean())


def filters(size: int) -> dict[str, Callable[[Pixels], Pixels]]:
    """Ways to make images smaller, to ``size`` px: uint8 (N, s, s, 3) -> (N, size, size, 3).

    Pillow's filters widen with the reduction; the interpolation of torch without antialias looks at the four nearest
    pixels only, whatever it skips.
    """

    def by_pillow(resampling: Image.Resampling) -> Callable[[Pixels], Pixels]:
        return lambda pixels: _each(pixels, lambda image: image.resize((size, size), resampling))

    def aliased(pixels: Pixels) -> Pixels:
        images = to_float(torch.from_numpy(pixels))
        small = F.interpolate(images, size=(size, size), mode="bicubic", align_corners=False, antialias=False)
        return to_uint8(small).numpy()

    found: dict[str, Callable[[Pixels], Pixels]] = {
        "box means (as the reference)": lambda pixels: _each(
            pixels, lambda image: box_means(image, image.width // size)
        )
    }
    found |= {f"{name} (Pillow)": by_pillow(resampling) for name, resampling in PILLOW.items()}
    return found | {"bicubic without antialias (torch)": aliased}


def recoded() -> dict[str, Callable[[Pixels], Pixels]]:
    """The images once more through JPEG, at full colour resolution, by its quality."""

    def through_jpeg(image: Image.Image, quality: int) -> Image.Image:
        stored = io.BytesIO()
        image.save(stored, "JPEG", quality=quality, subsampling=0)
        return Image.open(stored)

    def at(quality: int) -> Callable[[Pixels], Pixels]:
        return lambda pixels: _each(pixels, lambda image: through_jpeg(image, quality))

    return {f"JPEG again, quality {quality}": at(quality) for quality in (95, 75)}


def _each(pixels: Pixels, change: Callable[[Image.Image], Image.Image]) -> Pixels:
    return np.stack([np.asarray(change(Image.fromarray(one))) for one in pixels])


def _blocks(values: Pixels) -> Iterator[Pixels]:
    return (values[start : start + BLOCK] for start in range(0, len(values), BLOCK))


def _scores(
    extract: Extractor, chosen: argparse.Namespace, size: int, ways: dict[str, Callable[[Pixels], Pixels]]
) -> dict[str, Any]:
    """Scores of held-out images at ``size`` px, by the way they got there, against the training images at that size."""
    train = Examples(chosen.data, "train", size=size, keep_bytes=0)
    count = min(len(train), chosen.reference)
    of_train = np.concatenate(
        [
            extract(train.read(np.arange(start, min(start + BLOCK, count)))[0]).features
            for start in range(0, count, BLOCK)
        ]
    )
    reference = ReferenceMeasured(stats_of(of_train), count, of_train)
    held_out = Examples(chosen.data, "val")
    pixels, _ = held_out.read(np.arange(min(len(held_out), chosen.images)))
    found = {}
    for name, change in ways.items():
        features = np.concatenate([extract(change(part)).features for part in _blocks(pixels)])
        found[name] = scores_of(Measured(features, stats_of(features)), reference)
    return found


def _print(console: Console, rows: dict[str, dict[str, Any]], extract: Extractor) -> None:
    table = Table(title=f"held-out against training images, {extract.name} {extract.sha256[:12]}")
    for header in ("px", "held-out images", "n", "FID", "FID-infinity", "KID x 1000", "precision", "recall"):
        table.add_column(header, justify="left" if header == "held-out images" else "right")
    for size, ways in rows.items():
        for name, scores in ways.items():
            limit = scores["fid_infinity"]
            table.add_row(
                size,
                name,
                f"{scores['samples']:,}",
                _estimate(scores["fid"], scores["fid_error"]),
                "-" if limit is None else _estimate(limit, scores["fid_infinity_error"]),
                f"{1000 * scores['kid']:.2f}",
                f"{scores['precision']:.3f}",
                f"{scores['recall']:.3f}",
            )
    console.print(table)


def _estimate(value: float | None, error: float | None) -> str:
    return "-" if value is None else f"{value:.3f}" + (f" ± {error:.3f}" if error is not None else "")
