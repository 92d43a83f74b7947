"""What the net sees of an image: a random part in training, the centre in testing. Every draw is keyed.

The draws of an image are a function of (seed, step, place in the global batch) and of nothing else, as everywhere in
the house: a resumed run, and another number of workers, see the same parts.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline.cas.spec import CasSpec
from stages.randomness import KeyedDraws

# A random part of an image as ResNets are trained on: its share of the area, and width / height.
AREA = (0.08, 1.0)
RATIO = (3 / 4, 4 / 3)
_TRIES = 10  # for a part that fits; an image without one gives the largest square in its centre


def augmented(images: Tensor, spec: CasSpec, draws: KeyedDraws, step: int, positions: Tensor) -> Tensor:
    """float (B, 3, S, S) -> (B, 3, side, side): of each image a random part or shift, half of them mirrored."""
    size = images.shape[-1]
    if spec.crop is not None:
        images = _random_part(images, spec.side(size), draws, step, positions)
    elif reach := round(spec.shift * size):
        images = _shifted(images, reach, draws.uniform("shift", step, positions, (2,)))
    if spec.flip:
        mirrored = draws.uniform("flip", step, positions) < 0.5
        images = torch.where(mirrored[:, None, None, None], images.flip(-1), images)
    return images


def centre(images: Tensor, side: int) -> Tensor:
    """The central square: (B, 3, S, S) -> (B, 3, side, side)."""
    margin = (images.shape[-1] - side) // 2
    return images[..., margin : margin + side, margin : margin + side]


def _shifted(images: Tensor, reach: int, dice: Tensor) -> Tensor:
    """Each image shifted by up to ``reach`` px a way, edges mirrored; ``dice`` (B, 2) in (0, 1) say how far."""
    size = images.shape[-1]
    shifts = (dice * (2 * reach + 1)).long() - reach
    places = torch.arange(size, device=images.device)[None, None] + shifts[..., None]  # (B, 2, S)
    places = size - 1 - (size - 1 - places.abs()).abs()
    rows, columns = places[:, 0, :, None], places[:, 1, None, :]
    image = torch.arange(len(images), device=images.device)[:, None, None]
    return images.permute(0, 2, 3, 1)[image, rows, columns].permute(0, 3, 1, 2)


def _random_part(images: Tensor, side: int, draws: KeyedDraws, step: int, positions: Tensor) -> Tensor:
    """A random part of each image, resized to ``side`` by bilinear interpolation, all of them at once."""
    width, height = _random_shape(draws, step, positions)
    left, top = (draws.uniform("place", step, positions, (2,)) * (1 - torch.stack([width, height], dim=1))).unbind(1)
    zero = torch.zeros_like(left)
    # From [-1, 1] of the result to [-1, 1] of the image.
    rows = [width, zero, 2 * left + width - 1, zero, height, 2 * top + height - 1]
    grid = F.affine_grid(torch.stack(rows, dim=1).reshape(-1, 2, 3), [len(images), 3, side, side], align_corners=False)
    return F.grid_sample(images, grid, mode="bilinear", padding_mode="border", align_corners=False)


def _random_shape(draws: KeyedDraws, step: int, positions: Tensor) -> tuple[Tensor, Tensor]:
    """Width and height (B,) of a part, as shares of the side: the first of ten tries that fits into the image."""
    dice = draws.uniform("part", step, positions, (2, _TRIES))
    area = AREA[0] + (AREA[1] - AREA[0]) * dice[:, 0]
    ratio = torch.exp(math.log(RATIO[0]) + (math.log(RATIO[1]) - math.log(RATIO[0])) * dice[:, 1])
    width, height = torch.sqrt(area * ratio), torch.sqrt(area / ratio)
    fits = (width <= 1) & (height <= 1)
    first = fits.int().argmax(dim=1, keepdim=True)
    one = torch.ones_like(width[:, 0])
    found = fits.any(dim=1)
    return (
        torch.where(found, width.gather(1, first)[:, 0], one),
        torch.where(found, height.gather(1, first)[:, 0], one),
    )
