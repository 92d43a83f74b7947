"""The few images of a set that are kept for a person to look at: the first of each of the first classes."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

CLASSES, EACH = 10, 8  # rows and columns of a grid
ARRAYS = ("preview", "preview_labels", "preview_indices")
PREVIEW = tuple(f"{name}.npy" for name in ARRAYS)  # files

Rows = dict[str, npt.NDArray[Any]]


def joined(blocks: Iterable[tuple[npt.NDArray[np.int64], int, npt.NDArray[np.uint8], Rows]]) -> Rows:
    """The rows of a part from those of its blocks: (indices, how many are asked for, pixels, rows incl. "labels").

    Of the pixels, uint8 (B, S, S, 3), only those that a preview may show go with them, as ``ARRAYS``.
    """
    parts: list[Rows] = []
    for indices, asked, pixels, rows in blocks:
        shown = _first_of_each(rows["labels"][:asked])
        preview = (pixels[shown], rows["labels"][shown], indices[shown])
        parts.append({**{name: v[:asked] for name, v in rows.items()}, **dict(zip(ARRAYS, preview, strict=True))})
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


class Preview:
    """Gathers the first ``EACH`` images of each of the first ``CLASSES`` classes from parts in index order."""

    def __init__(self) -> None:
        self._kept: Rows = {}

    def taken_from(self, rows: Rows) -> Rows:
        """``rows`` of the next part without its preview, of which what is still wanted is kept."""
        for name in ARRAYS:
            values = rows.pop(name)
            self._kept[name] = np.concatenate([self._kept[name], values]) if name in self._kept else values
        shown = _first_of_each(self._kept["preview_labels"])
        self._kept = {name: values[shown] for name, values in self._kept.items()}
        return rows

    def write(self, folder: Path) -> None:
        """As ``preview.npy`` uint8 (P, S, S, 3), ``preview_labels.npy`` and ``preview_indices.npy`` int64 (P,)."""
        for name, values in self._kept.items():
            np.save(folder / f"{name}.npy", values)


def _first_of_each(labels: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Positions of the first ``EACH`` of every label below ``CLASSES``, ascending."""
    return np.sort(np.concatenate([np.flatnonzero(labels == label)[:EACH] for label in range(CLASSES)]))
