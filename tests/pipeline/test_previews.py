"""The first images of the first classes, whatever the parts were that they came in."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pipeline.previews import CLASSES, EACH, Preview, Rows, joined

COUNT = 400


def part(first: int, last: int, block: int) -> Rows:
    """Images whose pixels are their index, of twelve classes in an order of their own; blocks reach past the end."""
    labels = np.random.default_rng(0).integers(12, size=COUNT + block)

    def blocks() -> object:
        for start in range(first, last, block):
            indices = np.arange(start, start + block)
            pixels = np.broadcast_to(indices[:, None, None, None] % 256, (block, 2, 2, 3)).astype(np.uint8)
            yield indices, min(block, last - start), pixels, {"labels": labels[indices], "index": indices}

    return joined(blocks())  # type: ignore[arg-type]


@pytest.mark.parametrize(("step", "block"), [(400, 400), (64, 16), (48, 48), (16, 16)])
def test_the_same_images_are_shown_whatever_the_parts(tmp_path: Path, step: int, block: int) -> None:
    preview, seen = Preview(), []
    for first in range(0, COUNT, step):
        rows = preview.taken_from(part(first, min(first + step, COUNT), block))
        assert set(rows) == {"labels", "index"}
        seen.append(rows["index"])
    assert np.array_equal(np.concatenate(seen), np.arange(COUNT))  # no image of the padding gets through
    preview.write(tmp_path)
    pixels, labels, indices = (np.load(tmp_path / f"preview{name}.npy") for name in ("", "_labels", "_indices"))
    truth = np.random.default_rng(0).integers(12, size=COUNT + block)[:COUNT]
    expected = sorted(index for label in range(CLASSES) for index in np.flatnonzero(truth == label)[:EACH])
    assert indices.tolist() == expected
    assert np.array_equal(labels, truth[indices])
    assert np.array_equal(pixels[:, 0, 0, 0], indices % 256)


def test_fewer_classes_and_images_are_shown_as_they_are(tmp_path: Path) -> None:
    preview = Preview()
    rows = joined([(np.arange(4), 3, np.zeros((4, 2, 2, 3), dtype=np.uint8), {"labels": np.array([1, 0, 1, 0])})])
    preview.taken_from(rows)
    preview.write(tmp_path)
    assert np.load(tmp_path / "preview_indices.npy").tolist() == [0, 1, 2]
