"""The one call: images from anywhere against a reference, to scores and their passport. Nothing is printed here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch

from pipeline.data.manifest import SplitName
from pipeline.errors import UserError
from pipeline.fan_out import FanOut
from pipeline.foreign.images import Filter, Fit, Images, is_data_set, open_images
from pipeline.foreign.measuring import Recipe, Taken, take_features
from pipeline.foreign.npz_images import IMAGES, members_of
from pipeline.foreign.references import Statistics, cached_reference, key_of, read_statistics
from pipeline.foreign.scorers import recipe_of
from pipeline.revision import git_revision
from pipeline.scoring.family import Measured, ReferenceMeasured, scores_of
from pipeline.scoring.passport import Labels, Passport, ReferenceMark, SourceMark
from pipeline.scoring.statistics import stats_of
from pipeline.scoring.weights import digest_of

# What is being looked at (samples, reference), how many of it are done, and how many there are.
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Request:
    """What is asked for. ``split`` is of a reference that is a data set, ``sample_split`` of such samples; ``size``
    and ``resize`` how images of other sizes are brought to one (None: refuse them); ``labels`` how the classes of the
    samples were drawn, where somebody knows; ``scorer`` inception, dinov2, or the folder of a classifier."""

    images: str
    against: str
    scorer: str
    weights: str | None
    sha256: str | None
    split: SplitName
    sample_split: SplitName | None
    count: int | None
    size: int | None
    resize: Filter | None
    labels: Labels | None
    block: int
    neighbours: int
    device: str
    cache: Path


class _Against(NamedTuple):
    """An opened reference: images, statistics, or both."""

    address: str
    images: Images | None
    statistics: Statistics | None


class _Hands(NamedTuple):
    """Who extracts features, where they are put, and who hears of it."""

    fan_out: FanOut
    scratch: Path
    progress: Progress


def judge(request: Request, *, fan_out: FanOut, threads: int, scratch: Path, progress: Progress) -> dict[str, Any]:
    """Scores (`pipeline.scoring.family.scores_of`), ``passport`` and ``left_out``, as plain JSON.

    ``threads`` are torch's, here and in every worker: another number may change the last bits. Raises
    UserError for whatever a person must change, what can be known at once before any feature is extracted.
    """
    torch.set_num_threads(threads)
    samples = open_images(request.images, scratch=scratch, split=request.sample_split, option="--sample-split")
    against = _open_reference(request, scratch)
    fit = _fit(request, samples, against)
    count = _count(request, samples)
    recipe = recipe_of(request.scorer, request.weights, request.sha256, request.device, request.cache, threads)
    for images in (samples, against.images):
        if images is not None:
            next(iter(images.blocks(1, 1, fit))).read()  # a wrong size is told now, and not after an hour
    _check_statistics(request, against, recipe)
    hands = _Hands(fan_out, scratch, progress)
    reference = _measure_reference(request, against, fit, recipe, hands)
    sample = _measured(_take("samples", samples, count, request.block, fit, recipe, hands, scratch / "samples"))
    scores = scores_of(sample, reference, neighbours=request.neighbours)
    passport = Passport(
        samples=count,
        indices=(0, count),
        source=SourceMark(
            kind="foreign",
            address=samples.title if samples.split is None else f"{samples.title} ({samples.split})",
            digest=samples.digest,
            resize=samples.changed(fit),
            lossy=samples.lossy,
        ),
        reference=_mark(against, reference, count),
        extractor=recipe.mark,
        size=fit.size,
        resize="statistics as the file holds them" if against.images is None else against.images.made(fit),
        labels=request.labels or "unknown",  # even equal counts may be those of a histogram
        neighbours=request.neighbours,
        seed=None,
        precision="f32",
        block=request.block,
        device=f"cpu, torch threads: {threads}" if request.device == "cpu" else request.device,
        revision=git_revision(),
        scored_by=git_revision(),
    )
    return {**scores, "passport": passport.model_dump(mode="json"), "left_out": list(samples.left_out)}


def _open_reference(request: Request, scratch: Path) -> _Against:
    address = request.against
    if address.lower().endswith(".npz") and "://" not in address:
        path = Path(address).expanduser()
        statistics = read_statistics(path)
        if statistics is not None:
            images = open_images(address, scratch=scratch) if IMAGES in members_of(path) else None
            return _Against(address, images, statistics)
    split = request.split if is_data_set(address) else None
    return _Against(address, open_images(address, scratch=scratch, split=split), None)


def _fit(request: Request, samples: Images, against: _Against) -> Fit:
    """The size at which everything is judged: what was said, else the samples' own."""
    size = request.size or samples.size
    if against.statistics is not None and against.images is not None and size != against.images.size:
        own = against.images.size
        raise UserError(
            f"the statistics in {against.address} are of images of {own} px, and the samples would be judged at "
            f"{size} px; say --size {own} --resize bicubic, or take a reference of {size} px"
        )
    return Fit(size, request.resize)


def _count(request: Request, samples: Images) -> int:
    if request.count is not None and request.count > len(samples):
        raise UserError(f"--count {request.count:,}: there are only {len(samples):,} images in {samples.title}")
    return request.count or len(samples)


def _check_statistics(request: Request, against: _Against, recipe: Recipe) -> None:
    if against.statistics is None:
        return
    found, wanted = against.statistics.stats.dimension, recipe.extractor.dimension
    if request.scorer != "inception" or found != wanted:
        raise UserError(
            f"{against.address} holds statistics of {found} features of Inception-v3, and {request.scorer} gives "
            f"{wanted} of its own; score with --scorer inception, or against images"
        )


def _take(
    name: str, images: Images, count: int, block: int, fit: Fit, recipe: Recipe, hands: _Hands, folder: Path
) -> Taken:
    def told(done: int, total: int) -> None:
        hands.progress(name, done, total)

    return take_features(
        images, recipe, count=count, block=block, fit=fit, folder=folder, fan_out=hands.fan_out, progress=told
    )


def _measured(taken: Taken) -> Measured:
    return Measured(
        features=taken.features,
        stats=stats_of(taken.features),
        logits=taken.logits,
        spatial=None if taken.spatial is None else stats_of(taken.spatial),
    )


def _measure_reference(
    request: Request, against: _Against, fit: Fit, recipe: Recipe, hands: _Hands
) -> ReferenceMeasured:
    images, statistics = against.images, against.statistics
    found = None
    if images is not None:

        def take(folder: Path) -> Taken:
            assert images is not None
            return _take("reference", images, len(images), request.block, fit, recipe, hands, folder)

        found = cached_reference(key_of(images, fit, recipe, request.block), _references(request), take)
    if statistics is None:
        assert found is not None
        return found
    features = None if found is None else found.features
    return ReferenceMeasured(statistics.stats, None, features, statistics.spatial)


def _references(request: Request) -> Path:
    return request.cache.expanduser() / "references"


def _mark(against: _Against, reference: ReferenceMeasured, count: int) -> ReferenceMark:
    images = against.images
    return ReferenceMark(
        name=against.address,
        split=None if images is None else images.split,
        images=reference.images,
        digest=digest_of(Path(against.address).expanduser()) if images is None else images.digest,
        near=reference.near(count),
        kept=None if reference.features is None else len(reference.features),
        lossy=None if images is None else images.lossy,
    )
