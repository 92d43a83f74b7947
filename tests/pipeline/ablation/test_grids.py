"""Grids on a page: shrunk without loss, cut where they would weigh too much."""

from __future__ import annotations

import io

import numpy as np
import numpy.typing as npt
from PIL import Image

from pipeline.ablation.grids import FEWEST, fitted


def _png(pixels: npt.NDArray[np.uint8]) -> bytes:
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG")
    return out.getvalue()


def _pixels(png: bytes) -> npt.NDArray[np.uint8]:
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))


def _noise(rows: int, columns: int, size: int, seed: int = 0) -> npt.NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (rows * size, columns * size, 3), dtype=np.uint8)


def test_enlarged_images_are_stored_at_their_native_size() -> None:
    native = _noise(3, 5, 8)
    enlarged = native.repeat(4, 0).repeat(4, 1)
    grid = fitted({"a": _png(enlarged)}, rows=3)["a"]
    assert (grid.width, grid.height, grid.columns, grid.whole) == (40, 24, 5, 5)
    np.testing.assert_array_equal(_pixels(grid.png), native)


def test_images_that_are_not_enlarged_stay_as_they_are() -> None:
    pixels = _noise(3, 5, 32)
    grid = fitted({"a": _png(pixels)}, rows=3)["a"]
    np.testing.assert_array_equal(_pixels(grid.png), pixels)


def test_all_grids_lose_the_same_columns_to_fit() -> None:
    pngs = {name: _png(_noise(4, 10, 16, seed)) for seed, name in enumerate("abc")}
    budget = sum(map(len, pngs.values())) // 2
    grids = fitted(pngs, rows=4, budget=budget)
    assert {grid.columns for grid in grids.values()} == {5}
    assert {grid.whole for grid in grids.values()} == {10}
    assert sum(len(grid.png) for grid in grids.values()) < 1.1 * budget
    np.testing.assert_array_equal(_pixels(grids["b"].png), _pixels(pngs["b"])[:, : 5 * 16])


def test_a_few_columns_always_remain() -> None:
    assert fitted({"a": _png(_noise(2, 10, 16))}, rows=2, budget=1)["a"].columns == FEWEST
