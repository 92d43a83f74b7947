"""The figures that judge a shuffle are 1 for a full permutation and say what a window costs."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.data.ordering import ExampleOrder
from pipeline.data.shuffle_quality import quality_of

LABELS = np.random.default_rng(0).integers(10, size=64 * 50)


def test_a_full_permutation_is_the_unit() -> None:
    quality = quality_of(ExampleOrder([50] * 64, seed=0, stage="a", window=64), LABELS, 64, epochs=4)
    assert quality.together == pytest.approx(1.0, abs=0.1)
    assert quality.spread == pytest.approx(1.0, abs=0.2)


def test_a_window_keeps_examples_of_a_shard_together_as_often_as_it_is_small() -> None:
    """Within w of n shards, two examples of a batch share a shard n / w times as often (batches inside a window)."""
    for window in (4, 16):
        order = ExampleOrder([50] * 64, seed=0, stage="a", window=window)
        assert quality_of(order, LABELS, 25, epochs=4).together == pytest.approx(64 / window, rel=0.1)


def test_lanes_mix_as_many_windows_as_there_are() -> None:
    one = quality_of(ExampleOrder([50] * 64, seed=0, stage="a", window=4, lanes=1), LABELS, 64)
    eight = quality_of(ExampleOrder([50] * 64, seed=0, stage="a", window=4, lanes=8), LABELS, 64)
    assert eight.together < one.together / 4


def test_batches_of_one_class_each_are_seen_in_the_spread() -> None:
    """What shards in the order of the classes would give, without any shuffle across them."""
    labels = np.repeat(np.arange(64), 50)
    order = ExampleOrder([50] * 64, seed=0, stage="a", window=1)
    assert quality_of(order, labels, 50).spread > 5
