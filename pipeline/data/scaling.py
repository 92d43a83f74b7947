"""What a data set needs on a cluster, from what was measured on one core: bandwidth, cores, cache, start-up.

Arithmetic on figures that the benchmark has just measured, and on an assumption that stands in the table's head: how
many images a GPU trains on per second. Nothing here was run on so many GPUs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple


@dataclass(frozen=True)
class Stored:
    """A form as the benchmark found it."""

    name: str
    bytes_per_image: float
    images_per_core_second: float


@dataclass(frozen=True)
class Measured:
    """Start-up figures of one core, and what a shard takes in the manifest."""

    manifest_bytes_per_shard: float
    manifest_seconds_per_shard: float
    order_seconds: float  # the first batch of a million shards, the order alone


@dataclass(frozen=True)
class Cluster:
    """Who reads: nodes of eight GPUs, and how fast one GPU takes images."""

    gpus: int
    images_per_gpu_second: float
    gpus_per_node: int = 8

    @property
    def nodes(self) -> int:
        return max(1, self.gpus // self.gpus_per_node)


class Need(NamedTuple):
    """What one node, or the job as a whole, needs."""

    set_name: str
    form: str
    gpus: int
    images_per_second: float  # the whole job
    cores_per_node: float  # decoding
    node_mb_per_second: float  # what a node reads from the store until its cache is warm
    store_gb_per_second: float  # all nodes
    window_gb_per_node: float  # shards that a node has in use or fetches ahead: the least cache
    set_gb: float  # the cache of a node that fetches nothing a second time: shards change nodes from epoch to epoch
    manifest_mb: float
    start_seconds: float  # manifest and order, per process; the order's part is that of a million shards, at most
    epoch_hours: float


def need(
    set_name: str, images: int, shard_images: int, form: Stored, measured: Measured, cluster: Cluster, window: int = 16
) -> Need:
    """The needs of one data set in one form on one cluster, with as many lanes as nodes (each reads its own share)."""
    rate = cluster.gpus * cluster.images_per_gpu_second
    shards = images / shard_images
    per_node = rate / cluster.nodes
    shard_bytes = shard_images * form.bytes_per_image
    windows = 3  # one in use, two ahead
    in_use = min(windows * window, shards / cluster.nodes)
    return Need(
        set_name=set_name,
        form=form.name,
        gpus=cluster.gpus,
        images_per_second=rate,
        cores_per_node=per_node / form.images_per_core_second,
        node_mb_per_second=per_node * form.bytes_per_image / 1e6,
        store_gb_per_second=rate * form.bytes_per_image / 1e9,
        window_gb_per_node=in_use * shard_bytes / 1e9,
        set_gb=images * form.bytes_per_image / 1e9,
        manifest_mb=shards * measured.manifest_bytes_per_shard / 1e6,
        start_seconds=shards * measured.manifest_seconds_per_shard + measured.order_seconds,
        epoch_hours=images / rate / 3600,
    )
