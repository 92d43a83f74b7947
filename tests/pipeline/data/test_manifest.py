"""The manifest: round trip, digest, and every way in which a data set can be unfit."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from pipeline.data.manifest import MANIFEST_NAME, Manifest, digest_of, load_manifest, save_manifest
from pipeline.errors import UserError


def _fields() -> dict[str, Any]:
    shards = {
        split: {"name": f"{split}-00000.tar", "bytes": 3, "sha256": "0" * 64, "examples": count}
        for split, count in (("train", 5), ("val", 2))
    }
    return {
        "format": 1,
        "classes": ["cat", "größe"],
        "image_size": 8,
        "resize": "some way",
        "encoding": "png",
        "source": {"kind": "folder", "name": "tree", "lossy": True, "fingerprint": "a" * 64},
        "request": {"val_fraction": 0.1, "shard_size": 5},
        "splits": {split: {"examples": entry["examples"], "shards": [entry]} for split, entry in shards.items()},
        "undecodable": [{"name": "x.txt", "reason": "no image"}],
    }


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for split in ("train", "val"):
        (tmp_path / f"{split}-00000.tar").write_bytes(b"tar")
    save_manifest(tmp_path, Manifest.model_validate(_fields()).sealed())
    return tmp_path


def test_a_manifest_comes_back_as_it_was_saved(folder: Path) -> None:
    manifest = load_manifest(folder)
    assert manifest == load_manifest(str(folder / MANIFEST_NAME))
    assert manifest.model_dump(mode="json") == {**_fields(), "digest": manifest.digest}
    assert sorted(path.name for path in folder.iterdir()) == [
        MANIFEST_NAME,
        "train-00000.tar",
        "val-00000.tar",
    ]


def test_the_digest_covers_every_field_but_itself_and_no_order(folder: Path) -> None:
    fields = json.loads((folder / MANIFEST_NAME).read_text())
    assert digest_of({**fields, "digest": "other"}) == fields["digest"]
    assert digest_of(dict(reversed(fields.items()))) == fields["digest"]
    for key in set(fields) - {"digest"}:
        assert digest_of({**fields, key: "other"}) != fields["digest"]


@pytest.mark.parametrize(
    "change",
    [
        lambda fields: fields.update(image_size=9),
        lambda fields: fields["classes"].append("zebra"),
        lambda fields: fields["splits"]["train"]["shards"][0].update(sha256="1" * 64),
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
        ("", "is not a manifest: Expecting value"),
        ("[]", "is not a manifest of this version"),
        ("{}", "is not a manifest of this version: classes"),
        ("größe", "cannot be read as a manifest"),
        (json.dumps({**_fields(), "format": 2}), "is not a manifest of this version: format"),
        (json.dumps({**_fields(), "extra": 2}), "is not a manifest of this version: extra"),
    ],
)
def test_what_is_no_manifest_is_refused(folder: Path, text: str, message: str) -> None:
    (folder / MANIFEST_NAME).write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=message):
        load_manifest(folder)


def test_a_folder_without_a_manifest_is_no_data_set(tmp_path: Path) -> None:
    for place in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(UserError, match=f"there is no data set in {place}"):
            load_manifest(place)


def test_a_missing_shard_is_named(folder: Path) -> None:
    (folder / "val-00000.tar").unlink()
    with pytest.raises(UserError, match=r"shard val-00000\.tar of the data set .* is missing"):
        load_manifest(folder)


def test_a_shard_of_another_size_is_named(folder: Path) -> None:
    (folder / "train-00000.tar").write_bytes(b"longer")
    with pytest.raises(UserError, match=r"shard train-00000\.tar .* has 6 bytes instead of the 3"):
        load_manifest(folder)


@pytest.mark.parametrize(
    "name", ["../train-00000.tar", "/train-00000.tar", "train.tar", "train-00000.tar\n", "val-00000.tar"]
)
def test_a_shard_listed_under_a_wrong_name_is_refused(name: str) -> None:
    fields = _fields()
    fields["splits"]["train"]["shards"][0]["name"] = name
    with pytest.raises(ValidationError):
        Manifest.model_validate(fields)


@pytest.mark.parametrize(
    "change",
    [
        lambda fields: fields.update(classes=["b", "a"]),
        lambda fields: fields.update(classes=["a", "a"]),
        lambda fields: fields.update(classes=[]),
        lambda fields: fields["splits"].pop("val"),
        lambda fields: fields["splits"]["val"].update(examples=3),
    ],
)
def test_a_manifest_that_contradicts_itself_is_refused(change: Any) -> None:
    fields = _fields()
    change(fields)
    with pytest.raises(ValidationError):
        Manifest.model_validate(fields)


def test_reading_a_manifest_needs_neither_numpy_nor_torch() -> None:
    code = "import sys, pipeline.data.manifest; print({'numpy', 'torch', 'ray', 'PIL'} & set(sys.modules))"
    root = Path(__file__).parents[3]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
