"""The embedded data set: ten classes of drawn shapes, a pure function of (seed, index, size). Not a format.

Nothing is stored and nothing is downloaded: image `index` of seed `seed` is one scene, a light, striped
shape on a dark, shaded ground, and `draw` renders that scene at any size up to 64 px. Sizes that are powers
of two are box averages of each other (up to rounding to uint8), which is also how a cascade makes its
low-resolution images.

The difficulty is a dial, the constants below. Two things were wanted at once:

- a tiny 8 px base stage must learn the classes in minutes on one core: so shapes are large, nearly centred
  and nearly upright (with free positions, angles and colours it learnt nothing in the same time), and every
  class has its own silhouette after box averaging to 8 x 8 pixels;
- super-resolution must have something to do: the stripes' period is about one pixel of the 8 px image, so
  they are all but absent there, blurred at 16 px and sharp at 32 px; their direction, period and contrast
  have to be invented, in one piece over the whole shape.

Per pixel only +, -, *, sqrt, min, max and floor are used, so the bytes do not depend on whose vectorised
sine is installed.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from pipeline.errors import UserError

Array = npt.NDArray[np.float32]

MAX_SIZE = 64
_GRID = 64  # every size renders at least this many points a side, then box-averages

# Pose, in units of half the image's side; angles in radians.
CENTRE = 0.12  # |offset| of the centre, each axis
ANGLE = 0.25  # |rotation|; cross and saltire would meet at pi / 8 = 0.39
RADIUS = (0.68, 0.90)
# Colour: hues are free, brightness keeps shape and ground apart.
SHAPE_VALUE = (0.75, 1.0)
SHAPE_SATURATION = (0.15, 0.75)
GROUND_VALUE = (0.05, 0.30)
GROUND_SATURATION = (0.2, 0.8)
GROUND_SHADING = 0.6  # relative change of the ground's brightness from one border to the other, at most
# Texture: what 8 px cannot show.
STRIPE_PERIOD = (0.30, 0.36)  # of half the image's side: 5 to 6 pixels at 32 px, 1.3 at 8 px
STRIPE_CONTRAST = (0.25, 0.55)  # relative darkening of every other stripe
STRIPE_DIRECTIONS = 2  # along the shape's own axis and across it


def _box(u: Array, v: Array, centre: tuple[float, float], half: tuple[float, float]) -> Array:
    return np.maximum(np.abs(u - np.float32(centre[0])) - half[0], np.abs(v - np.float32(centre[1])) - half[1])


def _disk(u: Array, v: Array, centre: tuple[float, float], radius: float) -> Array:
    du, dv = u - np.float32(centre[0]), v - np.float32(centre[1])
    return np.sqrt(du * du + dv * dv) - np.float32(radius)


def _cross(u: Array, v: Array) -> Array:
    return np.minimum(_box(u, v, (0, 0), (0.27, 0.95)), _box(u, v, (0, 0), (0.95, 0.27)))


def _saltire(u: Array, v: Array) -> Array:
    half = np.float32(math.sqrt(0.5))
    return _cross((u + v) * half, (v - u) * half)


def _triangle(u: Array, v: Array) -> Array:
    slope = np.abs(u) * np.float32(math.cos(math.pi / 6)) - (v + np.float32(0.25)) * np.float32(0.5)
    return np.maximum(slope, v - np.float32(0.30)) - np.float32(0.38)


# Signed distances (negative inside) in the shape's own frame: u to the right, v downwards, within about +-1.
_SHAPES: dict[str, Callable[[Array, Array], Array]] = {
    "bars": lambda u, v: np.minimum(_box(u, v, (0, -0.55), (0.9, 0.29)), _box(u, v, (0, 0.55), (0.9, 0.29))),
    "checker": lambda u, v: np.minimum(
        _box(u, v, (-0.45, -0.45), (0.43, 0.43)), _box(u, v, (0.45, 0.45), (0.43, 0.43))
    ),
    "corner": lambda u, v: np.minimum(_box(u, v, (-0.56, 0), (0.3, 0.86)), _box(u, v, (0, 0.56), (0.86, 0.3))),
    "crescent": lambda u, v: np.maximum(_disk(u, v, (0, 0), 0.95), -_disk(u, v, (0.5, 0), 0.72)),
    "cross": _cross,
    "disk": lambda u, v: _disk(u, v, (0, 0), 0.92),
    "hourglass": lambda u, v: np.maximum(np.abs(v) - 0.88, (np.abs(u) - 0.1 - 0.85 * np.abs(v)) * 0.76),
    "ring": lambda u, v: np.abs(_disk(u, v, (0, 0), 0.72)) - np.float32(0.23),
    "saltire": _saltire,
    "triangle": _triangle,
}
CLASSES: tuple[str, ...] = tuple(sorted(_SHAPES))


def draw(seed: int, index: int, size: int) -> tuple[npt.NDArray[np.uint8], int]:
    """One image and its label: the scene is drawn from (seed, index), `size` says how finely it is sampled.

    Labels are balanced, `index` modulo the number of classes: ten consecutive images hold every class once.

    Returns uint8 RGB (size, size, 3) and the label, an index into `CLASSES`. Raises UserError for a negative
    seed or index and for sizes outside 1 to 64.
    """
    if seed < 0 or index < 0 or not 1 <= size <= MAX_SIZE:
        raise UserError(
            f"a drawn image needs seed >= 0, index >= 0 and a size of 1 to {MAX_SIZE}, but was asked for "
            f"seed {seed}, index {index}, size {size}"
        )
    label = index % len(CLASSES)
    dice = np.random.Generator(np.random.Philox(np.random.SeedSequence((seed, index)))).random(15).tolist()
    factor = -(-_GRID // size)
    grid = size * factor
    scene = _render(CLASSES[label], dice, grid)  # (3, grid, grid) in [0, 1]
    pixels = scene.reshape(3, size, factor, size, factor).mean(axis=(2, 4), dtype=np.float32)
    image = np.floor(pixels * np.float32(255) + np.float32(0.5)).astype(np.uint8)
    return np.ascontiguousarray(image.transpose(1, 2, 0)), label


def _render(name: str, dice: list[float], grid: int) -> Array:
    """The scene of fifteen uniform numbers on a grid x grid lattice of points."""
    centre_x, centre_y = _between(dice[0], (-CENTRE, CENTRE)), _between(dice[1], (-CENTRE, CENTRE))
    angle, radius = _between(dice[2], (-ANGLE, ANGLE)), _between(dice[3], RADIUS)
    line = (np.arange(grid, dtype=np.float32) + np.float32(0.5)) * np.float32(2 / grid) - np.float32(1)
    x, y = line[None, :] - np.float32(centre_x), line[:, None] - np.float32(centre_y)
    cos, sin = np.float32(math.cos(angle) / radius), np.float32(math.sin(angle) / radius)
    u, v = x * cos + y * sin, y * cos - x * sin

    distance = _SHAPES[name](u, v).astype(np.float32, copy=False)
    steps = distance * np.float32(radius * grid / 2)  # in lattice steps: the edge is a ramp of one
    inside = np.clip(np.float32(0.5) - steps, 0, 1)
    shape = _colour(dice[4], _between(dice[5], SHAPE_SATURATION), _between(dice[6], SHAPE_VALUE))
    ground = _colour(dice[7], _between(dice[8], GROUND_SATURATION), _between(dice[9], GROUND_VALUE))
    contrast = np.float32(_between(dice[10], STRIPE_CONTRAST))
    shape_light = inside * (1 - contrast * _stripes(u, v, radius, dice[11], dice[12]))
    ground_light = (1 - inside) * _shading(line, dice[13], dice[14])
    return shape[:, None, None] * shape_light + ground[:, None, None] * ground_light


def _stripes(u: Array, v: Array, radius: float, direction: float, width: float) -> Array:
    """Soft-edged stripes, 0 or 1 with a short ramp; the period is one of the image, not of the shape."""
    turn = math.floor(direction * STRIPE_DIRECTIONS) * math.pi / STRIPE_DIRECTIONS
    period = _between(width, STRIPE_PERIOD) / radius
    cos, sin = np.float32(math.cos(turn) / period), np.float32(math.sin(turn) / period)
    along = u * cos + v * sin  # no free phase: a stripe runs through the shape's centre
    wave = np.abs(along - np.floor(along) - np.float32(0.5))  # triangle wave, 0 to 0.5
    return np.clip((wave - np.float32(0.25)) * np.float32(6) + np.float32(0.5), 0, 1)


def _shading(line: Array, direction: float, strength: float) -> Array:
    """The ground's brightness: a linear ramp, 1 at its brightest side."""
    turn, slope = 2 * math.pi * direction, GROUND_SHADING * strength
    cos, sin = np.float32(math.cos(turn)), np.float32(math.sin(turn))
    across = line[None, :] * cos + line[:, None] * sin  # within +-sqrt(2)
    return 1 - np.float32(slope) * (across * np.float32(math.sqrt(0.125)) + np.float32(0.5))


def _between(uniform: float, ends: tuple[float, float]) -> float:
    return ends[0] + uniform * (ends[1] - ends[0])


def _colour(hue: float, saturation: float, value: float) -> Array:
    """HSV to RGB, each in [0, 1]."""
    pure = [min(max(abs((6 * hue + shift) % 6 - 3) - 1, 0.0), 1.0) for shift in (0, 4, 2)]
    return np.array([value * (1 - saturation * (1 - part)) for part in pure], dtype=np.float32)
