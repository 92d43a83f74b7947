"""Whether the data is where the experiment says. Nothing is hashed or decoded: ingesting checks that."""

from __future__ import annotations

from pipeline.data.specs import DrawnData, ImageData, ShardData
from pipeline.doctor.findings import Trouble
from pipeline.doctor.stores import open_store


def check_data(data: DrawnData | ImageData | ShardData) -> str:
    """Look at the data set's manifest and a shard, or at the source of images. Raises UserError."""
    if isinstance(data, DrawnData):
        return "drawn by Rayfall itself"
    if isinstance(data, ShardData):
        return _check_shards(str(data.path))
    from pipeline.data.source_files import locate, walk

    place = locate(str(data.source))
    objects = open_store(place.address)
    if place.where:
        size = objects.size(place.where)
        if size is None:
            raise Trouble(f"{place.address}/{place.where} is not there; correct data.source")
        objects.read_range(place.where, 0, min(size, 512))
        return f"{place.name}: {size / 1e9:.2f} GB"
    entries = list(walk(place.address))
    if not entries:
        raise Trouble(f"{place.address} holds no files; correct data.source")
    return f"{place.name}: {len(entries)} files"


def _check_shards(path: str) -> str:
    from pipeline.data.manifest import load_manifest

    manifest = load_manifest(path)
    objects = open_store(path)
    name, size = next(((name, size) for name, size in objects.names() if name.endswith(".tar")), ("", 0))
    if not name:
        raise Trouble(f"{path} has a manifest and no shards; copy them there, too")
    objects.read_range(name, 0, min(size, 512))
    return f"{path}: {len(manifest.classes)} classes"
