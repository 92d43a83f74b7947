"""Sample grids: a row per class, pixels enlarged without smoothing, as PNG bytes."""

from __future__ import annotations

import io

import numpy as np
import numpy.typing as npt
from PIL import Image

WIDTH = 64  # px on the page of one image: every stage is shown equally large


def class_grid(
    images: npt.NDArray[np.uint8], labels: npt.NDArray[np.int64], classes: int, *, columns: int = 10, rows: int = 10
) -> bytes:
    """PNG of the first ``columns`` images (N, S, S, 3) of each of the first ``rows`` classes, one row per class.

    A class with fewer images leaves its row's end white.
    """
    size = images.shape[1]
    shown = min(classes, rows)
    sheet = np.full((shown, columns, size, size, 3), 255, np.uint8)
    for label in range(shown):
        mine = images[labels == label][:columns]
        sheet[label, : len(mine)] = mine
    flat = sheet.transpose(0, 2, 1, 3, 4).reshape(shown * size, columns * size, 3)
    scale = max(1, WIDTH // size)
    out = io.BytesIO()
    Image.fromarray(flat.repeat(scale, 0).repeat(scale, 1)).save(out, "PNG", optimize=True)
    return out.getvalue()
