"""Another size for images, where a person asked for it by the name of a filter. Never done silently."""

from __future__ import annotations

import numpy as np
from PIL import Image

from pipeline.data.encoding import box_means
from pipeline.errors import UserError
from pipeline.foreign.images import Filter, Fit, Pixels

_RESAMPLING: dict[Filter, Image.Resampling] = {
    "box": Image.Resampling.BOX,
    "bicubic": Image.Resampling.BICUBIC,
}


def resized(pixels: Pixels, size: int, resampling: Filter) -> Pixels:
    """uint8 squares (N, s, s, 3) -> uint8 (N, size, size, 3) by Pillow, whose support grows with the reduction.

    A box that takes whole pixels is the mean that a data set's smaller images are.
    """
    factor, rest = divmod(pixels.shape[1], size)
    images = (Image.fromarray(one) for one in pixels)
    if resampling == "box" and not rest:
        return np.stack([np.asarray(box_means(image, factor)) for image in images])
    return np.stack([np.asarray(image.resize((size, size), _RESAMPLING[resampling])) for image in images])


def fitted(pixels: Pixels, fit: Fit, name: str) -> Pixels:
    """Square images uint8 (N, s, s, 3) as ``fit`` wants them. Raises UserError, naming ``name``, where they do not
    fit and no filter was asked for."""
    if pixels.shape[1] == fit.size:
        return pixels
    if fit.filter is None:
        raise misfit(name, f"{pixels.shape[2]} x {pixels.shape[1]} px", fit)
    return resized(pixels, fit.size, fit.filter)


def misfit(name: str, found: str, fit: Fit) -> UserError:
    """The refusal of images that are not of the size that all must have."""
    return UserError(
        f"{name} is of {found}, where all images must be of {fit.size} x {fit.size} px; say --resize box or "
        "--resize bicubic to resize what differs, which the passport will tell"
    )


def told_resize(fit: Fit) -> str:
    """How a passport names the resize."""
    return f"{fit.filter} to {fit.size} px (Pillow)"
