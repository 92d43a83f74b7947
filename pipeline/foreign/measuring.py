"""Images to features, in canonical blocks, on any number of workers. No score is computed here.

The net always sees exactly one block (the last may be smaller), with the same number of threads in every process, and
results are written in index order: so on CPUs of one kind the bits do not depend on how many workers there were, or
which block was whose. Another number of threads, another kind of CPU or a GPU may change the last ones.
Features go to a memory-mapped file: 50,000 of Inception are 400 MB.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from pipeline.fan_out import FanOut
from pipeline.foreign.images import Block, Fit, Images
from pipeline.scoring.extractors import Extractor, Seen, build_extractor
from pipeline.scoring.passport import ExtractorMark

Singles = npt.NDArray[np.float32]
Progress = Callable[[int, int], None]

_BLOCKS_PER_JOB = 4  # fewer would be more messages than work; more would leave workers idle at the end


@dataclass(frozen=True)
class Recipe:
    """How to build the extractor in any process: ``scorer`` is its config as JSON, ``threads`` those of torch."""

    scorer: str
    weights: Path
    device: str
    threads: int

    @property
    def extractor(self) -> Extractor:
        """The extractor, built once in each process."""
        return _built(self)

    @property
    def mark(self) -> ExtractorMark:
        """What passports say of it."""
        built = self.extractor
        return ExtractorMark(name=built.name, layer=built.layer, sha256=built.sha256)


@lru_cache(maxsize=1)
def _built(recipe: Recipe) -> Extractor:
    return build_extractor(json.loads(recipe.scorer), weights=recipe.weights, device=recipe.device)


@dataclass(frozen=True)
class Job:
    """A few blocks, and the net that is to see them."""

    blocks: tuple[Block, ...]
    recipe: Recipe


def see(job: Job) -> list[Seen]:
    """What the net sees in each block of a job. A plain function: it may run anywhere."""
    torch.set_num_threads(job.recipe.threads)
    extract = job.recipe.extractor
    return [extract(block.read()) for block in job.blocks]


class Taken(NamedTuple):
    """Features of images in index order, memory-mapped: float32 (N, D), logits (N, C) and spatial (N, E) where the
    net has them."""

    features: Singles
    logits: Singles | None
    spatial: Singles | None


def take_features(
    images: Images,
    recipe: Recipe,
    *,
    count: int,
    block: int,
    fit: Fit,
    folder: Path,
    fan_out: FanOut,
    progress: Progress,
) -> Taken:
    """Features of the first ``count`` images, as files in ``folder`` (made). Raises UserError naming an image that
    cannot be read or does not fit."""
    assert 1 <= count <= len(images)
    folder.mkdir(parents=True)
    blocks = images.blocks(count, block, fit)
    files: dict[str, Singles] = {}
    done = 0
    with closing(fan_out(see, _jobs(blocks, recipe))) as results:
        for seen in (one for several in results for one in several):
            for name, part in (("features", seen.features), ("logits", seen.logits), ("spatial", seen.spatial)):
                if part is None:
                    continue
                if name not in files:
                    files[name] = _new_array(folder / f"{name}.npy", (count, part.shape[1]))
                files[name][done : done + len(part)] = part
            done += len(seen.features)
            progress(done, count)
    assert done == count
    return Taken(files["features"], files.get("logits"), files.get("spatial"))


def _jobs(blocks: Iterator[Block], recipe: Recipe) -> Iterator[Job]:
    while several := tuple(islice(blocks, _BLOCKS_PER_JOB)):
        yield Job(several, recipe)


def _new_array(path: Path, shape: Sequence[int]) -> Singles:
    array: Singles = np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=tuple(shape))
    return array
