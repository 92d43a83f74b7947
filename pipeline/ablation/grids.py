"""Sample grids for a page that may weigh a few megabytes: at their native size, and no more columns than fit.

Grids are PNG bytes with one row per class. Enlarging is left to the browser, which does it without smoothing.
"""

from __future__ import annotations

import io
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

BUDGET = 5 << 19  # bytes of PNG on one page; a third more as base64
FEWEST = 3  # columns that remain however many cells there are


class Grid(NamedTuple):
    """A grid of (width, height) px, ``columns`` images wide of the ``whole`` that it had."""

    png: bytes
    width: int
    height: int
    columns: int
    whole: int


def fitted(pngs: Mapping[str, bytes], *, rows: int, budget: int = BUDGET) -> dict[str, Grid]:
    """The grids by name, each of ``rows`` rows, enlarged ones shrunk as far as that loses nothing.

    All lose as many of their last columns as it takes to fit ``budget`` bytes together.
    """
    found = {name: _native(png, rows) for name, png in pngs.items()}
    whole = sum(len(grid.png) for grid in found.values())
    if whole <= budget:
        return found
    most = max(grid.columns for grid in found.values())
    columns = max(FEWEST, math.floor(most * budget / whole))
    return {name: _cut(grid, columns) for name, grid in found.items()}


def _native(png: bytes, rows: int) -> Grid:
    import numpy as np
    from PIL import Image

    image = Image.open(io.BytesIO(png)).convert("RGB")
    width, height = image.size
    tile = height // rows
    columns = max(1, width // max(1, tile))
    pixels = np.asarray(image)
    for scale in range(tile, 1, -1):
        small = pixels[::scale, ::scale]
        if tile % scale == 0 and np.array_equal(small.repeat(scale, 0).repeat(scale, 1), pixels):
            return _grid(small, columns, columns)
    return Grid(png, width, height, columns, columns)


def _cut(grid: Grid, columns: int) -> Grid:
    import numpy as np
    from PIL import Image

    if grid.columns <= columns:
        return grid
    pixels = np.asarray(Image.open(io.BytesIO(grid.png)).convert("RGB"))
    return _grid(pixels[:, : grid.width // grid.columns * columns], columns, grid.whole)


def _grid(pixels: Any, columns: int, whole: int) -> Grid:
    from PIL import Image

    image = Image.fromarray(pixels)
    out = io.BytesIO()
    image.save(out, "PNG", optimize=True)
    return Grid(out.getvalue(), *image.size, columns, whole)
