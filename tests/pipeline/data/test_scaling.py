"""The table for clusters is arithmetic: it is checked against a reckoning by hand."""

from __future__ import annotations

import pytest

from pipeline.data.scaling import Cluster, Measured, Stored, need

FORM = Stored("256-jpeg", bytes_per_image=30_000, images_per_core_second=3000)
START = Measured(manifest_bytes_per_shard=150, manifest_seconds_per_shard=3e-6, order_seconds=0.1)


def test_imagenet_on_64_gpus() -> None:
    found = need("ImageNet", 1_280_000, 5000, FORM, START, Cluster(64, 600))
    assert found.images_per_second == 38_400
    assert found.cores_per_node == pytest.approx(8 * 600 / 3000)
    assert found.node_mb_per_second == pytest.approx(8 * 600 * 0.03)
    assert found.store_gb_per_second == pytest.approx(38_400 * 30e-6)
    # 256 shards over 8 nodes are 32 a node: fewer than three windows of 16.
    assert found.window_gb_per_node == pytest.approx(32 * 5000 * 30e-6)
    assert found.set_gb == pytest.approx(1_280_000 * 30e-6)
    assert found.manifest_mb == pytest.approx(256 * 150e-6)
    assert found.epoch_hours == pytest.approx(1_280_000 / 38_400 / 3600)


def test_what_a_node_needs_does_not_grow_with_the_cluster() -> None:
    small, large = (need("many", 10**9, 1000, FORM, START, Cluster(gpus, 600)) for gpus in (8, 512))
    assert small.cores_per_node == large.cores_per_node
    assert small.node_mb_per_second == large.node_mb_per_second
    assert small.window_gb_per_node == large.window_gb_per_node == pytest.approx(48 * 1000 * 30e-6)
    assert large.start_seconds == pytest.approx(10**6 * 3e-6 + 0.1)
