"""What errors of a chain look like before any net judges them: drifting colours, missing or invented detail.

Not a score of quality: two sets of images may agree in all of this and show different things. Every figure is of one
image at a time, so it can be taken block by block, and a set is told by the mean over its images.

Give images as a file would hold them, rounded to 8 bits, generated and real alike: rounding is white noise of
variance 1 / (12 x 255^2), and would else be detail that only the real images have.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

BANDS = 12
HIGH = 0.25  # cycles per pixel: from here to 1/2 lies the octave that the next smaller image cannot show
ROUNDING = 1.0 / (12.0 * 255.0**2)  # variance of rounding to 8 bits, for values in [0, 1]

Doubles = npt.NDArray[np.float64]


def colour_means(images: Tensor) -> Tensor:
    """Mean of each channel of float images (B, 3, S, S) in [-1, 1]: float32 (B, 3) in [0, 1]."""
    return ((images.double().mean(dim=(2, 3)) + 1.0) / 2.0).float()


def power_bands(images: Tensor) -> Tensor:
    """Radially averaged power of float images (B, 3, S, S) in [-1, 1] by band: float32 (B, BANDS), of ``frequencies``.

    The spectrum is that of the orthonormal cosine transform (DCT-II) of values in [0, 1], which continues an image
    by its mirror image: the Fourier transform would see a step between opposite edges, whose 1/f^2 hides the detail
    of photographs. The mean of the image is left out, the squares are averaged over the channels, and a band is their
    weighted mean. So power is the variance of one coefficient: white noise of variance v has v in every band at every
    size, and ``sum(power * band_weights(S)) / S^2`` is the variance of the image's values (Parseval).

    Images of different sizes compare where cycles per pixel mean the same to both (how sharp is each at its own
    scale). What they show of one scene compares at equal cycles per image, ``frequencies(S) * S``.
    """
    size = images.shape[-1]
    assert images.shape[-2:] == (size, size), f"images are square, not {tuple(images.shape[-2:])}"
    cosines, weights = (part.to(images.device) for part in _transform(size))
    values = (images.float() + 1.0) / 2.0
    values = values - values.mean(dim=(2, 3), keepdim=True)
    squares = (cosines @ values @ cosines.T).square().mean(dim=1).flatten(1)  # (B, S^2)
    return squares @ weights / weights.sum(dim=0)


def frequencies(size: int) -> Doubles:
    """Centres of the bands of images of ``size`` px in cycles per pixel, float64 (BANDS,).

    A geometric series from the lowest frequency there is, half a cycle per image, to 1/2.
    """
    assert size >= 2, "an image of one pixel has no frequencies"
    return np.geomspace(0.5 / size, 0.5, BANDS)


def band_weights(size: int) -> Doubles:
    """How many of the size^2 - 1 coefficients each band holds, float64 (BANDS,): they are shared, so not whole.

    From 8 px on every coefficient is counted once.
    """
    return _transform(size)[1].double().sum(dim=0).numpy()


def high_frequency_share(power: npt.ArrayLike, size: int) -> Doubles:
    """Share of the variance of images in bands centred at ``HIGH`` or above: (..., BANDS) -> (...), in [0, 1].

    Without any variance it is 0.
    """
    parts = np.asarray(power, dtype=np.float64) * band_weights(size)
    total = parts.sum(axis=-1)
    shares: Doubles = parts[..., frequencies(size) >= HIGH].sum(axis=-1) / np.where(total > 0, total, 1.0)
    return shares


def high_frequency_ratio(generated: npt.ArrayLike, real: npt.ArrayLike, size: int) -> float:
    """Power of ``generated`` over that of ``real`` in the bands at ``HIGH`` or above; both (BANDS,), means of sets.

    Below 1: blurred; above: noisy. No power counts for less than rounding alone has, so this is finite and positive.
    """
    weights = np.where(frequencies(size) >= HIGH, band_weights(size), 0.0)
    own, truth = (max(float(weights @ np.asarray(side)) / weights.sum(), ROUNDING) for side in (generated, real))
    return own / truth


def colour_drift(colours: npt.ArrayLike, reference: npt.ArrayLike) -> float:
    """Root mean square difference of the set-mean colours of two sets of images, in levels of 8 bits (0 to 255).

    Both are per-image means (N, 3) and (M, 3) in [0, 1].
    """
    one, other = (np.asarray(side, dtype=np.float64).mean(axis=0) for side in (colours, reference))
    return float(255.0 * np.sqrt(np.mean((one - other) ** 2)))


def colour_noise(colours: npt.ArrayLike, reference: npt.ArrayLike) -> float:
    """What ``colour_drift`` of two sets of one distribution would be by chance alone: its root mean square.

    The variance of each set's mean is that of its images over their count, var / N + var / M.
    """
    spreads = [
        np.var(np.asarray(side, dtype=np.float64), axis=0) / len(np.asarray(side)) for side in (colours, reference)
    ]
    return float(255.0 * np.sqrt(np.mean(spreads[0] + spreads[1])))


@lru_cache(maxsize=4)
def _transform(size: int) -> tuple[Tensor, Tensor]:
    """The matrix of the cosine transform (S, S), and each coefficient's membership in the bands (S^2, BANDS).

    A coefficient between two centres is shared by them in proportion on the logarithmic scale, so that the few
    frequencies of a small image leave no band empty and no coefficient is lost or counted twice. Beyond 1/2 (towards
    the corners of the plane) the last band has it all. Below 8 px there are fewer frequencies than bands: an empty
    band takes the nearest, which others hold too.
    """
    places = torch.arange(size, dtype=torch.float64)
    cosines = torch.cos(torch.pi / size * torch.outer(places, places + 0.5)) * (2.0 / size) ** 0.5
    cosines[0] /= 2.0**0.5
    radii = (places[:, None].square() + places.square()).sqrt().flatten() / (2 * size)  # cycles per pixel
    centres = torch.from_numpy(frequencies(size))
    position = (BANDS - 1) * torch.log2(radii[1:] / centres[0]) / torch.log2(centres[-1] / centres[0])
    position = position.clamp(0, BANDS - 1)
    weights = torch.zeros(size * size, BANDS, dtype=torch.float64)
    weights[1:] = (1.0 - (position[:, None] - torch.arange(BANDS)).abs()).clamp_min(0.0)
    for band in (weights.sum(dim=0) == 0).nonzero()[:, 0].tolist():
        weights[1 + int((position - band).abs().argmin()), band] = 1.0
    return cosines.float(), weights.float()
