"""Which features lie near which: precision and recall, and the nearest images of a sample. No statistics.

Kynkaanniemi et al. 2019: a set's manifold is the union of balls around its features, each as large as the distance
to the k-th nearest fellow; precision is the share of samples in the manifold of the real images, recall the share of
real images in that of the samples.

Of N x M distances almost all are far from deciding anything. They are computed in float32 blocks, by one matrix
product each, with a bound on what rounding can have done; whatever the bound leaves open is decided by the sum of
squared differences in float64. So results are those of float64 throughout, equal distances are equal, and 50,000
features of 2,048 dimensions on either side need less than 2 GiB beside themselves. Sets in which most features are
exact copies of one another leave much open: slow, not wrong.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from pipeline.errors import UserError
from pipeline.scoring.statistics import Doubles, Features, as_features

Floats = npt.NDArray[np.float32]
Indices = npt.NDArray[np.int64]

_ENTRIES = 1 << 24  # of a block of distances
_PAIRS = 1 << 22  # numbers in a batch of differences


class PrecisionRecall(NamedTuple):
    """Share of the samples among the real images, and of the real images among the samples, in [0, 1]."""

    precision: float
    recall: float


def precision_recall(fake: npt.ArrayLike, real: npt.ArrayLike, *, neighbours: int = 3) -> PrecisionRecall:
    """Improved precision and recall of features (N, D) and (M, D); each is the other's with the sets exchanged.

    Both grow with the size of the set that makes the manifold: compare only equal counts. Equals torch-fidelity's
    where no distance is within its rounding of a radius. Raises UserError where a set has too few features.
    """
    samples, images = as_features(fake), as_features(real)
    if min(len(samples), len(images)) <= neighbours:
        raise UserError(
            f"precision and recall with {neighbours} neighbours need {neighbours + 1} or more images of each "
            f"kind, not {len(samples)} samples and {len(images)} real images"
        )
    precision = Manifold(images, neighbours).holds(samples).mean()
    return PrecisionRecall(float(precision), float(Manifold(samples, neighbours).holds(images).mean()))


class Manifold:
    """Balls around features (N, D), each reaching to the ``neighbours``-th nearest other feature."""

    def __init__(self, features: npt.ArrayLike, neighbours: int) -> None:
        self._screen = _Screen(as_features(features))
        own = self._screen.features
        assert neighbours < len(own), f"{neighbours} neighbours among {len(own)} features"
        # A feature is its own nearest, at distance 0, hence one more.
        self._squared_radii = _nearest(own, self._screen, neighbours + 1)[1][:, -1]

    def holds(self, points: npt.ArrayLike) -> npt.NDArray[np.bool_]:
        """Whether each of the points (M, D) lies in some ball, its surface included: (M,)."""
        found = []
        for some, bounds in self._screen.blocks(as_features(points), self._squared_radii):
            inside = np.asarray((bounds.highest() <= 0).any(axis=1))
            rows, columns = np.nonzero(~((bounds.lowest() > 0) | inside[:, None]))
            found.append(self._settle(some, inside, rows, columns))
        return np.concatenate(found)

    def _settle(
        self, points: Features, inside: npt.NDArray[np.bool_], rows: Indices, columns: Indices
    ) -> npt.NDArray[np.bool_]:
        """``inside`` and what exact distances say of the open pairs; a point once inside is not looked at again."""
        turn = np.arange(len(rows)) - np.searchsorted(rows, rows)  # how many open pairs of this point come before
        order = np.argsort(turn, kind="stable")
        batch = max(1, _PAIRS // points.shape[1])
        for start in range(0, len(order), batch):
            pairs = order[start : start + batch]
            pairs = pairs[~inside[rows[pairs]]]
            squared = _squared_distances(points, rows[pairs], self._screen.features, columns[pairs])
            inside[rows[pairs[squared <= self._squared_radii[columns[pairs]]]]] = True
        return inside


def nearest(features: npt.ArrayLike, reference: npt.ArrayLike, *, count: int) -> tuple[Indices, Doubles]:
    """The ``count`` nearest of ``reference`` (M, D) to each of ``features`` (N, D): indices and distances (N, count).

    Nearest first, equals by index. Raises UserError where the reference has fewer.
    """
    others = as_features(reference)
    if count > len(others):
        raise UserError(f"there are no {count} nearest images among {len(others)}; ask for at most {len(others)}")
    indices, squared = _nearest(as_features(features), _Screen(others), count)
    return indices, np.sqrt(squared)


def _nearest(points: Features, screen: _Screen, count: int) -> tuple[Indices, Doubles]:
    """Indices and *squared* distances (N, count)."""
    found = []
    for some, bounds in screen.blocks(points, np.zeros(len(screen.features))):
        # `count` of them are surely as near as this, so whatever may be nearer is a candidate.
        enough = np.partition(bounds.highest(), count - 1, axis=1)[:, count - 1]
        rows, columns = np.nonzero(~(bounds.lowest() > enough[:, None]))
        squared = _squared_distances(some, rows, screen.features, columns)
        order = np.lexsort((columns, squared, rows))
        firsts = np.searchsorted(rows, np.arange(len(some)))[:, None] + np.arange(count)
        found.append((columns[order[firsts]], squared[order[firsts]]))
    indices, distances = (np.concatenate(side) for side in zip(*found, strict=True))
    return indices, distances


class _Bounds(NamedTuple):
    """Squared distances less squared radii, and how far off they may be: the row's and the column's share."""

    margins: Floats  # (B, M)
    row_errors: Floats  # (B, 1)
    column_errors: Floats  # (M,)

    def lowest(self) -> Floats:
        lowest: Floats = self.margins - self.column_errors
        lowest -= self.row_errors
        return lowest

    def highest(self) -> Floats:
        highest: Floats = self.margins + self.column_errors
        highest += self.row_errors
        return highest


class _Screen:
    """Features in float32, seen from their mean at a scale where squares neither overflow nor vanish."""

    def __init__(self, features: Features) -> None:
        self.features = features
        self._centre: Doubles = features.mean(axis=0, dtype=np.float64)
        widest = max(float(np.abs(part - self._centre).max()) for part in _parts(features))
        self._scale = 2.0 ** -float(np.clip(np.frexp(widest)[1], -500, 500))  # a power of two rounds nothing
        self._values: Floats = np.empty(features.shape, np.float32)
        start = 0
        for part in _parts(features):
            self._values[start : start + len(part)] = self._seen(part)
            start += len(part)
        self._squares = _squares(self._values)

    def blocks(self, points: Features, squared_radii: Doubles) -> Iterator[tuple[Features, _Bounds]]:
        """Consecutive blocks of points, with bounds on their squared distances less ``squared_radii`` (M,).

        A product x . y of D float32 numbers, rounded to that from float64, is off by at most (D + 2) u |x| |y| with
        u = 2^-24, and 2 |x| |y| <= |x|^2 + |y|^2; the sums add a few u more. Counted twice, to be safe.
        """
        dimension = points.shape[1]
        unit = (dimension + 16) * float(np.finfo(np.float32).eps)  # eps is 2 u
        radii = squared_radii * self._scale**2
        columns = (self._squares - radii).astype(np.float32)
        column_errors = (unit * (self._squares + radii)).astype(np.float32)
        size = max(1, _ENTRIES // len(self._values))
        with np.errstate(over="ignore", invalid="ignore"):  # a point out of float32's range stays open: NaN
            for start in range(0, len(points), size):
                some = points[start : start + size]
                seen = self._seen(some)
                squares = _squares(seen)[:, None]
                margins = seen @ self._values.T
                margins *= -2
                margins += squares.astype(np.float32)
                margins += columns
                row_errors = (unit * squares + dimension * 2.0**-120).astype(np.float32)  # what underflow can do
                yield some, _Bounds(margins, row_errors, column_errors)

    def _seen(self, features: Features) -> Floats:
        seen: Floats = ((features - self._centre) * self._scale).astype(np.float32)
        return seen


def _squares(values: Floats) -> Doubles:
    """Squared length of each row, in float64."""
    return np.concatenate([np.square(part, dtype=np.float64).sum(axis=1) for part in _parts(values)])


def _squared_distances(a: Features, rows: Indices, b: Features, columns: Indices) -> Doubles:
    """Of each pair (a[row], b[column]) the sum of squared differences, in float64: the same both ways round."""
    found = np.empty(len(rows))
    batch = max(1, _PAIRS // a.shape[1])
    for start in range(0, len(rows), batch):
        pairs = slice(start, start + batch)
        apart = np.subtract(a[rows[pairs]], b[columns[pairs]], dtype=np.float64)
        found[pairs] = np.square(apart, out=apart).sum(axis=1)
    return found


def _parts(values: npt.NDArray[Any]) -> Iterator[npt.NDArray[Any]]:
    """Rows a few at a time, so that what is made of them stays small."""
    rows = max(1, _PAIRS // values.shape[1])
    return (values[start : start + rows] for start in range(0, len(values), rows))
