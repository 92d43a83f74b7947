"""What samples are compared with: statistics and features of reference images, computed once and kept.

An entry of the cache is filed under the digest of the images' bytes, their split, how they got to their size, the
extractor's weights, and what moves the last bits: the block, the device and the threads. So it can never be the wrong
one, only be missing: it is written beside and renamed, and one that cannot be read is made again. A reference batch
of ADM holds statistics (``mu``, ``sigma`` of the pool features; ``mu_s``, ``sigma_s`` of the spatial ones), which are
taken as they are.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import zipfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from pipeline.data.scratch import scratch_folder
from pipeline.errors import UserError
from pipeline.foreign.images import Fit, Images
from pipeline.foreign.measuring import Recipe, Taken
from pipeline.foreign.npz_images import load_arrays, members_of
from pipeline.scoring.family import ReferenceMeasured
from pipeline.scoring.passport import ExtractorMark
from pipeline.scoring.statistics import FeatureStats, stats_of

KEPT = 50_000  # features of so many images are kept beside the statistics of all: 400 MB of Inception
_FORMAT = 2
# One less is a power of two, so that the covariance of `FeatureStats` is the file's own, bit for bit.
_MANY = 2**20 + 1
_STATISTICS = ("mu", "sigma", "mu_s", "sigma_s")

Take = Callable[[Path], Taken]


class Key(NamedTuple):
    """What the features of reference images depend on."""

    digest: str
    split: str | None
    made: str
    size: int
    extractor: ExtractorMark
    block: int
    device: str
    threads: int

    @property
    def name(self) -> str:
        """The entry's folder in the cache."""
        fields = self._asdict() | {"extractor": self.extractor.model_dump(mode="json"), "entry": [_FORMAT, KEPT]}
        return hashlib.sha256(json.dumps(fields, sort_keys=True).encode("ascii")).hexdigest()


def key_of(images: Images, fit: Fit, recipe: Recipe, block: int) -> Key:
    """The key of all images of a source."""
    made = images.made(fit)
    return Key(images.digest, images.split, made, fit.size, recipe.mark, block, recipe.device, recipe.threads)


def cached_reference(key: Key, cache: Path, take: Take) -> ReferenceMeasured:
    """The reference of a key from the cache, or made by ``take(scratch)`` (all of its features) and put there.

    Raises UserError when the cache cannot be written.
    """
    entry = cache.expanduser() / key.name
    with suppress(OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return _load(entry)
    try:
        with scratch_folder(entry.parent) as scratch:
            _save(take(scratch / "features"), scratch / "entry")
            with suppress(FileNotFoundError):
                shutil.rmtree(entry)  # it could not be read
            with suppress(OSError):  # somebody else was quicker, with the same bytes
                (scratch / "entry").rename(entry)
            return _load(entry)
    except OSError as error:
        raise UserError(
            f"the cache {entry.parent} cannot be used: {error.strerror or error}; name another with --cache"
        ) from error


def _save(taken: Taken, entry: Path) -> None:
    entry.mkdir()
    _save_stats(entry / "stats.npz", stats_of(taken.features))
    if taken.spatial is not None:
        _save_stats(entry / "spatial.npz", stats_of(taken.spatial))
    np.save(entry / "features.npy", taken.features[:KEPT])


def _load(entry: Path) -> ReferenceMeasured:
    stats = _load_stats(entry / "stats.npz")
    spatial = entry / "spatial.npz"
    return ReferenceMeasured(
        stats=stats,
        images=stats.count,
        features=np.load(entry / "features.npy", mmap_mode="r"),
        spatial=_load_stats(spatial) if spatial.exists() else None,
    )


def _save_stats(path: Path, stats: FeatureStats) -> None:
    arrays: dict[str, Any] = dict(stats.arrays())
    np.savez(path, **arrays)


def _load_stats(path: Path) -> FeatureStats:
    with np.load(path) as arrays:
        return FeatureStats.from_arrays(dict(arrays))


class Statistics(NamedTuple):
    """Statistics that a file holds, of an unknown number of images: pool features, and spatial ones if there are any.

    Their count stands for "many": no rank is taken from it.
    """

    stats: FeatureStats
    spatial: FeatureStats | None


def read_statistics(path: Path) -> Statistics | None:
    """The statistics of a reference batch; None where the .npz holds none. Raises UserError for a torso."""
    members = members_of(path)
    held = [name for name in _STATISTICS if name in members]
    if not held:
        return None
    if not {"mu", "sigma"} <= set(held) or ("mu_s" in held) != ("sigma_s" in held):
        raise UserError(f"{path} holds {' and '.join(held)} alone; statistics are mu with sigma, and mu_s with sigma_s")
    arrays = load_arrays(path, held)
    spatial = _as_stats(path, arrays["mu_s"], arrays["sigma_s"], "_s") if "mu_s" in arrays else None
    return Statistics(_as_stats(path, arrays["mu"], arrays["sigma"], ""), spatial)


def _as_stats(path: Path, mean: npt.NDArray[Any], covariance: npt.NDArray[Any], suffix: str) -> FeatureStats:
    shapes = mean.ndim == 1 and covariance.shape == (len(mean), len(mean))
    if not shapes or {mean.dtype.kind, covariance.dtype.kind} != {"f"}:
        raise UserError(
            f"mu{suffix} of {path} is {mean.dtype} {mean.shape} and sigma{suffix} {covariance.dtype} "
            f"{covariance.shape}; they must be floats, (D,) and (D, D)"
        )
    return FeatureStats.from_covariance(_MANY, mean, covariance)
