"""Accuracy of samples under a classifier, of all and of each class."""

from __future__ import annotations

import pytest

from pipeline.scoring.accuracy import accuracy


def test_of_all_and_of_each_class() -> None:
    found = accuracy([[0], [1], [1], [2], [2], [0]], [0, 1, 0, 2, 2, 2], classes=4)
    assert found.top1 == 4 / 6
    assert found.top5 is None
    assert found.per_class == (0.5, 1.0, 2 / 3, None)


def test_top_five_looks_at_five() -> None:
    top = [[0, 1, 2, 3, 4, 5], [1, 0, 2, 3, 4, 5], [5, 4, 3, 2, 1, 0]]
    found = accuracy(top, [0, 0, 0], classes=6)
    assert found.top1 == 1 / 3
    assert found.top5 == 2 / 3


def test_a_class_that_does_not_exist_is_no_label() -> None:
    with pytest.raises(AssertionError, match=r"\[0, 2\)"):
        accuracy([[0], [1]], [0, 2], classes=2)
