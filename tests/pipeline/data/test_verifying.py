"""Whatever is wrong with a data set is found and named: flipped, cut, missing and unlisted, each on its own."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pipeline.data.indices import ROW, ShardIndex, checksum_of, encode_index, parse_index
from pipeline.data.ingest import ingest, make_forms
from pipeline.data.manifest import MANIFEST_NAME, Manifest, load_manifest, save_manifest
from pipeline.data.shards import members
from pipeline.data.verifying import check_complete, verify, verify_shard
from pipeline.errors import UserError
from pipeline.objects import LocalObjects, StoreError, open_objects

SHARD, INDEX = "16-png/train-00001.tar", "16-png/train-00001.index"


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """A data set of 24 images in two forms: its files and their bytes."""
    folder = tmp_path_factory.mktemp("pristine")
    for number in range(24):
        pixels = np.random.default_rng(number).integers(0, 256, (16, 16, 3), dtype=np.uint8)
        path = folder / "tree" / "ab"[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)
    forms = make_forms([(16, "png"), (8, "raw")])
    ingest(folder / "tree", folder / "data", forms=forms, val_fraction=0.25, shard_size=6)
    paths = [path for path in (folder / "data").rglob("*") if path.is_file()]
    return {str(path.relative_to(folder / "data")): path.read_bytes() for path in paths}


@pytest.fixture
def data(tmp_path: Path, pristine: dict[str, bytes]) -> Path:
    """A copy to be damaged."""
    for name, content in pristine.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(content)
    return tmp_path


def test_a_good_data_set_has_no_faults(data: Path) -> None:
    calls: list[tuple[int, int]] = []
    found = verify(data, progress=lambda *call: calls.append(call))
    assert (found.faults, found.shards, found.manifest) == ([], 8, load_manifest(data))
    assert found.bytes == sum(path.stat().st_size for path in data.rglob("*.tar"))
    assert calls == [(done, 8) for done in range(1, 9)]
    check_complete(data, found.manifest)


def _places(shard: bytes) -> dict[str, int]:
    image, label, second, *_ = members(memoryview(shard), "shard")
    return {
        "header": 5,
        "checksum of a header": 150,
        "image": image.offset + image.length // 2,
        "padding": image.offset + image.length,
        "label": label.offset,
        "padding of a label": label.offset + 100,
        "second header": second.offset - 300,
        "end mark": len(shard) - 1,
    }


@pytest.mark.parametrize(
    "place",
    ["header", "checksum of a header", "image", "padding", "label", "padding of a label", "second header", "end mark"],
)
def test_a_flipped_bit_anywhere_in_a_shard_is_found(data: Path, place: str) -> None:
    content = bytearray((data / SHARD).read_bytes())
    content[_places(bytes(content))[place]] ^= 1
    (data / SHARD).write_bytes(content)
    damaged = 1 if place == "image" else 0
    expected = f"{damaged} of its 6 images differ from their checksums"
    assert verify(data).faults == [f"shard {SHARD} was altered: its sha256 is not the one in the manifest; {expected}"]


def test_a_hundred_random_flips_are_all_found(data: Path, pristine: dict[str, bytes]) -> None:
    dice = np.random.default_rng(0)
    names = [name for name in pristine if name != MANIFEST_NAME]
    for name in dice.choice(names, 100):
        content = bytearray(pristine[name])
        content[dice.integers(len(content))] ^= 1 << dice.integers(8)
        (data / name).write_bytes(content)
        (fault,) = verify(data).faults
        assert name in fault
        assert "was altered" in fault
        (data / name).write_bytes(pristine[name])


def test_a_shard_cut_anywhere_is_found(data: Path) -> None:
    whole = (data / SHARD).read_bytes()
    manifest = load_manifest(data)
    (shard,) = (one for one in manifest.shards("train", manifest.forms[0]) if one.name == SHARD)
    for size in range(0, len(whole), 256):
        (data / SHARD).write_bytes(whole[:size])
        with pytest.raises(UserError, match=rf"16-png/train-00001\.tar has {size} bytes instead of the {len(whole)}"):
            verify_shard(LocalObjects(data), manifest.forms[0], shard, 2)
        with pytest.raises(UserError, match=rf"{SHARD} .* has {size} bytes instead of the {len(whole)}"):
            check_complete(data, manifest)


@pytest.mark.parametrize("change", [lambda c: c[:-1], lambda c: c + b"\0", lambda c: b"", lambda c: c[:-24]])
def test_an_index_of_another_length_is_found(data: Path, change: Callable[[bytes], bytes]) -> None:
    (data / INDEX).write_bytes(change((data / INDEX).read_bytes()))
    (fault,) = verify(data).faults
    assert fault.startswith(f"the index {INDEX} was altered")


@pytest.mark.parametrize("name", [SHARD, INDEX])
def test_what_is_missing_is_found(data: Path, name: str) -> None:
    manifest = load_manifest(data)
    (data / name).unlink()
    (fault,) = verify(data).faults
    assert f"{data / name} is not there; ingest the data set again" in fault
    with pytest.raises(UserError, match=f"{name} of the data set .* is missing"):
        check_complete(data, manifest)


def test_what_is_not_listed_is_found_and_other_files_are_not_ours(data: Path) -> None:
    (data / "16-png" / "train-00009.tar").write_bytes((data / SHARD).read_bytes())
    (data / "4-raw").mkdir()
    (data / "4-raw" / "val-00000.index").write_bytes(b"")
    (data / "README").write_bytes(b"mine")
    assert verify(data).faults == [
        "16-png/train-00009.tar is not listed by the manifest; remove it",
        "4-raw/val-00000.index is not listed by the manifest; remove it",
    ]


def test_all_faults_are_told_in_the_order_of_the_manifest(data: Path) -> None:
    (data / "8-raw" / "val-00000.tar").write_bytes(b"")
    (data / INDEX).unlink()
    (data / "16-png" / "train-00000.tar").unlink()
    names = ["16-png/train-00000.tar", INDEX, "8-raw/val-00000.tar"]
    assert [name in fault for name, fault in zip(names, verify(data).faults, strict=True)] == [True] * 3


def test_without_a_manifest_or_with_an_altered_one_nothing_can_be_verified(data: Path) -> None:
    fields = json.loads((data / MANIFEST_NAME).read_text())
    fields["splits"]["train"]["counts"][0] += 1
    (data / MANIFEST_NAME).write_text(json.dumps(fields))
    with pytest.raises(UserError, match="was altered: its digest does not fit"):
        verify(data)
    (data / MANIFEST_NAME).unlink()
    with pytest.raises(UserError, match="there is no data set in"):
        verify(data)


def _rewritten(folder: Path, change: Callable[[bytes, ShardIndex], tuple[bytes, ShardIndex]]) -> None:
    """Let shard, index and manifest agree on something wrong, as a faulty writer would."""
    shard, index = change((folder / SHARD).read_bytes(), parse_index((folder / INDEX).read_bytes(), "index"))
    digest = hashlib.sha256(shard).hexdigest()
    index = ShardIndex(head=index.head.model_copy(update={"bytes": len(shard), "sha256": digest}), rows=index.rows)
    (folder / SHARD).write_bytes(shard)
    (folder / INDEX).write_bytes(encode_index(index))
    fields: dict[str, Any] = json.loads((folder / MANIFEST_NAME).read_text())
    columns = fields["splits"]["train"]["shards"]["16-png"]
    columns["bytes"][1], columns["sha256"][1] = len(shard), digest
    columns["index_sha256"][1] = hashlib.sha256(encode_index(index)).hexdigest()
    save_manifest(LocalObjects(folder), Manifest.model_validate(fields).sealed())


def _another_label(shard: bytes, index: ShardIndex) -> tuple[bytes, ShardIndex]:
    at = next(member for member in members(memoryview(shard), "") if member.suffix == "cls").offset
    return shard[:at] + (b"1" if shard[at : at + 1] == b"0" else b"0") + shard[at + 1 :], index


def _another_checksum(shard: bytes, index: ShardIndex) -> tuple[bytes, ShardIndex]:
    rows = index.rows.copy()
    rows["checksum"][2] ^= 1
    return shard, ShardIndex(head=index.head, rows=rows)


def _another_place(shard: bytes, index: ShardIndex) -> tuple[bytes, ShardIndex]:
    rows = index.rows.copy()
    rows["offset"][1] += 1
    rows["checksum"][1] = checksum_of(shard[rows["offset"][1] : rows["offset"][1] + rows["length"][1]])
    return shard, ShardIndex(head=index.head, rows=rows)


def _one_more(shard: bytes, index: ShardIndex) -> tuple[bytes, ShardIndex]:
    buffer = io.BytesIO(shard)
    with tarfile.open(fileobj=buffer, mode="a", format=tarfile.USTAR_FORMAT) as archive:
        archive.addfile(tarfile.TarInfo("extra.png"))
    return buffer.getvalue(), index


def _swapped(shard: bytes, index: ShardIndex) -> tuple[bytes, ShardIndex]:
    buffer, source = io.BytesIO(), io.BytesIO(shard)
    with (
        tarfile.open(fileobj=source) as old,
        tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as new,
    ):
        for member in old.getmembers()[::-1]:
            new.addfile(member, old.extractfile(member))
    return buffer.getvalue(), index


def _name_of_another(shard: bytes, index: ShardIndex) -> tuple[bytes, ShardIndex]:
    head = index.head.model_copy(update={"shard": "16-png/train-00002.tar"})
    return shard, ShardIndex(head=head, rows=index.rows)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_another_label, r"holds b'[01]', and its index [01]"),
        (_another_checksum, r"the checksum of [0-9]{8}\.png does not fit"),
        (_another_place, r"its index does not point at [0-9]{8}\.png"),
        (_one_more, "holds 13 members instead of 12"),
        (_swapped, r"is not followed by [0-9]{8}\.cls"),
        (_name_of_another, r"is that of 16-png/train-00002\.tar"),
    ],
)
def test_what_a_faulty_writer_would_write_is_found(data: Path, change: Any, message: str) -> None:
    _rewritten(data, change)
    (fault,) = verify(data).faults
    assert fault.startswith((f"shard {SHARD}", f"the index {INDEX}"))
    with pytest.raises(UserError, match=message):
        raise UserError(fault)
    assert parse_index((data / INDEX).read_bytes(), "index").rows.dtype == ROW


@pytest.mark.s3
def test_a_data_set_in_a_bucket_is_verified_and_an_outage_is_no_fault(
    data: Path, pristine: dict[str, bytes], s3_store: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = f"s3://{s3_store.bucket()}/set"
    objects = open_objects(address)
    for name, content in pristine.items():
        objects.write(name, content)
    assert verify(address).faults == []
    objects.write(SHARD, pristine[SHARD][:-1] + b"x")
    objects.remove(INDEX.replace("1.index", "0.index"))
    first, second = verify(address).faults
    assert "16-png/train-00000.index is not there" in first
    assert f"shard {SHARD} was altered" in second
    monkeypatch.setattr(type(objects), "size", _outage)
    with pytest.raises(StoreError):
        verify(address)


def _outage(objects: Any, name: str) -> int:
    raise StoreError(f"{name}: gave up")
