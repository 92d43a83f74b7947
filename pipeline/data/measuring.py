"""How fast examples come off shards, against stock ``webdataset`` on the same shards in the same run.

Every variant gives the same thing: uint8 tensors of one size in batches, shuffled, with labels, all in this process
on one thread. Variants alternate and their order rotates; a repetition reads the training split once; a ratio is the
median of the ratios of single repetitions. CPU time is what is compared: on a shared machine wall time is noise.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from pipeline.data.batches import StepBatches
from pipeline.data.forms import Reduction
from pipeline.data.loading import Examples
from pipeline.data.ordering import ExampleOrder
from pipeline.scoring.frechet import frechet_distance
from pipeline.scoring.statistics import FeatureStats
from stages.benchmarks.timing import Variant

BATCH = 64
_STOCK_BUFFER = 1000  # examples in stock webdataset's shuffle buffer
_PIECE = 1 << 20  # bytes per read where bytes alone are read
Pixels = npt.NDArray[np.uint8]


class Bench(NamedTuple):
    """Two data sets of the same images: one stored as JPEG alone, one that has a raw form of ``size`` px too."""

    jpeg: Path
    raw: Path
    size: int

    def examples(self, stored: Literal["jpeg", "raw"], reduction: Reduction = "box", **options: Any) -> Examples:
        """The training split at ``size`` px, nothing kept decoded."""
        address = self.jpeg if stored == "jpeg" else self.raw
        return Examples(address, "train", size=self.size, reduction=reduction, keep_bytes=0, **options)

    def shards(self, stored: Literal["jpeg", "raw"]) -> list[str]:
        """The training shards as stock webdataset is given them."""
        form = self.examples(stored).form.name
        address = self.jpeg if stored == "jpeg" else self.raw
        return sorted(map(str, (address / form).glob("train-*.tar")))


def variants_of(bench: Bench) -> list[Variant]:
    """Stock and own ways of reading the same images, and the limits of both."""
    jpeg, raw, size = bench.shards("jpeg"), bench.shards("raw"), bench.size
    return [
        Variant("stock jpeg", lambda: _count(stock_jpeg(jpeg, size, _bicubic))),
        Variant("stock jpeg, box", lambda: _count(stock_jpeg(jpeg, size, _box))),
        Variant("stock raw", lambda: _count(_stock_raw(raw))),
        Variant("jpeg dct", lambda: _count(_own(bench.examples("jpeg", "dct")))),
        Variant("jpeg dct, bare", lambda: _count(_own_bare(bench.examples("jpeg", "dct", checked=False)))),
        Variant("jpeg box", lambda: _count(_own(bench.examples("jpeg")))),
        Variant("jpeg box, bare", lambda: _count(_own_bare(bench.examples("jpeg", checked=False)))),
        Variant("raw", lambda: _count(_own(bench.examples("raw")))),
        Variant("raw, bare", lambda: _count(_own_bare(bench.examples("raw", checked=False)))),
        Variant("limit: jpeg bytes", lambda: _read_bytes(jpeg, len(bench.examples("jpeg")))),
        Variant("limit: raw bytes", lambda: _read_bytes(raw, len(bench.examples("raw")))),
        Variant("limit: memcpy", lambda: _copy_tensors(size)),
    ]


def stock_jpeg(shards: Sequence[str], size: int, shrink: Callable[[Image.Image, int], Image.Image]) -> Any:
    """Stock webdataset: shuffle, Pillow's decoder, one resize, tensors in batches."""
    import webdataset

    def tensor(image: Image.Image) -> torch.Tensor:
        return torch.from_numpy(np.array(shrink(image, size)))

    return (
        webdataset.WebDataset(list(shards), shardshuffle=len(shards), seed=0)
        .shuffle(_STOCK_BUFFER, seed=0)
        .decode("pil")
        .to_tuple("jpg", "cls")
        .map_tuple(tensor, int)
        .batched(BATCH)
    )


def _stock_raw(shards: Sequence[str]) -> Any:
    import webdataset

    return (
        webdataset.WebDataset(list(shards), shardshuffle=len(shards), seed=0)
        .shuffle(_STOCK_BUFFER, seed=0)
        .decode()
        .to_tuple("npy", "cls")
        .map_tuple(torch.from_numpy, int)
        .batched(BATCH)
    )


def _bicubic(image: Image.Image, size: int) -> Image.Image:
    return image.resize((size, size), Image.Resampling.BICUBIC)


def _box(image: Image.Image, size: int) -> Image.Image:
    return image.reduce(image.width // size)


def _own(examples: Examples) -> Iterator[tuple[Any, Any]]:
    """What training reads: exact order, every index and example checked."""
    order = ExampleOrder(examples.counts, seed=0, stage="benchmark")
    batches = StepBatches(examples, order, BATCH, np.arange(BATCH))
    return (batches.read(step) for step in range(len(examples) // BATCH))


def _own_bare(examples: Examples) -> Iterator[tuple[Any, Any]]:
    """The same reader, one example after the other: what order and checks cost."""
    for start in range(0, len(examples) // BATCH * BATCH, BATCH):
        images, labels = examples.read(np.arange(start, start + BATCH))
        yield torch.from_numpy(images), torch.from_numpy(labels)


def _count(batches: Any) -> int:
    return sum(len(images) for images, _ in batches)


def _read_bytes(shards: Sequence[str], images: int) -> int:
    """Read the shards from end to end and do nothing with them."""
    buffer = bytearray(_PIECE)
    for shard in shards:
        with open(shard, "rb", buffering=0) as file:
            while file.readinto(buffer):
                pass
    return images


def _copy_tensors(size: int, images: int = 4096) -> int:
    """Copy as many bytes as the tensors have."""
    source = np.zeros((BATCH, size, size, 3), dtype=np.uint8)
    source += 1  # its pages are there
    for _ in range(images // BATCH):
        np.copyto(np.empty_like(source), source)
    return images


def pixel_differences(bench: Bench) -> dict[str, dict[str, float]]:
    """How far each decode is from Pillow's bicubic (the stock reader's), on the same images.

    Mean absolute and largest difference of 8-bit values, and the FID between the two sets in the features of an
    untrained convolution net (seed 0; no weights are downloaded); for scale, the same between halves of the images.
    """
    whole = Examples(bench.jpeg, "train", keep_bytes=0)
    pictures = (Image.fromarray(whole.read([index])[0][0]) for index in range(len(whole)))
    reference = np.stack([np.asarray(_bicubic(picture, bench.size)) for picture in pictures])
    everything = np.arange(len(whole))
    ways = {
        "jpeg box": bench.examples("jpeg").read(everything)[0],
        "jpeg dct": bench.examples("jpeg", "dct").read(everything)[0],
        "raw": bench.examples("raw").read(everything)[0],
    }
    extract = _random_features(bench.size)
    of_reference = extract(reference)
    found: dict[str, dict[str, float]] = {}
    for name, pixels in ways.items():
        gap = np.abs(pixels.astype(np.int16) - reference)
        stats = [FeatureStats.from_features(features) for features in (extract(pixels), of_reference)]
        found[name] = {"mean": float(gap.mean()), "largest": float(gap.max()), "fid": frechet_distance(*stats)}
    half = len(reference) // 2
    halves = [FeatureStats.from_features(part) for part in (of_reference[:half], of_reference[half:])]
    return found | {"halves of the images": {"fid": frechet_distance(*halves)}}


def _random_features(size: int) -> Callable[[Pixels], npt.NDArray[np.float64]]:
    from pipeline.classifier import Classifier
    from stages.images import to_float

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = Classifier(channels=(16, 32, 48), blocks=1, classes=1, size=size).eval()

    @torch.inference_mode()
    def extract(pixels: Pixels) -> npt.NDArray[np.float64]:
        blocks = np.array_split(pixels, -(-len(pixels) // 50))
        parts = [net.features(to_float(torch.from_numpy(block))) for block in blocks]
        features: npt.NDArray[np.float64] = torch.cat(parts).double().numpy()
        return features

    return extract
