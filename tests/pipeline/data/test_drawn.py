"""The drawn data set: one scene per (seed, index), the same at every size, balanced, told apart at 8 px."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest

from pipeline.data.drawn import CLASSES, MAX_SIZE, draw
from pipeline.errors import UserError


def test_ten_or_more_sorted_classes() -> None:
    assert len(CLASSES) >= 10
    assert list(CLASSES) == sorted(set(CLASSES))


def test_an_image_is_a_pure_function_of_seed_index_and_size() -> None:
    first = [draw(3, index, 32)[0].tobytes() for index in range(20)]
    backwards = [draw(3, index, 32)[0].tobytes() for index in reversed(range(20))]
    assert first == backwards[::-1]
    assert len(set(first)) == 20
    assert draw(4, 0, 32)[0].tobytes() != first[0]


def test_the_bytes_have_not_changed_since_scores_were_written_down() -> None:
    digest = hashlib.sha256(b"".join(draw(0, index, 32)[0].tobytes() for index in range(50))).hexdigest()
    assert digest.startswith("5a5eb9f9120b8a27")


@pytest.mark.parametrize("size", [1, 7, 8, 16, 24, 32, 48, MAX_SIZE])
def test_any_size_up_to_64(size: int) -> None:
    image, label = draw(0, 13, size)
    assert image.shape == (size, size, 3)
    assert image.dtype == np.uint8
    assert image.flags.c_contiguous
    assert label == 3


@pytest.mark.parametrize("size", [8, 16, 32])
def test_a_smaller_size_is_the_box_average_of_a_larger_one(size: int) -> None:
    for index in range(30):
        large = draw(1, index, 64)[0].astype(float)
        factor = 64 // size
        averaged = large.reshape(size, factor, size, factor, 3).mean(axis=(1, 3))
        assert np.abs(averaged - draw(1, index, size)[0]).max() <= 1.0  # both sides were rounded to uint8


def test_labels_are_balanced() -> None:
    labels = [draw(0, index, 8)[1] for index in range(10 * len(CLASSES))]
    assert np.bincount(labels, minlength=len(CLASSES)).tolist() == [10] * len(CLASSES)


def test_classes_are_told_apart_at_8_pixels_by_their_silhouette_alone() -> None:
    def silhouettes(start: int, count: int) -> tuple[np.ndarray, np.ndarray]:
        drawn = [draw(0, index, 8) for index in range(start, start + count)]
        light = np.stack([image.astype(float).mean(axis=2).ravel() for image, _ in drawn])
        light -= light.mean(axis=1, keepdims=True)
        return light / np.linalg.norm(light, axis=1, keepdims=True), np.array([label for _, label in drawn])

    light, labels = silhouettes(0, 600)
    means = np.stack([light[labels == label].mean(axis=0) for label in range(len(CLASSES))])
    held_out, truth = silhouettes(600, 400)
    assert ((held_out @ means.T).argmax(axis=1) == truth).mean() >= 0.9  # chance is 0.1; no learning at all


def test_stripes_need_more_than_8_pixels() -> None:
    """What super-resolution has to add: much of the 32 px image's variance is lost at 8 px."""
    lost = []
    for index in range(50):
        image = draw(0, index, 32)[0].astype(float)
        mean = image.reshape(8, 4, 8, 4, 3).mean(axis=(1, 3), keepdims=True)
        lost.append(((image.reshape(8, 4, 8, 4, 3) - mean) ** 2).mean() / image.var(axis=(0, 1)).mean())
    assert np.mean(lost) > 0.2


@pytest.mark.parametrize(("seed", "index", "size"), [(-1, 0, 8), (0, -1, 8), (0, 0, 0), (0, 0, 65)])
def test_impossible_requests_are_refused(seed: int, index: int, size: int) -> None:
    with pytest.raises(UserError, match="1 to 64"):
        draw(seed, index, size)
