"""The data nodes of the graph: a data set drawn, ingested or pointed to."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pipeline.dag import Task
from pipeline.data.ingest import ingest, ingest_drawn
from pipeline.data.loading import Examples

SHARD_SIZE = 5000


def make_data(task: Task) -> dict[str, Any]:
    """Graph node: the data set as shards, in the result's folder ``shards``."""
    dest = task.out / "shards"
    config = dict(task.config)
    progress = task.progress
    if config["kind"] == "drawn":
        manifest = ingest_drawn(
            dest,
            seed=config["seed"],
            size=config["size"],
            train=config["train"],
            val=config["val"],
            shard_size=SHARD_SIZE,
            progress=lambda done, total: progress(done, total or done),
        )
    else:
        manifest = ingest(
            task.context["source"],
            dest,
            size=config["size"],
            val_fraction=config["val_fraction"],
            shard_size=SHARD_SIZE,
            progress=lambda done, total: progress(done, total or done),
        )
    return {
        "train": manifest.splits["train"].examples,
        "val": manifest.splits["val"].examples,
        "classes": len(manifest.classes),
        "undecodable": len(manifest.undecodable),
    }


def link_data(task: Task) -> dict[str, Any]:
    """Graph node: a data set that ``rayfall ingest`` made elsewhere; the result only points to it."""
    path = Path(task.context["path"]).resolve()
    examples = Examples(path, "train", cache_bytes=0)
    (task.out / "location.json").write_text(json.dumps({"path": str(path)}))
    return {"train": len(examples), "classes": len(examples.classes)}


def data_folder(result: Path) -> Path:
    """The folder of shards that a data node's ``result`` stands for."""
    location = result / "location.json"
    return Path(json.loads(location.read_text())["path"]) if location.exists() else result / "shards"
