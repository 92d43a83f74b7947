"""The data nodes of the graph: a data set drawn, ingested or pointed to; and how the other nodes open it."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any, NamedTuple

from pipeline.dag import Task
from pipeline.data.cache import ShardCache
from pipeline.data.forms import Reduction
from pipeline.data.ingest import ingest, ingest_drawn, make_forms
from pipeline.data.loading import Examples
from pipeline.data.manifest import MANIFEST_NAME, Manifest, SplitName, load_manifest
from pipeline.data.verifying import check_complete
from pipeline.fan_out import FanOut, in_turn, on_ray
from pipeline.objects import LocalObjects, Objects

LOCATION = "location.json"


class Place(NamedTuple):
    """Where a data set lies, and how its images are brought to smaller sizes."""

    address: str
    reduction: Reduction


def make_data(task: Task) -> dict[str, Any]:
    """Graph node: the data set as shards, in the result's folder ``shards``.

    Shards grow in the task's scratch, which all workers see: what a killed driver had published is there when the node
    is started again.
    """
    objects = task.storage.objects(f"{task.scratch}/shards")
    dest = objects.address
    config = dict(task.config)
    forms = make_forms([(config["size"], config["encoding"])])
    if config["kind"] == "drawn":
        manifest = ingest_drawn(
            dest,
            seed=config["seed"],
            forms=forms,
            train=config["train"],
            val=config["val"],
            shard_size=config["shard_size"],
            fan_out=_fan_out(),
            progress=task.progress,
        )
    else:
        manifest = ingest(
            task.context["source"],
            dest,
            forms=forms,
            val_fraction=config["val_fraction"],
            shard_size=config["shard_size"],
            max_undecodable=task.context["max_undecodable"],
            fan_out=_fan_out(),
            progress=task.progress,
        )
    take_shards(objects, manifest, task.out / "shards")
    return _summary(manifest)


def take_shards(objects: Objects, manifest: Manifest, out: Path) -> None:
    """The finished set in ``objects`` as files below ``out``: links where it lies in a folder, so that bytes are stored
    once, and copies of a bucket's."""
    folders = {f"{form.name}/" for form in manifest.forms}
    for name, _ in objects.names():
        if name != MANIFEST_NAME and not any(name.startswith(folder) for folder in folders):
            continue  # what the writing of the set needed
        target = out / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(objects, LocalObjects):
            os.link(objects.path(name), target)
        else:
            objects.fetch(name, target)


def link_data(task: Task) -> dict[str, Any]:
    """Graph node: a data set that ``rayfall ingest`` made elsewhere; the result only points to it.

    Every shard and index is looked for once, when the address is first named; later, reading refuses what is missing.
    """
    place = Place(task.config["path"], task.config["reduction"])
    manifest = load_manifest(place.address)
    check_complete(place.address, manifest)
    (task.out / LOCATION).write_text(json.dumps(place._asdict()))
    return _summary(manifest)


def _summary(manifest: Manifest) -> dict[str, Any]:
    return {
        "train": manifest.splits["train"].examples,
        "val": manifest.splits["val"].examples,
        "classes": len(manifest.classes),
        "undecodable": len(manifest.undecodable),
    }


def _fan_out() -> FanOut:
    """Tasks of their own where the node itself runs as one."""
    ray = sys.modules.get("ray")
    return on_ray(name="ingest") if ray is not None and ray.is_initialized() else in_turn


# Of a result, what says where its data set lies and what is in it.
MANIFEST_PART = (LOCATION, f"shards/{MANIFEST_NAME}")


def data_place(result: Path) -> Place:
    """Where the data set lies that a data node's ``result`` stands for; its ``MANIFEST_PART`` is enough."""
    location = result / LOCATION
    if location.exists():
        return Place(**json.loads(location.read_text()))
    return Place(str(result / "shards"), "box")


def open_examples(
    result: Path,
    split: SplitName,
    *,
    size: int | None = None,
    cache: ShardCache | None = None,
    keep_bytes: int = 1 << 30,
) -> Examples:
    """The examples of a split of a data node's ``result``, at ``size`` px (None: as stored).

    Without ``cache`` remote shards are read in ranges, which suits who reads little of them.
    """
    address, reduction = data_place(result)
    return Examples(address, split, size=size, reduction=reduction, cache=cache, keep_bytes=keep_bytes)
