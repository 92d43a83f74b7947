"""The manifest: round trip, digest, every way in which it can be unfit, and a million shards."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from pipeline.data.manifest import (
    MANIFEST_NAME,
    Form,
    Manifest,
    Shard,
    ShardColumns,
    Source,
    Split,
    digest_of,
    is_ours,
    load_manifest,
    save_manifest,
    shard_name,
)
from pipeline.errors import UserError
from pipeline.objects import LocalObjects

JPEG, RAW = {"size": 16, "encoding": "jpeg", "quality": 90}, {"size": 8, "encoding": "raw", "quality": None}


def _columns(*sizes: int) -> dict[str, list[Any]]:
    return {
        "bytes": list(sizes),
        "sha256": [f"{size:064x}" for size in sizes],
        "index_sha256": [f"{size + 1:064x}" for size in sizes],
    }


def _fields() -> dict[str, Any]:
    return {
        "format": 2,
        "classes": ["cat", "größe"],
        "resize": "some way",
        "forms": [JPEG, RAW],
        "source": {"kind": "folder", "name": "tree", "lossy": True, "fingerprint": "a" * 64},
        "request": {"val_fraction": 0.1, "shard_size": 5},
        "splits": {
            "train": {"counts": [5, 2], "shards": {"16-jpeg": _columns(70, 40), "8-raw": _columns(50, 20)}},
            "val": {"counts": [2], "shards": {"16-jpeg": _columns(30), "8-raw": _columns(10)}},
        },
        "undecodable": [{"name": "x.txt", "reason": "no image"}],
    }


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_manifest(LocalObjects(tmp_path), Manifest.model_validate(_fields()).sealed())
    return tmp_path


def test_a_manifest_comes_back_as_it_was_saved(folder: Path) -> None:
    manifest = load_manifest(folder)
    assert manifest == load_manifest(str(folder))
    assert manifest.model_dump(mode="json") == {**_fields(), "digest": manifest.digest}
    assert [path.name for path in folder.iterdir()] == [MANIFEST_NAME]
    assert manifest.image_size == 16
    assert {name: split.examples for name, split in manifest.splits.items()} == {"train": 7, "val": 2}


def test_shards_are_rows_of_the_columns(folder: Path) -> None:
    manifest = load_manifest(folder)
    shards = manifest.shards("train", manifest.forms[1])
    second = Shard("8-raw/train-00001.tar", 20, f"{20:064x}", 2, f"{21:064x}")
    assert list(shards) == [Shard("8-raw/train-00000.tar", 50, f"{50:064x}", 5, f"{51:064x}"), second]
    assert (len(shards), shards[-1], shards[1:], second in shards) == (2, second, [second], True)
    assert second.index_name == "8-raw/train-00001.index"
    with pytest.raises(IndexError):
        shards[2]


def test_names_are_recognised_and_only_ours() -> None:
    form = Form(size=64, encoding="webp")
    assert shard_name(form, "val", 123_456) == "64-webp/val-123456.tar"
    for name in ("64-webp/val-123456.tar", "64-webp/val-00000.index"):
        assert is_ours(name)
    for name in ("val-00000.tar", "64-webp/test-00000.tar", "64-gif/val-00000.tar", "x/64-webp/val-00000.tar"):
        assert not is_ours(name)


def test_the_digest_covers_every_field_but_itself_and_no_order(folder: Path) -> None:
    fields = json.loads((folder / MANIFEST_NAME).read_text())
    assert digest_of({**fields, "digest": "other"}) == fields["digest"]
    assert digest_of(dict(reversed(fields.items()))) == fields["digest"]
    for key in set(fields) - {"digest"}:
        assert digest_of({**fields, key: "other"}) != fields["digest"]


@pytest.mark.parametrize(
    "change",
    [
        lambda fields: fields["forms"][0].update(quality=91),
        lambda fields: fields["classes"].append("zebra"),
        lambda fields: fields["splits"]["train"]["shards"]["8-raw"]["sha256"].__setitem__(0, "1" * 64),
        lambda fields: fields["splits"]["train"]["counts"].__setitem__(0, 6),
        lambda fields: fields["undecodable"].clear(),
        lambda fields: fields.update(digest="0" * 64),
    ],
)
def test_an_altered_manifest_is_refused(folder: Path, change: Any) -> None:
    file = folder / MANIFEST_NAME
    fields = json.loads(file.read_text())
    change(fields)
    file.write_text(json.dumps(fields))
    with pytest.raises(UserError, match="was altered"):
        load_manifest(folder)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"", "is not a manifest: Expecting value"),
        (b"[]", "is a manifest of format None, and this version reads 2"),
        (b'{"format": 1}', "is a manifest of format 1, and this version reads 2"),
        (b'{"format": 2}', "is not a manifest of this version: classes"),
        ("größe".encode("latin-1"), "is not a manifest: 'utf-8' codec"),
        (json.dumps({**_fields(), "extra": 2}).encode(), "is not a manifest of this version: extra"),
        (json.dumps({**_fields(), "request": {"val_fraction": float("nan")}}).encode(), "is not a manifest: Out of"),
    ],
)
def test_what_is_no_manifest_is_refused(folder: Path, text: bytes, message: str) -> None:
    (folder / MANIFEST_NAME).write_bytes(text)
    with pytest.raises(UserError, match=message):
        load_manifest(folder)


def test_any_flipped_byte_of_a_manifest_is_noticed(folder: Path) -> None:
    file = folder / MANIFEST_NAME
    whole = file.read_bytes()
    for place in range(0, len(whole) - 1, 7):  # the last byte ends the line
        file.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with pytest.raises(UserError, match=MANIFEST_NAME):
            load_manifest(folder)


def test_a_folder_without_a_manifest_is_no_data_set(tmp_path: Path) -> None:
    for place in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(UserError, match=f"there is no data set in {place}"):
            load_manifest(place)


@pytest.mark.parametrize(
    "change",
    [
        lambda fields: fields.update(classes=["b", "a"]),
        lambda fields: fields.update(classes=["a", "a"]),
        lambda fields: fields.update(classes=[]),
        lambda fields: fields["splits"].pop("val"),
        lambda fields: fields["splits"]["val"]["shards"].pop("8-raw"),
        lambda fields: fields["splits"]["val"]["shards"].update({"4-png": _columns(3)}),
        lambda fields: fields["splits"]["val"]["counts"].append(3),
        lambda fields: fields["splits"]["val"]["shards"]["8-raw"]["bytes"].clear(),
        lambda fields: fields["splits"]["val"]["shards"]["8-raw"]["sha256"].__setitem__(0, "../x"),
        lambda fields: fields["forms"].reverse(),
        lambda fields: fields["forms"].append(RAW),
        lambda fields: fields["forms"].clear(),
        lambda fields: fields["forms"][0].update(quality=None),
        lambda fields: fields["forms"][1].update(quality=90),
    ],
)
def test_a_manifest_that_contradicts_itself_is_refused(change: Any) -> None:
    fields = json.loads(json.dumps(_fields()))
    change(fields)
    with pytest.raises(ValidationError):
        Manifest.model_validate(fields)


def test_reading_a_manifest_needs_neither_numpy_nor_torch() -> None:
    code = "import sys, pipeline.data.manifest; print({'numpy', 'torch', 'ray', 'PIL', 'boto3'} & set(sys.modules))"
    root = Path(__file__).parents[3]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


@pytest.mark.slow
def test_a_million_shards_are_a_matter_of_seconds(tmp_path: Path, record_property: Any) -> None:
    """Five billion images in shards of 5000; what is measured goes to the report of the tests (-rA shows it)."""
    count = 1_000_000
    digests = tuple(hashlib.sha256(b"%d" % number).hexdigest() for number in range(count))
    columns = ShardColumns(bytes=tuple(range(count)), sha256=digests, index_sha256=digests[::-1])
    none = ShardColumns(bytes=(), sha256=(), index_sha256=())
    manifest = Manifest(
        classes=("a",),
        resize="none",
        forms=(Form(size=256, encoding="raw"),),
        source=Source(kind="folder", name="test", lossy=True, fingerprint="0" * 64),
        request={},
        splits={
            "train": Split(counts=(5000,) * count, shards={"256-raw": columns}),
            "val": Split(counts=(), shards={"256-raw": none}),
        },
    ).sealed()
    save_manifest(LocalObjects(tmp_path), manifest)
    began = time.perf_counter()
    loaded = load_manifest(tmp_path)
    seconds = time.perf_counter() - began
    size = (tmp_path / MANIFEST_NAME).stat().st_size
    record_property("manifest of a million shards", f"{size / 1e6:.0f} MB, loaded in {seconds:.1f} s")
    assert loaded == manifest
    assert size < 150 * count
    assert seconds < 30  # two on an idle core
    shards = loaded.shards("train", loaded.forms[0])
    last = Shard("256-raw/train-999999.tar", count - 1, digests[-1], 5000, digests[0])
    assert (len(shards), shards[-1], loaded.splits["train"].examples) == (count, last, 5000 * count)
